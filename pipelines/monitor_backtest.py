"""Backtest of the monitor: the year again, with known changes made in it, on each half of the entities by itself.

What is usual is learnt in the weeks before the trials and not touched after.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from multiprocessing import get_context
from pathlib import Path

from pipelines import monitor_backtest_concept as concept
from pipelines.backtest import weekly
from pipelines.monitor_backtest_data import Found, Half, Sample, judge_trial, open_half, paged, read_trial
from pipelines.monitor_backtest_features import FeatureTrial, build_nights, false_faults, read_night, try_faults
from pipelines.monitor_backtest_rules import alarms
from pipelines.monitor_backtest_scores import walk_scores
from pipelines.settings import Settings
from pipelines.shifts import find_shifts
from pipelines.use_case import UseCase

Progress = Callable[[str, int, int], None]
CHAMPION_WEEKS, CHAMPIONS = 8, 4


@dataclass(frozen=True)
class Plan:
    """When is learnt and when is tried; weeks end on Sundays, as the first and last date do."""

    first: date
    learnt_until: date
    last: date
    onsets: tuple[date, ...]
    first_champion: date
    seeds: int
    with_tools: bool = True

    @property
    def weeks(self) -> list[date]:
        """Last days of the weeks in which trials are judged."""
        return weekly(self.learnt_until + timedelta(days=7), self.last)


@dataclass
class HalfReport:
    """What the monitor made of one half of the entities."""

    name: str
    entities: int
    nights: int = 0
    pages: list[date] = field(default_factory=list)
    figure_weeks: int = 0
    false_figure_weeks: int = 0
    found: list[Found] = field(default_factory=list)
    features: list[FeatureTrial] = field(default_factory=list)
    false_features: tuple[int, int] = (0, 0)
    concept_pages: list[date] = field(default_factory=list)
    tools: dict[str, dict[str, list[bool]]] = field(default_factory=dict)
    detectable: dict[str, tuple[float, float]] = field(default_factory=dict)


def plan_year(seeds: int) -> Plan:
    """Weeks 1 to 24 teach, 25 to 52 are tried: the year of the packaged data."""
    onsets = tuple(date(2017, 6, 19) + timedelta(weeks=5 * number) for number in range(5))
    return Plan(date(2017, 1, 1), date(2017, 6, 11), date(2017, 12, 24), onsets, date(2017, 4, 23), seeds)


def champions_of(plan: Plan) -> dict[date, list[date]]:
    """Score dates by the date on which their champion is trained; the last serves to the end."""
    starts = [plan.first_champion + timedelta(weeks=CHAMPION_WEEKS * number) for number in range(CHAMPIONS)]
    days = weekly(plan.first_champion, plan.last)
    return {start: [day for day in days if start == max(one for one in starts if one <= day)] for start in starts}


def evaluate(
    settings: Settings,
    use_case: UseCase,
    plan: Plan,
    halves: Sequence[int],
    jobs: int = 1,
    progress: Progress = lambda *_: None,
) -> list[HalfReport]:
    """Replay the year on these halves; features, labels and scores that are missing are built and kept.

    Raises:
        MissingPartition: the year was not ingested.
    """
    files = walk_scores(settings, use_case, champions_of(plan), progress)
    for onset in plan.onsets[1::2]:
        build_nights(settings, use_case, onset)
    alone = settings.model_copy(update={"threads": max(1, settings.threads // min(jobs, len(halves)))})
    tasks = [(alone, use_case, plan, number, files) for number in halves]
    if min(jobs, len(halves)) == 1:
        return [evaluate_half(*task, progress) for task in tasks]
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        running = [pool.submit(evaluate_half, *task) for task in tasks]
        reports = []
        for done, one in enumerate(running, start=1):
            reports.append(one.result())
            progress("halves", done, len(running))
        return reports


def evaluate_half(
    settings: Settings,
    use_case: UseCase,
    plan: Plan,
    number: int,
    files: Mapping[date, Path],
    progress: Progress = lambda *_: None,
) -> HalfReport:
    """Replay the year on one half."""
    last_dates = weekly(plan.first, plan.last)
    with open_half(settings, use_case, number, last_dates, plan.learnt_until) as half:
        report = HalfReport(half.name, len(half.windows.entities))
        samples = [half.drawn(seed) for seed in range(plan.seeds)]
        _untouched(half, samples, plan, report)
        _trials(half, samples, plan, report, progress)
        _concept(half, plan, files, report)
    for phase in range(7):
        with open_half(settings, use_case, number, _shifted(last_dates, phase), plan.learnt_until) as nightly:
            _nights(nightly, plan, report)
        progress(f"nights, half {half.name}", phase + 1, 7)
    nights = [read_night(settings, use_case, number, onset) for onset in plan.onsets[1::2]]
    report.features = [trial for night in nights for trial in try_faults(use_case, night, plan.seeds)]
    report.false_features = false_faults(use_case, nights)
    report.pages = _incidents(report.pages)
    return report


def _shifted(last_dates: Sequence[date], phase: int) -> list[date]:
    """The same windows some days earlier, so that the seven phases hold every night."""
    return [day - timedelta(days=phase) for day in last_dates[1:]]


def _untouched(half: Half, samples: Sequence[Sample], plan: Plan, report: HalfReport) -> None:
    """Count the figures of untouched weeks that would be paged for, in the entities as they are and in bootstraps."""
    for sample in samples:
        for week in plan.weeks:
            shifts = sample.look(half.use_case, week)
            report.figure_weeks += len(shifts)
            report.false_figure_weeks += len(paged(shifts))
    for shift in samples[0].look(half.use_case, plan.weeks[0]):
        report.detectable[f"{shift.signal} {shift.slice}"] = (shift.reference, shift.detectable)
    if plan.with_tools:
        before = [day for day in half.windows.last_dates if day <= plan.learnt_until]
        for place, week in enumerate(plan.weeks):
            _tell(report, "untouched weeks", alarms(half.windows, [*before, *plan.weeks[:place]], half.windows, week))


def _trials(half: Half, samples: Sequence[Sample], plan: Plan, report: HalfReport, progress: Progress) -> None:
    trials = half.use_case.trials
    for done, trial in enumerate(trials, start=1):
        for onset in plan.onsets:
            if onset + timedelta(weeks=trial.weeks) > plan.last + timedelta(days=1):
                continue
            changed = read_trial(half, trial, onset, 0)
            if plan.with_tools and trial.weeks <= 3:
                before = [day for day in half.windows.last_dates if day < onset]
                _tell(
                    report, f"{trial.name} {trial.size}", alarms(half.windows, before, changed, changed.last_dates[1])
                )
            for seed, sample in enumerate(samples):
                # What is drawn differs by seed; the rest is tried on bootstraps of the entities.
                drawn = read_trial(half, trial, onset, seed) if trial.is_drawn and seed else changed
                chosen = samples[0] if trial.is_drawn else sample
                report.found.append(judge_trial(half, chosen, trial, drawn, onset, seed))
        progress(f"trials, half {half.name}", done, len(trials))


def _tell(report: HalfReport, row: str, told: Mapping[str, bool]) -> None:
    for rule, is_alarm in told.items():
        report.tools.setdefault(row, {}).setdefault(rule, []).append(is_alarm)


def _nights(half: Half, plan: Plan, report: HalfReport) -> None:
    """Note the untouched nights on which the monitor would page, with the whole half and no bootstrap."""
    sample = half.drawn(0)
    for night in half.windows.last_dates:
        if plan.learnt_until < night <= plan.last:
            report.nights += 1
            if paged(find_shifts(half.use_case, sample.windows, night, sample.usual)):
                report.pages.append(night)


def _incidents(nights: Sequence[date]) -> list[date]:
    """First nights of each run of pages; a week without one ends an incident."""
    ordered = sorted(nights)
    return [night for place, night in enumerate(ordered) if not place or (night - ordered[place - 1]).days > 7]


def _concept(half: Half, plan: Plan, files: Mapping[date, Path], report: HalfReport) -> None:
    ground = concept.ConceptHalf(half.use_case, files, half.windows.entities, half.name)
    for estimated in ground.estimated_alarms(plan.learnt_until).values():
        _tell(report, "untouched weeks", estimated)
    sample = concept.ConceptSample(ground)
    report.concept_pages = [day for day in ground.days if day > plan.learnt_until and sample.paged[day]]
    for trial in concept.TRIALS:
        for onset in plan.onsets:
            start = onset - timedelta(days=1)
            for seed in range(plan.seeds):
                changed = ground.trial(trial, start, seed)
                report.found.append(ground.judge(sample, trial, changed, start, seed))
