"""How the command line shows reports, figures and progress."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipelines.use_case import UseCase

console = Console(highlight=False, width=None if sys.stdout.isatty() else 170)


def print_report(report: object) -> None:
    """Show a step's report on one line."""
    shown = asdict(report)  # type: ignore[call-overload]  # every step's report is a dataclass
    title = type(report).__name__.removesuffix("Report").lower()
    console.print(f"[bold]{title}[/] " + " · ".join(f"{key} {_shown(value)}" for key, value in shown.items()))


def _shown(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, tuple):
        return f"{value[0]} … {value[-1]} ({len(value)})" if len(value) > 1 else str(*value)
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def print_quality(use_case: UseCase, quality: Mapping[str, Mapping[str, float]]) -> None:
    """Show the figures of models and rules beside each other."""
    names = list(next(iter(quality.values())))
    table = Table("", *names, title=use_case.title)
    for model, figures in quality.items():
        table.add_row(model, *(f"{figures[name]:.4f}" if name in figures else "–" for name in names))
    console.print(table)


def _columns() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )


@contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar that is told how much is done, and of how much."""
    with _columns() as shown:
        task = shown.add_task(title)
        yield lambda done, total: shown.update(task, completed=done, total=total)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars by name, each shown from its first report on."""
    with _columns() as shown:
        tasks: dict[str, TaskID] = {}

        def update(title: str, done: int, total: int) -> None:
            if title not in tasks:
                tasks[title] = shown.add_task(title)
            shown.update(tasks[title], completed=done, total=total)

        yield update
