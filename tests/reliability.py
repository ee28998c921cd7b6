"""Which fault or attack of the catalogue has which tests, and what came of them: `make reliability` writes the page."""

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CATALOGUE = {
    "F1": "SIGKILL while files are written",
    "F2": "SIGKILL while scores are published",
    "F3": "SIGKILL between the commit and the task's success",
    "F4": "The same task is dispatched twice at once",
    "F5": "A paused worker wakes up after its replacement has finished",
    "F6": "The same file is delivered twice",
    "F7": "A file is delivered again, corrected",
    "F8": "Rows come days late",
    "F9": "Truncated, empty or garbled files",
    "F10": "The columns of a delivery change",
    "F11": "Poison rows",
    "F12": "A value of an upstream error code takes a column over",
    "F13": "An empty day, a tenth or ten times of the rows",
    "F14": "A day upstream is missing",
    "F15": "Clocks: daylight saving, leap days, other zones",
    "F16": "Backfills in any order and in parallel",
    "F17": "Training and scoring at the same time",
    "F18": "Several triggers for one training",
    "F19": "The disk is full",
    "F20": "The warehouse is away or restarts",
    "F21": "Locks, deadlocks, slow statements",
    "F22": "The model registry is down",
    "F23": "The registry's alias is missing, deleted, or moves",
    "F24": "A model's files are corrupt or swapped",
    "F25": "The features differ from the model's",
    "F26": "Features are stale",
    "F27": "Rows written later leak into training",
    "F28": "The feature store's registry is corrupt or changed by two",
    "F29": "A challenger is worse, or was trained on nonsense",
    "F30": "A bad model was promoted",
    "F31": "Scheduler, API server or a task is killed",
    "F32": "The alert channel is down; a storm of alerts",
    "S1": "No pickles and no evaluated text in the scoring path",
    "S2": "A malicious model bundle",
    "S3": "A model that is not the signed one",
    "S4": "Promotion without gate and approver; an edited log",
    "S5": "A data set that is not in the ledger",
    "S6": "Forged baskets that push one product",
    "S7": "Published rows are edited by hand",
    "S8": "A role does what it may not do",
    "S9": "SQL in parameters, file names and product names",
    "S10": "Hostile parameters of a run",
    "S11": "Secrets in logs, files and parameters",
    "S12": "Default, empty or short secrets",
    "S13": "Airflow's open doors",
    "S14": "MLflow's open doors",
    "S15": "Unlocked dependencies",
    "S16": "Raw ids of households",
    "S17": "A request to erase a household",
    "S18": "Personal data in quarantine",
    "S19": "Paths, archives and formulas in files",
    "S20": "Containers and file modes",
}
MARKS = ("fault", "attack")
FAST = ("tests/faults/test_crash_points.py", "tests/faults/test_night_schedules.py")
PAGE = Path(__file__).parents[1] / "docs" / "reliability.md"
_RUN = pytest.StashKey["Run"]()


class Run:
    """What the tests of a session said, by fault."""

    def __init__(self, workers: int = 1) -> None:
        self.began = time.monotonic()
        self.workers = workers
        self.outcomes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        self.figures: dict[str, Any] = {}
        self.fast_s = 0.0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of a test, under every fault that it is about."""
        told = dict(report.user_properties)
        if told.get("faults") and report.nodeid.startswith(FAST):
            self.fast_s += report.duration
        if report.when == "call" or report.outcome != "passed":
            test = report.nodeid.partition("[")[0]
            for number in str(told.get("faults", "")).split():
                self.outcomes[number][test].append(report.outcome)
            for name, value in told.items():  # whole numbers of several cases add up
                known = self.figures.get(name, 0) if isinstance(value, int) else ""
                self.figures |= {} if name == "faults" else {name: value + known}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--reliability", action="store_true", help="write docs/reliability.md from the tests that ran")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--reliability") and not hasattr(config, "workerinput"):
        config.stash[_RUN] = Run(config.getoption("numprocesses", None) or 1)
        config.pluginmanager.register(config.stash[_RUN])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A report says which faults its test is about, also where another process writes the page."""
    for item in items:
        numbers = [mark.args[0] for mark in item.iter_markers() if mark.name in MARKS]
        if numbers:
            item.user_properties.append(("faults", " ".join(dict.fromkeys(numbers))))


@pytest.fixture
def reliability(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """Notes a figure for the page."""
    return record_property


@pytest.fixture(scope="session")
def is_thorough(pytestconfig: pytest.Config) -> bool:
    """Whether every schedule and every pass of a crash point is tried, for the page; else a share of them."""
    return bool(pytestconfig.getoption("--reliability"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    run = session.config.stash.get(_RUN, None)
    if run is not None:
        PAGE.write_text(as_markdown(run))


def as_markdown(run: Run) -> str:
    """The page: figures, and for each fault its tests, as sentences, with the number of cases that passed."""
    known = {number: tests for number in CATALOGUE if (tests := run.outcomes.get(number))}
    cases = [outcome for tests in known.values() for found in tests.values() for outcome in found]
    fast_min = run.fast_s / 60 / run.workers
    lines = [
        "# What it survives",
        "",
        "Written by `make reliability` from the tests that it ran; nobody edits it. Each line below is a test, or as",
        "many as the number behind it says, that fails without the protection it names.",
        "",
        "| figure | measured |",
        "|---|---|",
        f"| Faults and attacks with tests | {len(known)} of {len(CATALOGUE)} |",
        f"| Cases | {len(cases)}, of which {cases.count('passed')} passed |",
        f"| Time of all crash points and all schedules of a night | {fast_min:.1f} minutes on {run.workers} workers |",
        f"| Elapsed time of this run | {(time.monotonic() - run.began) / 60:.1f} minutes |",
        *(f"| {name} | {value} |" for name, value in sorted(run.figures.items())),
    ]
    for number, title in CATALOGUE.items():
        lines += ["", f"## {number} {title}"]
        lines += [_told(test, found) for test, found in sorted(known.get(number, {}).items())] or ["", "No test yet."]
    return "\n".join(lines) + "\n"


def _told(test: str, outcomes: list[str]) -> str:
    file, _, name = test.partition("::")
    failed = len(outcomes) - outcomes.count("passed")
    times = f" ({len(outcomes)})" if len(outcomes) > 1 else ""
    state = f" **{failed} did not pass**" if failed else ""
    return f"- {name.removeprefix('test_').replace('_', ' ')}{times}{state} · `{file.removeprefix('tests/')}`"
