"""`make bench`: what the main steps cost on real data, against their budgets, each in a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import date
from math import inf, isfinite
from pathlib import Path

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from benchmarks import evidently_default
from benchmarks.bulk_load import Race, races
from benchmarks.look_up import Served, look_ups
from benchmarks.model_health import Wait, waits
from benchmarks.replicate import replicate
from pipelines import registry, tables, warehouse
from pipelines.settings import PREFIX, Settings, load_settings
from pipelines.steps import measured
from pipelines.use_cases import get_use_case

FIRST, LAST = date(2017, 1, 1), date(2017, 12, 31)
BUSIEST = date(2017, 12, 23)  # of all days the one with the most lines
_YEAR = ("--from", str(FIRST), "--to", str(LAST))
_MATURED, _BEFORE, _NIGHT_OF = date(2017, 12, 7), date(2017, 12, 16), date(2017, 12, 17)  # ten days wait for labels
_DAY = ("--from", str(BUSIEST), "--to", str(BUSIEST))


@dataclass(frozen=True)
class Budget:
    """What some steps of one command may cost: wall seconds beyond imports, MiB of highest resident memory."""

    what: str
    home: str
    steps: tuple[str, ...]
    seconds: float
    mebibytes: float


@dataclass(frozen=True)
class Cost:
    """What the newest run of each step has cost, summed; memory is the highest."""

    wall_s: float
    cpu_s: float
    peak_mib: float


_NIGHT = ("features__category_propensity", "scores__category_propensity", "publish__category_propensity")
_MONITOR = tuple(
    f"{step}__category_propensity"
    for step in ("outcomes", "quality", "drift", "kpis", "findings", "retraining", "health")
)
_EVIDENTLY = "Evidently's default over the features of that night alone"
_BUDGETS = (
    Budget("bulk ingest of the year, with all checks", "year", ("ingest",), 90, 1536),
    Budget("training: snapshots, all candidates on three folds", "year", ("train__category_propensity",), 180, 3072),
    Budget("gate: two dates, champion and challenger", "year", ("gate__category_propensity",), 30, 3072),
    Budget("signature check and load of a model", "year", ("load__category_propensity",), 1, 1536),
    Budget("one night of December: features, score with reasons, publish", "year", _NIGHT, 20, 1536),
    Budget("publication of that night: staging, audit, swap", "year", _NIGHT[2:], 10, 1536),
    Budget("monitoring of that night: quality, drift, KPIs, causes, decision, page", "year", _MONITOR, 20, 1536),
    Budget("ingest of one day", "day", ("ingest",), 5, 1536),
)


def main() -> int:
    """Run the commands in folders of their own and print their cost; 1 where a budget is exceeded."""
    root = load_settings().home / "bench"
    homes = {name: Settings(home=root / name) for name in ("year", "ten", "day", "big")}
    _run(homes["year"], "land", *_YEAR)
    _run(homes["year"], "ingest", *_YEAR)
    _run(homes["year"], "train", "--date", "2017-11-12")
    for day in (_MATURED, _BEFORE, _NIGHT_OF):
        _run(homes["year"], "score", "--date", str(day))
    _run(homes["year"], "monitor", "--date", str(_NIGHT_OF))
    _python(homes["year"], evidently_default.__name__, str(_BEFORE), str(_NIGHT_OF))
    _load_champion(homes["year"])
    replicate(homes["year"], homes["ten"], FIRST, LAST, 10)
    _run(homes["ten"], "ingest", *_YEAR)
    for name, times in (("day", 1), ("big", 20)):
        replicate(homes["year"], homes[name], BUSIEST, BUSIEST, times)
        _land_products(homes["year"], homes[name])
        _run(homes[name], "ingest", *_DAY)
    costs = {budget.what: _cost(homes[budget.home], budget.steps) for budget in _BUDGETS}
    limits = {budget.what: (budget.seconds, budget.mebibytes) for budget in _BUDGETS}
    costs[_EVIDENTLY] = _cost(homes["year"], (evidently_default.STEP,))
    limits[_EVIDENTLY] = (inf, inf)
    year, one_day = costs[_BUDGETS[0].what], costs[_BUDGETS[-1].what]
    for what, home, seconds in (
        ("ten times the year: 11 times the time, the same memory + 20 %", "ten", 11 * year.wall_s),
        ("20 times the busiest day in one drop: the year's memory + 20 %", "big", 25 * one_day.wall_s),
    ):
        costs[what], limits[what] = _cost(homes[home], ("ingest",)), (seconds, 1.2 * year.peak_mib)
    return _show(root, costs, limits) | _race(root)


def _race(root: Path) -> int:
    """Load a night in bulk and by `to_sql`, and read a page's data; 1 where ours is over its limit."""
    use_case, is_over = get_use_case("category_propensity", load_settings()), False
    timed: list[Race | Wait | Served] = [*races(root / "bulk", use_case), *waits(root / "model_health", use_case)]
    timed += look_ups(root / "look_up", use_case)
    for one in timed:
        Console().print(str(one))
        is_over |= one.is_over
    return int(is_over)


def _run(settings: Settings, *command: str) -> None:
    _python(settings, "pipelines.cli", *command)


def _python(settings: Settings, module: str, *arguments: str) -> None:
    environment = os.environ | {f"{PREFIX}HOME": str(settings.home)}
    subprocess.run(  # noqa: S603  # fixed arguments, no shell
        [sys.executable, "-m", module, *arguments], env=environment, check=True
    )


def _load_champion(settings: Settings) -> None:
    """Verify and load the champion, once the registry is open and all is imported."""
    use_case = get_use_case("category_propensity", settings)
    version = registry.champion(settings, use_case)
    registry.load(settings, use_case, version)
    with measured(settings, f"load__{use_case.name}", version.version, "bench"):
        registry.load(settings, use_case, version)


def _land_products(source: Settings, target: Settings) -> None:
    for name in source.landing.names("products/"):
        target.landing.write(name, source.landing.read(name))


def _show(root: Path, costs: dict[str, Cost], limits: dict[str, tuple[float, float]]) -> int:
    table = Table("what", "seconds", "budget", "cpu seconds", "peak MiB", "budget", title="Cost of the main steps")
    is_over = False
    for what, cost in costs.items():
        seconds, mebibytes = limits[what]
        is_over |= cost.wall_s > seconds or cost.peak_mib > mebibytes
        table.add_row(
            what,
            f"{cost.wall_s:.1f}",
            _budget(seconds),
            f"{cost.cpu_s:.1f}",
            f"{cost.peak_mib:.0f}",
            _budget(mebibytes),
        )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    (root / "bench.json").write_text(json.dumps({what: asdict(cost) for what, cost in costs.items()}, indent=1))
    return int(is_over)


def _budget(most: float) -> str:
    return f"{most:.0f}" if isfinite(most) else "–"


def _cost(settings: Settings, steps: tuple[str, ...]) -> Cost:
    costs = tables.RUN_COSTS
    newest = sa.select(sa.func.max(costs.c.cost_id)).where(costs.c.step.in_(steps)).group_by(costs.c.step)
    with warehouse.open_warehouse(settings) as connection:
        rows = warehouse.read_rows(connection, sa.select(costs).where(costs.c.cost_id.in_(newest)))
    return Cost(
        sum(row["wall_s"] for row in rows),
        sum(row["cpu_s"] for row in rows),
        max(row["peak_memory_mib"] for row in rows),
    )


if __name__ == "__main__":
    sys.exit(main())
