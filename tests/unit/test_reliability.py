"""The page on reliability says what the tests said, and no test names a fault that the catalogue does not know."""

import re
from pathlib import Path

import pytest
from reliability import CATALOGUE, PAGE, Run, as_markdown

TESTS = Path(__file__).parents[1]


def marks():
    found = {}
    for path in TESTS.rglob("test_*.py"):
        for number in re.findall(r"mark\.(?:fault|attack)\(\"(\w+)\"\)", path.read_text()):
            found.setdefault(number, path.name)
    return found


def a_report(test, faults, outcome="passed", **figures):
    told = [("faults", faults), *figures.items()]
    return pytest.TestReport(test, ("", 0, ""), {}, outcome, None, "call", user_properties=told, duration=30)


def test_every_mark_names_a_fault_or_an_attack_of_the_catalogue():
    assert {number: path for number, path in marks().items() if number not in CATALOGUE} == {}


def test_the_page_counts_what_passed_and_shows_what_did_not():
    run = Run(workers=2)
    run.pytest_runtest_logreport(
        a_report("tests/faults/test_crash_points.py::test_rows_stay[1]", "F1 F2", Rows="0 lost", Kills=2)
    )
    run.pytest_runtest_logreport(a_report("tests/faults/test_crash_points.py::test_rows_stay[2]", "F1 F2", Kills=3))
    run.pytest_runtest_logreport(a_report("tests/unit/test_b.py::test_no_formula", "S19", "failed"))

    page = as_markdown(run)

    assert "| Cases | 5, of which 4 passed |" in page
    assert "| Time of all crash points and all schedules of a night | 0.5 minutes on 2 workers |" in page
    assert "| Kills | 5 |" in page
    assert "| Rows | 0 lost |" in page
    assert "## F1 SIGKILL while files are written\n- rows stay (2) · `faults/test_crash_points.py`" in page
    assert "- no formula **1 did not pass** · `unit/test_b.py`" in page
    assert "## F32 The alert channel is down; a storm of alerts\n\nNo test yet." in page


@pytest.mark.skipif(not PAGE.exists(), reason="make reliability has not written the page yet")
def test_the_page_knows_every_fault_that_has_a_test():
    page = PAGE.read_text()
    for number in marks():
        assert f"## {number} {CATALOGUE[number]}\n-" in page, f"{number}: make reliability"
