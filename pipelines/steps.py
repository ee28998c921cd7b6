"""The frame around every step: it measures what the step cost, writes that down, and logs how it went."""

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.crash_points import crash_point
from pipelines.errors import EngineFailure, NightjarError
from pipelines.settings import Settings

CLI_RUN = "cli"
Progress = Callable[[int, int], None]  # a long step calls it with what is done and what there is in all
_PROCESS = Path("/proc/self")


@dataclass(eq=False)  # two steps that have cost the same are two
class StepCost:
    """What a step cost; the step itself fills in the rows that it wrote and the model that it used."""

    rows: int | None = None
    model_version: str | None = None
    peak_mib: float = field(default=0, init=False)
    cpu_s_elsewhere: float = field(default=0, init=False)


_open: list[StepCost] = []  # of the steps that run now, each inside the one before


@contextmanager
def measured(settings: Settings, step: str, partition_key: str, run_id: str) -> Iterator[StepCost]:
    """Log start and end of a step and append a row to `ops__run_costs`, also when it fails.

    The part of the name behind `__` is the use case.
    """
    from structlog.contextvars import bound_contextvars

    from pipelines.logs import open_log

    cost, log = StepCost(), open_log(settings)
    place = {"run_id": run_id, "step": step, "business_date": partition_key}
    _note_peak()
    _open.append(cost)
    wall, cpu, is_success = time.perf_counter(), time.process_time(), False
    with bound_contextvars(**place, use_case=step.partition("__")[2] or None):
        log.info("step started")
        try:
            yield cost
            is_success = True
        finally:
            _note_peak()
            _open.remove(cost)
            cpu_s = time.process_time() - cpu + cost.cpu_s_elsewhere
            spent = time.perf_counter() - wall, cpu_s, cost.peak_mib
            facts = dict(zip(("wall_s", "cpu_s", "peak_memory_mib"), spent, strict=True)) | {
                "rows": cost.rows,
                "model_version": cost.model_version,
                "euros": euros(settings, *spent),
            }
            if is_success:
                log.info("step ended", **facts)
            else:
                log.error("step failed", **facts, **_cause(sys.exception()))
            key = {"run_id": run_id, "step": step, "partition_key": partition_key, "is_success": is_success}
            _write_down(settings, key | facts)


def euros(settings: Settings, wall_s: float, cpu_s: float, peak_memory_mib: float) -> float:
    """What a step cost by the price table: the processor time that it used, its peak memory for as long as it ran."""
    memory = peak_memory_mib / 1024 * wall_s * settings.euros_per_gib_hour
    return (cpu_s * settings.euros_per_cpu_hour + memory) / 3600


def _write_down(settings: Settings, row: dict[str, object]) -> None:
    from pipelines import tables, warehouse

    crash_point("steps.before_cost")
    error = sys.exception()
    if isinstance(error, EngineFailure):
        return  # the warehouse may be what failed: the log has to do
    with suppress(*([EngineFailure] if error else [])), warehouse.open_warehouse(settings) as connection:
        warehouse.append_rows(connection, tables.RUN_COSTS, [row])


def _cause(error: BaseException | None) -> dict[str, str]:
    """What went wrong; what was found is left to the error itself, for it can hold rows of the data."""
    told = ("what", "where", "remedy") if isinstance(error, NightjarError) else ()
    return {"error": type(error).__name__, **{name: getattr(error, name) for name in told}}


def usage() -> tuple[float, float]:
    """CPU seconds of this process since its start; its highest resident memory since the last call, MiB.

    Where the system cannot begin anew (not Linux) the latter is that of the process so far.
    """
    try:
        lines = (_PROCESS / "status").read_text().splitlines()
        highest = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
        (_PROCESS / "clear_refs").write_text("5")
    except (OSError, StopIteration):
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return time.process_time(), highest


def add_usage(cpu_s: float, peak_mib: float) -> None:
    """Count what other processes did for the open steps; a step's peak is that of its largest process."""
    for cost in _open:
        cost.cpu_s_elsewhere += cpu_s
        cost.peak_mib = max(cost.peak_mib, peak_mib)


def _note_peak() -> None:
    add_usage(0, usage()[1])
