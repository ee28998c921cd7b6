"""The frame around every step: it measures what the step cost and writes that down."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipelines.crash_points import crash_point
from pipelines.settings import Settings

CLI_RUN = "cli"
Progress = Callable[[int, int], None]  # a long step calls it with what is done and what there is in all


@dataclass
class StepCost:
    """What a step cost; the step itself fills in the rows that it wrote."""

    rows: int | None = None


@contextmanager
def measured(settings: Settings, step: str, partition_key: str, run_id: str) -> Iterator[StepCost]:
    """Append a row to `ops__run_costs` once the step has ended well; a failed step leaves none."""
    from pipelines import tables, warehouse

    cost = StepCost()
    wall, cpu = time.perf_counter(), time.process_time()
    yield cost
    crash_point("steps.before_cost")
    row = {
        "run_id": run_id,
        "step": step,
        "partition_key": partition_key,
        "rows": cost.rows,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    with warehouse.open_warehouse(settings) as connection:
        warehouse.append_rows(connection, tables.RUN_COSTS, [row])
