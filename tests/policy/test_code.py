"""What holds for all code of the project: sizes, the clock, assertions, and light imports."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
FOLDERS = ("pipelines", "dags", "plugins", "feature_repo", "expectations")
MODULES = sorted(path for folder in FOLDERS for path in (PROJECT / folder).rglob("*.py"))
AROUND = sorted(path for folder in ("local_stack", "benchmarks") for path in (PROJECT / folder).glob("*.py"))
HEAVY = ("pandas", "lightgbm", "feast", "mlflow", "great_expectations", "sklearn", "duckdb", "pyarrow")


def lines_of(path):
    """Lines that somebody has to read."""
    return [line for line in path.read_text().splitlines() if line.strip()]


@pytest.mark.parametrize("path", MODULES + AROUND, ids=lambda path: str(path.relative_to(PROJECT)))
def test_a_module_is_short_enough_to_read_at_once(path):
    assert len(lines_of(path)) <= 300


def words_of(path):
    """Lines of docstrings, among them the pages of the DAGs."""
    places = (ast.Module, ast.ClassDef, ast.FunctionDef)
    words = [
        ast.get_docstring(node) or "" for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, places)
    ]
    return sum(1 for text in words for line in text.splitlines() if line.strip())


def test_all_code_together_can_be_read_in_a_day():
    assert sum(len(lines_of(path)) - words_of(path) for path in MODULES) < 17000


@pytest.mark.parametrize("path", sorted((PROJECT / "pipelines").rglob("*.py")), ids=lambda path: path.name)
def test_no_step_reads_the_clock_or_asserts_data(path):
    tree = ast.parse(path.read_text())
    calls = {
        ast.unparse(node.func).removeprefix("sa.func.now")  # a default that the database fills in, in its logs only
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    clocks = [call for call in calls if call.endswith((".now", ".today", ".utcnow"))]
    assert path.name in ("cli_watch.py", "cli_serve.py") or not clocks, (
        "time is an argument, which the command line passes on"
    )
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)], "data is checked by named errors"


def test_use_cases_and_settings_import_nothing_heavy():
    code = "import sys, pipelines.use_cases as u, pipelines.settings as s; u.load_use_cases(s.load_settings()); "
    shown = subprocess.run(
        [sys.executable, "-c", code + "print(*sys.modules)"], capture_output=True, text=True, check=True, cwd=PROJECT
    )
    assert not set(shown.stdout.split()) & set(HEAVY)


def test_no_module_has_a_name_that_says_nothing():
    assert not {path.stem for path in MODULES + AROUND} & {"utils", "helpers", "common", "manager", "misc"}
