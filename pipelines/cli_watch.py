"""`nightjar watch`: the one command that reads the clock, and passes it on."""

import sys
import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from pipelines.settings import load_settings
from pipelines.use_cases import load_use_cases

console = Console(highlight=False)


def watch(
    every: Annotated[int, typer.Option(min=0, help="Seconds between two looks, for ever; 0: look once")] = 0,
) -> None:
    """Look at the product from outside of Airflow: page silence and late scores, send pages that wait.

    Exit code 1 if anything is wrong. Example, from cron on a second host: nightjar watch
    """
    from pipelines.watch import watch

    settings = load_settings()
    use_cases = list(load_use_cases(settings).values())
    while True:
        wrong = watch(settings, use_cases, datetime.now(UTC))
        console.print("\n".join(wrong) or "all is well", markup=False, soft_wrap=True)
        if not every:
            sys.exit(bool(wrong))
        time.sleep(every)
