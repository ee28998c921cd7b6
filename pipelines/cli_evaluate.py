"""`nightjar evaluate-…`: how good the monitor and its policy are, replayed on a year, as tables of a page."""

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli_output import console, progress_bar, progress_bars
from pipelines.settings import load_settings
from pipelines.storage import replacing
from pipelines.use_cases import get_use_case, load_use_cases
from pipelines.warehouse import create_tables

First = Annotated[datetime, typer.Option("--from", formats=["%Y-%m-%d"], help="First business date, a Sunday")]
Last = Annotated[datetime, typer.Option("--to", formats=["%Y-%m-%d"], help="Last business date, a Sunday")]
Out = Annotated[Path | None, typer.Option(dir_okay=False, exists=True, help="Page that gets the tables")]

_HALVES = {"A": (0,), "B": (1,), "both": (0, 1)}


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


def evaluate_monitor(
    seeds: Annotated[int, typer.Option(min=1, help="Draws of every trial; what is not drawn is bootstrapped")] = 20,
    half: Annotated[str, typer.Option(help="A, B or both: halves of the entities, by a hash")] = "both",
    out: Out = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes; each takes a half")] = 2,
    name: Annotated[str, typer.Option("--use-case", help="Which prediction task")] = "category_propensity",
) -> None:
    """Replay the year with known changes and say what the monitor found, when, and what it took it for.

    Nothing is published. It needs the whole year in the lake; champions and scores are kept for the next time.

    Example: nightjar evaluate-monitor --seeds 20 --half both --out docs/monitoring.md
    """
    from pipelines.monitor_backtest import evaluate, plan_year
    from pipelines.monitor_backtest_report import as_markdown

    if half not in _HALVES:
        raise typer.BadParameter(f"not {half}", param_hint="--half A, B or both")
    settings = load_settings()
    use_case = get_use_case(name, settings)
    create_tables(settings, list(load_use_cases(settings).values()))
    with progress_bars() as progress:
        reports = evaluate(settings, use_case, plan_year(seeds), _HALVES[half], jobs, progress)
    text = as_markdown(use_case, reports)
    if out:
        write_block(out, "evaluation", text)
    console.print(text, markup=False, soft_wrap=True)


def write_block(page: Path, name: str, text: str) -> None:
    """Put the text between the page's markers of that name."""
    block = re.compile(rf"<!-- begin {name} -->\n.*?<!-- end -->", re.DOTALL)
    told = block.sub(lambda _: f"<!-- begin {name} -->\n{text}\n<!-- end -->", page.read_text())
    with replacing(page) as unfinished:
        unfinished.write_text(told)
