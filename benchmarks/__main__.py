"""`make bench`: what the main steps cost on real data, against their budgets, each in a process of its own."""

import json
import os
import subprocess
import sys

import sqlalchemy as sa
from rich.console import Console
from rich.table import Table

from pipelines import warehouse
from pipelines.settings import PREFIX, Settings, load_settings

_YEAR = ("--from", "2017-01-01", "--to", "2017-12-31")
_COMMANDS = (
    ("land", *_YEAR),
    ("ingest", *_YEAR),
    ("train", "--date", "2017-11-12"),
    ("score", "--date", "2017-12-17"),
)
# Steps of one budget, wall seconds beyond imports, and MiB of the process's highest resident memory.
_BUDGETS = {
    "bulk ingest of the year": (("ingest",), 40, 1536),
    "12 snapshots, training set, cross-validation, final model": (("train__category_propensity",), 120, 3072),
    "one night of December: features, score, publish": (
        ("features__category_propensity", "scores__category_propensity", "publish__category_propensity"),
        10,
        1536,
    ),
}


def main() -> int:
    """Run the commands in a folder of their own and print their cost; 1 where a budget is exceeded."""
    home = load_settings().home / "bench"
    environment = os.environ | {f"{PREFIX}HOME": str(home)}
    for command in _COMMANDS:
        subprocess.run(  # noqa: S603  # fixed arguments, no shell
            [sys.executable, "-m", "pipelines.cli", *command], env=environment, check=True
        )
    settings = Settings(home=home)
    table = Table("what", "seconds", "budget", "cpu seconds", "peak MiB", "budget", title="Cost of the main steps")
    results = {}
    for what, (steps, seconds, mebibytes) in _BUDGETS.items():
        wall, cpu, peak = _cost(settings, steps)
        results[what] = {"wall_s": wall, "cpu_s": cpu, "peak_mib": peak, "ok": wall <= seconds and peak <= mebibytes}
        table.add_row(what, f"{wall:.1f}", str(seconds), f"{cpu:.1f}", f"{peak:.0f}", str(mebibytes))
    Console().print(table)
    (home / "bench.json").write_text(json.dumps(results, indent=1))
    return 0 if all(result["ok"] for result in results.values()) else 1


def _cost(settings: Settings, steps: tuple[str, ...]) -> tuple[float, float, float]:
    """Wall and processor seconds, summed, and the highest memory of each step's newest run."""
    costs = warehouse.RUN_COSTS
    newest = sa.select(sa.func.max(costs.c.cost_id)).where(costs.c.step.in_(steps)).group_by(costs.c.step)
    with warehouse.open_warehouse(settings) as connection:
        rows = warehouse.read_rows(connection, sa.select(costs).where(costs.c.cost_id.in_(newest)))
    return (
        sum(row["wall_s"] for row in rows),
        sum(row["cpu_s"] for row in rows),
        max(r["peak_memory_mib"] for r in rows),
    )


if __name__ == "__main__":
    sys.exit(main())
