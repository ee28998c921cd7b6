"""What more households would need, on paper: `python -m benchmarks.sizing` works the tables of docs/sizing.md out.

All grows with a night's candidates, from the largest size in docs/performance.json and from the figures below.
"""

from collections.abc import Mapping
from math import ceil

from benchmarks.night_sizes import MONITORING, Costs, read_figures
from pipelines.cli_evaluate import write_block
from pipelines.partitions import MOST_ROWS
from pipelines.settings import PROJECT, Settings
from pipelines.use_case import TrainingPlan

SIZES = (10, 100, 1000)  # million households
HOUSEHOLDS, FEATURES, LIST = 2_469, 61, 10  # of the reference data and use case
HOURS, BUSY, CPUS, GIB = 2, 0.8, 2, 4  # from ingest to deadline; workers run half of it, so busy, and are so large
TREES = 22.7 / 7.1  # scoring with the 2 × 200 trees of the default plan over that with the 2 × 40 of performance.json
INGEST_S, TRAINING_S, TRAINING_ROWS = 307.5, 285.1, 607_041  # make bench: ×10 for 365 days; ×1
REDIS_KEYS, REDIS_S, REDIS_MIB = 223_689, 18.9, 53  # docs/serving.md
BYTES = {"snapshots": 44, "scores": 10, "published": 313}  # of a row, at ×50
SHARED = {"sql": "feature SQL", "scores": "scoring with reasons"}
ALONE = {
    "ingest": "ingest of a day",
    "snapshot": "features of all workers: checks, one file",
    "publish": "publication into one warehouse",
    "online": "online store in Redis",
    "monitor": "monitoring, once the lists are out",
}


def seconds_of(found: Mapping[int, Costs]) -> tuple[float, dict[str, float]]:
    """Candidates of a household, and processor seconds of each part for a million candidates."""
    size, costs = max(found.items())
    rows = costs["scores"].rows / 1e6
    each = rows * 1e6 / (size * HOUSEHOLDS)
    return each, {
        "sql": costs["sql"].cpu_s / rows,
        "scores": costs["scores"].cpu_s * TREES / rows,
        "ingest": INGEST_S / 365 / (10 * HOUSEHOLDS * each / 1e6),
        "snapshot": (costs["features"].cpu_s - costs["sql"].cpu_s) / rows,
        "publish": costs["publish"].cpu_s / rows,
        "online": REDIS_S / REDIS_KEYS * 1e6,
        "monitor": sum(costs[part].cpu_s for part in MONITORING) / rows,
    }


def needs(found: Mapping[int, Costs], households: float) -> dict[str, float]:
    """What so many million households would need, by what it is."""
    default = {name: field.default for name, field in Settings.model_fields.items()}
    each, seconds = seconds_of(found)
    rows = {"snapshots": each * households, "scores": each * households, "published": LIST * households}  # millions
    hours = {part: cost * rows["scores"] / 3600 for part, cost in seconds.items()}
    shared, alone = sum(hours[part] for part in SHARED), sum(hours[part] for part in ALONE)
    workers = ceil(shared / (HOURS / 2 * CPUS * BUSY))
    gib_hours = GIB * (workers * HOURS / 2 + alone)
    kept = {name: rows[name] * size * default[f"keep_{name}_days"] / 1e6 for name, size in BYTES.items()}
    sample = TrainingPlan().most_rows / found[1]["scores"].rows  # of any number of candidates; all were TRAINING_ROWS
    trained = TRAINING_ROWS * sample / 1e6
    return {
        "candidates a night, million": rows["scores"],
        "rows that readers get, million": rows["published"],
        "partitions": ceil(rows["scores"] * 1e6 / MOST_ROWS),
        **{f"in workers: {SHARED[part]}, CPU hours": hours[part] for part in SHARED},
        f"**workers** of {CPUS} processors and {GIB} GiB for an hour": workers,
        **{f"in one process: {ALONE[part]}, hours": hours[part] for part in ALONE},
        "**a night**, CPU hours": shared + alone,
        "**a night**, €": (shared + alone) * default["euros_per_cpu_hour"] + gib_hours * default["euros_per_gib_hour"],
        "lake, GB a night": sum(rows[name] * BYTES[name] for name in ("snapshots", "scores")) / 1e3,
        "lake, TB with the default of days kept": kept["snapshots"] + kept["scores"],
        "warehouse, GB a night": rows["published"] * BYTES["published"] / 1e3,
        "warehouse, TB with the default of days kept": kept["published"],
        "Redis, GiB": rows["scores"] * 1e6 / REDIS_KEYS * REDIS_MIB / 1024,
        "a training on the default sample, CPU hours": TRAINING_S * sample / 3600,
        "its rows, million": trained,
        "its rows as a matrix, GiB": trained * 1e6 * FEATURES * 4 / 2**30,
    }


def as_markdown(found: Mapping[int, Costs]) -> str:
    """Both tables: what sizes need; with how many households a part in one process is too slow, fewest first."""
    sizes, (each, seconds) = [needs(found, size) for size in SIZES], seconds_of(found)
    lines = [
        "| million households | " + " | ".join(f"{size:,}" for size in SIZES) + " |",
        "|---" * (len(SIZES) + 1) + "|",
    ]
    for what, least in sizes[0].items():
        digits = 1 if isinstance(least, float) and least < 30 else 0
        lines.append(f"| {what} | " + " | ".join(f"{size[what]:,.{digits}f}" for size in sizes) + " |")
    most = {ALONE[part]: HOURS * 3600 / seconds[part] / each for part in ALONE}
    lines += ["", f"| in one process | takes {HOURS} hours at million households |", "|---|---|"]
    return "\n".join(lines + [f"| {what} | {most[what]:,.1f} |" for what in sorted(most, key=most.__getitem__)])


if __name__ == "__main__":
    page = PROJECT / "docs" / "sizing.md"
    write_block(page, "sizing", as_markdown(read_figures(page.with_name("performance.json"))))
