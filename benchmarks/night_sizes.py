"""What a night costs as households grow: `python -m benchmarks.night_sizes --sizes 1,10,50 --out docs/performance.md`.

It takes the home that `make bench` leaves (the year and a champion), makes lakes of more households from it, and runs
each part of one December night in a process of its own. The night stands alone: there is none before it to compare
with. What a way of doing it gives is held against what another gives: unequal results end the run.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from math import log
from pathlib import Path
from statistics import median
from typing import Annotated
from uuid import uuid4

import sqlalchemy as sa
import typer
from rich.console import Console
from rich.markdown import Markdown

from benchmarks.replicate_lake import replicate_lake
from pipelines import tables, warehouse
from pipelines.cli_evaluate import write_block
from pipelines.settings import PREFIX, Settings, load_settings
from pipelines.storage import replacing

NIGHT = date(2017, 12, 17)
STEPS, UNAVOIDABLE = ("features", "scores", "publish"), ("sql", "predict")
MONITORING = ("outcomes", "quality", "drift", "kpis")
_NAIVE = ("naive_pandas", "naive_pyfunc", "naive_to_sql", "naive_feast")
_DASK, _WORKERS = ("dask_features", "dask_scores"), 2
_NAMES = {
    "features": "features: SQL, checks, snapshot",
    "scores": "score: predict, calibrate, rank, reasons",
    "publish": "publish: staging, audit, swap",
    "sql": "the feature SQL alone",
    "predict": "bare `Booster.predict` alone",
    "dask_features": f"features by {_WORKERS} Dask workers",
    "dask_scores": f"score by {_WORKERS} Dask workers",
    "outcomes": "labels and outcomes of a matured night",
    "quality": "its realised quality",
    "drift": "drift of a night",
    "kpis": "business figures of a day",
    "snapshot": "a date of a training set",
    "join": "Feast's join of all candidates by DuckDB",
    "naive_pandas": "pandas, a third of the features of pairs",
    "naive_pyfunc": "`mlflow.pyfunc` on one frame, no reasons",
    "naive_to_sql": "`to_sql` of the published rows, no audit",
    "naive_feast": "the same by Feast's dask store",
}
_AT_ONCE, _AT_ONCE_UP_TO = ("join", *_NAIVE), 10  # beyond it they do not fit into the memory of a small machine
_ORDER = ("sql", "features", "predict", "scores", "publish", *MONITORING, "snapshot", *_DASK, *_AT_ONCE)
Costs = Mapping[str, "Cost"]  # by part


@dataclass(frozen=True)
class Cost:
    """Medians over the runs of a part, without imports; memory is the highest resident of its process."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    rows: int


def main(
    sizes: Annotated[str, typer.Option(help="How many times the households, ascending")] = "1,10",
    repeats: Annotated[int, typer.Option(help="Runs of each part at the first size; one at the others")] = 3,
    only: Annotated[str, typer.Option(help="Parts to measure; the others keep the figures that they have")] = "",
    source: Annotated[Path | None, typer.Option(help="Home with the year and a champion")] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for the larger homes; they are kept")] = None,
    out: Annotated[Path | None, typer.Option(help="Page to write the table into; figures go beside it")] = None,
) -> None:
    """Measure the night at each size, print the table with those measured before, and write it and its figures down."""
    root = load_settings().home / "bench"
    home, place = Settings(home=(source or root / "year").resolve()), (work or root / "sizes").resolve()
    file = out.with_suffix(".json") if out else place / "night_sizes.json"
    before = read_figures(file)
    found = dict(before)
    for number, size in enumerate(map(int, sizes.split(","))):
        settings = _home_of(home, place, size)
        wanted = only.split(",") if only else _ORDER
        parts = [part for part in _ORDER if part in wanted and (size <= _AT_ONCE_UP_TO or part not in _AT_ONCE)]
        now = {part: _measure(home, settings, part, 1 if number else repeats) for part in parts}
        found[size] = {**found.get(size, {}), **now}
        with replacing(file) as unfinished:
            told = {size: {part: asdict(cost) for part, cost in costs.items()} for size, costs in sorted(found.items())}
            unfinished.write_text(json.dumps(told, indent=1) + "\n")
    text = as_markdown(dict(sorted(found.items())))
    Console().print(Markdown(text))
    for line in compared(found, before):
        Console().print(line)
    if out:
        write_block(out, "night_sizes", text)


def read_figures(file: Path) -> dict[int, Costs]:
    """What was measured before, by size; nothing where there is no such file."""
    told = json.loads(file.read_text()) if file.exists() else {}
    return {int(size): {part: Cost(**cost) for part, cost in costs.items()} for size, costs in told.items()}


def _home_of(source: Settings, place: Path, size: int) -> Settings:
    settings = Settings(home=place / f"x{size}", mlflow_tracking_uri=source.mlflow_store)
    mark = settings.home / "replicated"
    if not mark.exists():
        shutil.rmtree(settings.home, ignore_errors=True)
        replicate_lake(source, settings, size)
        mark.touch()
    return settings


