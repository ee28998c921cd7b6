"""The evaluation of the monitor as a page: aims and what was measured on each half, every trial, and other tools."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median

from pipelines import monitor_backtest_concept as concept
from pipelines.causes import ACTIONS, CONCEPT_SHIFT, DATA_FAULT, RETRAIN
from pipelines.monitor_backtest import HalfReport
from pipelines.monitor_backtest_data import Found
from pipelines.use_case import Trial, UseCase

_QUARTER = 365.25 / 4


@dataclass(frozen=True)
class Aim:
    """One measure: what is aimed at, and what each half gave; `None` where nothing was tried."""

    measure: str
    aim: str
    measured: tuple[float | None, ...]
    is_met: Callable[[float], bool] | None
    unit: str = "share"

    @property
    def verdict(self) -> str:
        """Whether every half met it; a dash where there is no aim, or nothing was tried."""
        known = [one for one in self.measured if one is not None]
        if self.is_met is None or not known:
            return "–"
        return "yes" if all(self.is_met(one) for one in known) else "**no**"


def aims(use_case: UseCase, reports: Sequence[HalfReport]) -> list[Aim]:
    """The measures that were agreed on, by half."""
    trials = use_case.trials
    large = {(one.name, one.size) for one in trials if one.aim >= 0.95}
    middle = {(one.name, one.size) for one in trials if 0.5 < one.aim < 0.95}
    slow = {(one.name, one.size): one for one in trials if one.weeks > 3 and one.cause}
    quiet = {(one.name, one.size) for one in trials if not one.cause}
    changed = {(one.name, one.size) for one in concept.TRIALS if one.aim}
    faint = {(one.name, one.size) for one in concept.TRIALS if not one.aim}

    def each(measure: Callable[[HalfReport], float | None]) -> tuple[float | None, ...]:
        return tuple(measure(report) for report in reports)

    def caught(names: Iterable[tuple[str, str]], within: int) -> Callable[[HalfReport], float | None]:
        return lambda report: share_found(report.found, set(names), within)

    return [
        Aim("false pages per quarter, untouched nights", "≤ 1", each(false_pages), lambda one: one <= 1, "number"),
        Aim("untouched feature-weeks that page", "≤ 1 %", each(_false_figures), lambda one: one <= 0.01),
        Aim("abrupt, ≥ 20 %: found within one window", "≥ 95 %", each(caught(large, 1)), lambda one: one >= 0.95),
        Aim("fault in a feature: told the same night", "≥ 95 %", each(_features_found), lambda one: one >= 0.95),
        Aim(
            "untouched features of a night that are called faulty",
            "≤ 1 %",
            each(_features_false),
            lambda one: one <= 0.01,
        ),
        Aim("abrupt, 10 %: found within three windows", "≥ 80 %", each(caught(middle, 3)), lambda one: one >= 0.8),
        Aim(
            "ramp: median delay as a share of the ramp",
            "≤ 50 %",
            each(lambda one: ramp_delay(one, slow)),
            lambda one: one <= 0.5,
        ),
        Aim(
            "concept, an item or ≥ 20 % of the entities: found within two matured windows",
            "≥ 90 %",
            each(caught(changed, concept.MATURED)),
            lambda one: one >= 0.9,
        ),
        Aim("concept, fainter: found within two matured windows", "none", each(caught(faint, concept.MATURED)), None),
        Aim(
            "right cause named, of what was found",
            "≥ 90 %",
            each(lambda one: right_cause(use_case, one)),
            lambda one: one >= 0.9,
        ),
        Aim("promotion week or clock change that pages", "0", each(caught(quiet, 12)), lambda one: one == 0),
        Aim(
            "data fault, promotion or clock change that asks for a retraining",
            "0",
            each(lambda one: false_retraining(use_case, one)),
            lambda one: one == 0,
        ),
    ]


def share_found(found: Sequence[Found], names: set[tuple[str, str]], within: int) -> float | None:
    """Share of these trials that were found in so many windows."""
    chosen = [one for one in found if (one.trial, one.size) in names]
    return sum(one.delay is not None and one.delay <= within for one in chosen) / len(chosen) if chosen else None


def false_pages(report: HalfReport) -> float:
    """Incidents of untouched nights by quarter, those of matured labels among them."""
    return (len(report.pages) + len(report.concept_pages)) / (report.nights / _QUARTER)


def ramp_delay(report: HalfReport, slow: dict[tuple[str, str], Trial]) -> float | None:
    """Median delay of the slow trials as a share of their length; what was never found counts as twice its length."""
    delays = [
        (one.delay or 2 * slow[one.trial, one.size].weeks) / slow[one.trial, one.size].weeks
        for one in report.found
        if (one.trial, one.size) in slow
    ]
    return median(delays) if delays else None


def right_cause(use_case: UseCase, report: HalfReport) -> float | None:
    """Share of the found trials whose first page names the cause that was put in."""
    expected = {(one.name, one.size): one.cause for one in use_case.trials if one.cause}
    expected |= {(one.name, one.size): CONCEPT_SHIFT for one in concept.TRIALS}
    named = [
        one.cause == expected[one.trial, one.size]
        for one in report.found
        if one.cause and (one.trial, one.size) in expected
    ]
    return sum(named) / len(named) if named else None


def false_retraining(use_case: UseCase, report: HalfReport) -> float | None:
    """Share of the trials with a data fault, a promotion or a clock change in which a retraining was asked for."""
    blocked = {(one.name, one.size) for one in use_case.trials if one.cause in ("", DATA_FAULT)}
    tried = [one for one in report.found if (one.trial, one.size) in blocked]
    asked = [any(ACTIONS.get(cause) == RETRAIN for cause in one.causes) for one in tried]
    return sum(asked) / len(asked) if asked else None


def _false_figures(report: HalfReport) -> float:
    return report.false_figure_weeks / report.figure_weeks


def _features_found(report: HalfReport) -> float | None:
    told = [one.is_found for one in report.features]
    return sum(told) / len(told) if told else None


def _features_false(report: HalfReport) -> float:
    return report.false_features[0] / max(report.false_features[1], 1)


def as_markdown(use_case: UseCase, reports: Sequence[HalfReport]) -> str:
    """The tables of the page."""
    halves = [report.name for report in reports]
    lines = [
        f"| measure | aim | {' | '.join(f'half {name}' for name in halves)} | met? |",
        "|---|---|" + "---|" * (len(halves) + 1),
    ]
    for one in aims(use_case, reports):
        figures = " | ".join(_shown(value, one.unit) for value in one.measured)
        lines.append(f"| {one.measure} | {one.aim} | {figures} | {one.verdict} |")
    seeds = len({one.seed for report in reports for one in report.found})
    sizes = ", ".join(f"{report.entities:,} in half {report.name}" for report in reports)
    return "\n".join(
        [
            f"Seeds: {seeds}. Entities: {sizes}.",
            "",
            *lines,
            "",
            *_trial_table(reports),
            "",
            *_feature_table(reports),
            "",
            *_tool_table(reports),
            "",
            *_power_table(reports),
        ]
    )


def _trial_table(reports: Sequence[HalfReport]) -> list[str]:
    """Each trial with the share found by the end of each window, over both halves."""
    lines = [
        "| trial | size | trials | found in window 1 | by window 2 | by window 3 | ever | median delay | right cause |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    found = sorted((one for report in reports for one in report.found), key=lambda one: (one.trial, one.size))
    for (trial, size), group in groupby(found, key=lambda one: (one.trial, one.size)):
        tried = list(group)
        by = [share_found(tried, {(trial, size)}, within) or 0 for within in (1, 2, 3, 99)]
        delays = [one.delay for one in tried if one.delay]
        causes = sorted(
            {one.cause for one in tried if one.cause}, key=lambda cause: -sum(one.cause == cause for one in tried)
        )
        told = (
            ", ".join(f"{cause} {sum(one.cause == cause for one in tried) / len(delays):.0%}" for cause in causes)
            or "–"
        )
        shares = " | ".join(f"{one:.0%}" for one in by)
        lines.append(f"| {trial} | {size} | {len(tried)} | {shares} | {median(delays) if delays else '–'} | {told} |")
    return lines


def _feature_table(reports: Sequence[HalfReport]) -> list[str]:
    lines = ["| fault of a feature | rows | trials | told the same night |", "|---|---|---|---|"]
    tried = sorted((one for report in reports for one in report.features), key=lambda one: (one.kind, one.share))
    for (kind, share), group in groupby(tried, key=lambda one: (one.kind, one.share)):
        told = [one.is_found for one in group]
        lines.append(f"| {kind} | {share:.0%} | {len(told)} | {sum(told) / len(told):.0%} |")
    return lines


def _tool_table(reports: Sequence[HalfReport]) -> list[str]:
    """How often each other rule raises an alarm, without a change and in the first window of each."""
    rows = list(dict.fromkeys(row for report in reports for row in report.tools))
    rules = list(dict.fromkeys(rule for report in reports for told in report.tools.values() for rule in told))
    lines = [f"| alarms in the first window | {' | '.join(rules)} |", "|---|" + "---|" * len(rules)]
    for row in rows:
        shares = []
        for rule in rules:
            told = [one for report in reports for one in report.tools.get(row, {}).get(rule, [])]
            shares.append(f"{sum(told) / len(told):.0%}" if told else "–")
        lines.append(f"| {row} | {' | '.join(shares)} |")
    return lines


def _power_table(reports: Sequence[HalfReport]) -> list[str]:
    """The smallest change of each figure that one window shows."""
    lines = [
        "| figure | " + " | ".join(f"usual, half {one.name} | detectable" for one in reports) + " |",
        "|---|" + "---|---|" * len(reports),
    ]
    for name in sorted({name for report in reports for name in report.detectable}):
        cells = [report.detectable.get(name) for report in reports]
        shown = " | ".join(f"{one[0]:.4g} | {one[1]:.3g} ({one[1] / one[0]:.0%})" if one else "– | –" for one in cells)
        lines.append(f"| {name} | {shown} |")
    return lines


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return "–"
    return f"{value:.1%}" if unit == "share" else f"{value:.2f}"
