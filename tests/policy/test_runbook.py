"""The runbook: every error and every page leads to a section, and what a section says to type exists."""

import re
import shlex
from datetime import UTC, date, datetime

import pytest
import sqlalchemy as sa
import typer

from pipelines import errors, paging, run_pages, warehouse, watch
from pipelines.cli import app
from pipelines.paging import Page
from pipelines.run_pages import EndedRun
from pipelines.settings import PROJECT
from pipelines.use_cases import load_use_cases

TEXT = (PROJECT / "docs/running.md").read_text()
SECTIONS = {
    re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-"): body
    for title, body in re.findall(r"^## (.+)\n((?:(?!## ).*\n?)*)", TEXT, re.MULTILINE)
}
PARTS = ("**Symptom**", "**Meaning**", "**First look**", "**Repair**", "**How to know**")
CODE = re.findall(r"```\w*\n(.*?)```", TEXT, re.DOTALL)
INLINE = [
    " ".join(code.split())
    for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL))
]
LINES = [line.removeprefix("$ ").partition("#")[0].strip() for block in CODE for line in block.splitlines()]
COMMANDS = {code for code in (*INLINE, *LINES) if code.startswith(("nightjar ", "make ", "airflow "))}
QUERIES = {
    " ".join(query.split()).rstrip(";")
    for text in (*INLINE, *(part for block in CODE for part in block.split(";")))
    for query in [text.strip()]
    if query.startswith("SELECT") and "<" not in query
}


def subclasses(kind):
    return {kind, *(each for child in kind.__subclasses__() for each in subclasses(child))}


ERRORS = sorted(subclasses(errors.NightjarError), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_every_error_leads_to_a_section(kind):
    assert kind.runbook in SECTIONS
    shown = str(kind("what", where="where", remedy="remedy"))
    assert shown.endswith(f"runbook:  docs/running.md#{kind.runbook}")


def pages(settings):
    """A page of every kind that there is."""
    at, day = datetime(2017, 5, 3, 12, tzinfo=UTC), date(2017, 5, 2)
    silent = settings.model_copy(update={"airflow_url": "http://127.0.0.1:9"})
    (use_case,) = load_use_cases(settings).values()
    warehouse.create_tables(settings, [use_case])
    watch._check_date(settings, use_case, day, at)
    list(watch._check_scheduler(silent, at))
    paging.page(settings, watch.warehouse_page("gone", "p"), at)
    for reason in ("task_failure", "timed_out"):
        run_pages.page_failure(settings, EndedRun("score__x", reason, day, "o", reason, "publish_scores"), at)
        day = date(2017, 5, 1)
    for number in range(9):
        paging.page(settings, Page(key=f"{number}", what="w", cause="c", meaning="m", runbook="a-run-failed"), at)
    return [known.page for known in paging.read_state(settings).open.values()]


def test_every_page_leads_to_a_section(settings):
    anchors = {page.runbook for page in pages(settings)}
    assert anchors >= {"scores-are-late", "the-warehouse-is-down", "a-task-was-killed", "many-things-fail-at-once"}
    assert anchors | {"the-audit-refused-the-scores", "scores-came-from-a-fallback"} <= SECTIONS.keys()


def test_every_anchor_in_the_code_is_a_section():
    code = "".join(path.read_text() for path in (PROJECT / "pipelines").glob("*.py"))
    assert set(re.findall(r'runbook(?:: ClassVar\[str\])? ?= ?"([a-z-]+)"', code)) <= SECTIONS.keys()


@pytest.mark.parametrize(
    "file", [*sorted((PROJECT / "observability").rglob("alerts.yml")), PROJECT / "docs/running.md"]
)
def test_every_link_to_the_runbook_leads_to_a_section(file):
    links = re.findall(r"(?:running\.md|\()#([a-z0-9-]+)", file.read_text())
    assert links
    assert set(links) <= SECTIONS.keys()


def test_every_section_about_a_failure_tells_all_that_on_call_needs():
    failures = {kind.runbook for kind in ERRORS} - {"start-and-stop"}
    failures |= {name for name, body in SECTIONS.items() if PARTS[0] in body}
    assert len(failures) >= 15
    for name in failures:
        assert [part for part in PARTS if part not in SECTIONS[name]] == [], name


def test_the_table_at_the_top_names_every_section_about_a_failure():
    top = TEXT.partition("\n## ")[0]
    for name, body in SECTIONS.items():
        assert PARTS[0] not in body or f"(#{name})" in top, name


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_what_the_runbook_says_to_type_exists(command):
    words = shlex.split(command.replace("…", ""))
    CHECKS[words[0]](words[1:])


def nightjar_takes(words):
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands
        command, words = command.commands[words[0]], words[1:]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known


def make_takes(words):
    targets = re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert set(words) <= set(targets)


def airflow_takes(words):
    from airflow.cli.cli_parser import get_parser

    get_parser().parse_args(words)


CHECKS = {"nightjar": nightjar_takes, "make": make_takes, "airflow": airflow_takes}


def test_the_checks_of_commands_notice_what_does_not_exist():
    for wrong in ("nightjar forecast", "nightjar score --day 2017-11-19", "make everything", "airflow pools fill"):
        with pytest.raises((AssertionError, SystemExit)):
            test_what_the_runbook_says_to_type_exists(wrong)
    assert {command.split()[0] for command in COMMANDS} == CHECKS.keys()


def test_what_the_runbook_asks_the_warehouse_can_be_asked(settings):
    warehouse.create_tables(settings, list(load_use_cases(settings).values()))
    assert len(QUERIES) >= 8
    with warehouse.open_warehouse(settings) as connection:
        for query in sorted(QUERIES):
            connection.execute(sa.text(query)).fetchall()