def _measure(source: Settings, settings: Settings, part: str, repeats: int) -> Cost:
    runs = []
    told = {"HOME": str(settings.home), "MLFLOW_TRACKING_URI": source.mlflow_store, "DEMO": "true"}
    environment = os.environ | {f"{PREFIX}{name}": value for name, value in told.items()}
    with _engine(part, environment) as engine:
        for _ in range(repeats):
            run_id = uuid4().hex
            Console(stderr=True).print(f"{settings.home.name}: {part}")
            subprocess.run(  # noqa: S603  # fixed arguments, no shell
                [sys.executable, "-m", "benchmarks.night_parts", part, str(NIGHT), run_id],
                env=environment | engine,
                check=True,
            )
            runs.append(_cost(settings, part.removeprefix("dask_"), run_id))
    wall_s, cpu_s, peak_mib = (median(getattr(run, name) for run in runs) for name in ("wall_s", "cpu_s", "peak_mib"))
    return Cost(wall_s, cpu_s, peak_mib, runs[-1].rows)


@contextmanager
def _engine(part: str, environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """What the part has to be told of its engine: for those of Dask a cluster of this machine that knows the home."""
    if part not in _DASK:
        yield {}
        return
    from distributed import LocalCluster

    known = {name: value for name, value in environment.items() if name.startswith(PREFIX)}
    with LocalCluster(
        n_workers=_WORKERS, threads_per_worker=1, memory_limit=None, dashboard_address=None, env=known
    ) as cluster:
        yield {f"{PREFIX}ENGINE": "dask", f"{PREFIX}DASK_SCHEDULER": cluster.scheduler_address}


def _cost(settings: Settings, part: str, run_id: str) -> Cost:
    """The sum over the part's entries of that run."""
    costs = tables.RUN_COSTS
    with warehouse.open_warehouse(settings) as connection:
        query = sa.select(costs).where(costs.c.run_id == run_id, costs.c.step.regexp_match(f"^{part}"))
        rows = warehouse.read_rows(connection, query)
    sums = {name: sum(row[name] for row in rows) for name in ("wall_s", "cpu_s", "rows")}
    return Cost(sums["wall_s"], sums["cpu_s"], max(row["peak_memory_mib"] for row in rows), int(sums["rows"]))


def as_markdown(found: Mapping[int, Costs]) -> str:
    """The table: a row for each part, three columns for each size, and how its processor time grows."""
    sizes = list(found)
    heads = [f"×{size}: {what}" for size in sizes for what in ("s", "CPU s", "MiB")]
    lines = ["| | " + " | ".join([*heads, "exponent"]) + " |", "|---" * (len(heads) + 2) + "|"]
    without = "**what it cannot do without**"
    groups = (("**a night**", STEPS), (without, UNAVOIDABLE), ("**its monitoring**", MONITORING))
    for title, parts in (*groups, ("", ("snapshot", *_DASK, *_AT_ONCE))):
        lines += [_line(_NAMES[part], found, (part,)) for part in parts if any(part in found[size] for size in sizes)]
        lines += (
            [_line(title, found, parts)] if title and any(set(parts) <= found[size].keys() for size in sizes) else []
        )
    nights = {size: found[size] for size in sizes if {*STEPS, *UNAVOIDABLE} <= found[size].keys()}
    rows = ", ".join(
        f"×{size}: {night['scores'].rows:,} scored, {night['publish'].rows:,} published"
        for size, night in nights.items()
    )
    ratios = ", ".join(
        f"×{size}: {_sum(night, STEPS).cpu_s / _sum(night, UNAVOIDABLE).cpu_s:.2f}" for size, night in nights.items()
    )
    told = f"Rows: {rows}. A night's processor time over that of what it cannot do without (aim 1.5): {ratios}."
    return "\n".join([*lines, "", told] if nights else lines)


def _line(title: str, found: Mapping[int, Costs], parts: Sequence[str]) -> str:
    cells, points = [title], []
    for size, costs in found.items():
        if any(part not in costs for part in parts):
            cells += ["–"] * 3
            continue
        cost = _sum(costs, parts)
        cells += [f"{cost.wall_s:.1f}", f"{cost.cpu_s:.1f}", f"{cost.peak_mib:,.0f}"]
        points.append((size, cost.cpu_s))
    return "| " + " | ".join([*cells, _exponent(points)]) + " |"


def _exponent(points: Sequence[tuple[int, float]]) -> str:
    """By which power of the households the processor time grows, from the first size to the last."""
    (first, least), (last, most) = points[0], points[-1]
    return f"{log(most / least) / log(last / first):.2f}" if last > first and least > 0 else "–"


def _sum(costs: Costs, parts: Sequence[str]) -> Cost:
    found = [costs[part] for part in parts]
    return Cost(
        sum(cost.wall_s for cost in found),
        sum(cost.cpu_s for cost in found),
        max(cost.peak_mib for cost in found),
        sum(cost.rows for cost in found),
    )


def compared(found: Mapping[int, Costs], before: Mapping[int, Costs]) -> Iterator[str]:
    """A line for each part that was measured now and before: its processor time and memory over those of then."""
    for size, costs in found.items():
        for part, cost in costs.items():
            then = before.get(size, {}).get(part)
            if then and then != cost:
                cpu, peak = cost.cpu_s / max(then.cpu_s, 0.01), cost.peak_mib / then.peak_mib
                yield f"×{size} {_NAMES[part]}: {cpu:.2f} of the last run's processor time, {peak:.2f} of its memory"


if __name__ == "__main__":
    typer.run(main)
