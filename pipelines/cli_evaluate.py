"""`nightjar evaluate-…`: how good the monitor and its policy are, replayed on a year, as tables of a page."""

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_output import console, progress_bar
from pipelines.settings import load_settings
from pipelines.storage import replacing
from pipelines.use_cases import get_use_case, load_use_cases
from pipelines.warehouse import create_tables

First = Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First business date, a Sunday")]
Last = Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last business date, a Sunday")]
Out = Annotated[Path | None, typer.Option(dir_okay=False, exists=True, help="Page that gets the tables")]


def evaluate_policy(
    first: First,
    last: Last,
    out: Out = None,
    name: Annotated[str, typer.Option("--use-case", help="Which prediction task")] = "category_propensity",
) -> None:
    """Replay a year under the policy on new models, and under never, calendars, CUSUM and an oracle.

    Example: nightjar evaluate-policy --from 2017-03-12 --to 2017-12-24 --out docs/monitoring.md
    """
    from pipelines.backtest import weekly
    from pipelines.policy_backtest import as_markdown
    from pipelines.staleness import loss_matrix

    settings = load_settings()
    use_case = get_use_case(name, settings)
    create_tables(settings, list(load_use_cases(settings).values()))
    dates = weekly(first.date(), last.date())
    with progress_bar("weeks") as progress:
        cells = loss_matrix(settings, use_case, dates, progress)
    text = as_markdown(use_case, cells, dates)
    if out:
        write_block(out, "policy", text)
    console.print(text, markup=False, soft_wrap=True)


def write_block(page: Path, name: str, text: str) -> None:
    """Put the text between the page's markers of that name."""
    block = re.compile(rf"<!-- begin {name} -->\n.*?<!-- end -->", re.DOTALL)
    told = block.sub(lambda _: f"<!-- begin {name} -->\n{text}\n<!-- end -->", page.read_text())
    with replacing(page) as unfinished:
        unfinished.write_text(told)
