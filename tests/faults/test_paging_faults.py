"""F32 and the rest of what can go wrong between an incident and the people who must hear of it."""

import os
import signal
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import pytest

from local_stack.receivers import Receivers
from pipelines import paging
from pipelines.errors import ChecksFailed, EngineFailure, MissingDrop, NightjarError, WarehouseDown
from pipelines.paging import Page, deliver, note_cause, page, resolve
from pipelines.run_pages import EndedRun, cause_of, page_failure, resolve_run
from pipelines.settings import PROJECT, load_settings

NIGHT = date(2017, 11, 21)
AT = datetime(2017, 11, 22, 10, 5, tzinfo=UTC)  # 05:05 in New York
INGEST = EndedRun("ingest", "scheduled__1", NIGHT, "data platform", "task_failure", "ingest_day", "http://log/ingest")
CHANNELS = ("slack", "email", "pagerduty")
PAGED = "[Nightjar] ingest failed for 2017-11-21: MissingDrop"


def minutes(number):
    return AT + timedelta(minutes=number)


@pytest.fixture
def inbox():
    receivers = Receivers()
    yield receivers
    receivers.stop()


@pytest.fixture
def home(tmp_path, inbox, monkeypatch):
    for name, value in inbox.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NIGHTJAR_HOME", str(tmp_path))
    return load_settings()


def news(key="k", part="", **told):
    return Page(key=key, part=part, what=f"{key} failed", cause="why", meaning="m", runbook="a-run-failed", **told)


def fail(home, run, error, at=AT, task=""):
    task = task or run.last_task
    note_cause(home, run.notes, cause_of(error, task, f"http://log/{task}", at))


def no_drop():
    return MissingDrop("there is no drop", where="landing/transactions/date=2017-11-21", remedy="have it delivered")


@pytest.mark.fault("F32")
def test_a_channel_that_is_down_gets_the_page_once_when_it_is_back_and_the_others_at_once(home, inbox):
    inbox.start("mail")
    fail(home, INGEST, no_drop())
    page_failure(home, INGEST, AT)
    assert set(deliver(home, AT)) == {"slack", "pagerduty"}
    assert inbox.arrived[0][:2] == ("email", PAGED)

    deliver(home, minutes(10))  # still down
    inbox.start("web")
    deliver(home, minutes(25))
    assert deliver(home, minutes(26)) == {}

    assert {channel: inbox.subjects(channel) for channel in CHANNELS} == {channel: [PAGED] for channel in CHANNELS}
    assert "kept 25 minutes, as this channel was down" in inbox.arrived[-1][2]
    assert "kept" not in inbox.arrived[0][2]


@pytest.mark.fault("F32")
def test_a_channel_that_is_down_is_asked_less_and_less_often(home, monkeypatch):
    asked = []
    monkeypatch.setattr("pipelines.channels.send", lambda settings, channel, *_: asked.append(channel) or "refused")
    page(home, news(), AT)
    for minute in range(120):
        deliver(home, minutes(minute))
    assert 8 <= asked.count("slack") <= 14  # at 0, 1, 2, 4, 8, 16 minutes, then every 15
    assert paging.read_state(home).outbox[0].channels == CHANNELS


@pytest.mark.fault("F32")
def test_fifty_failed_tasks_are_one_page_with_the_first_causes_and_their_number(home, inbox):
    inbox.start()
    run = EndedRun("score__shop", "r", NIGHT, "team", "task_failure", "task_49", "http://log")
    for number in range(50):
        fail(home, run, EngineFailure("the lake is gone", where=f"disk {number}", remedy="mount it"),
             AT + timedelta(seconds=number), f"task_{number}")  # fmt: skip
    page_failure(home, run, minutes(2))
    deliver(home, minutes(2))

    assert inbox.subjects("email") == ["[Nightjar] score__shop failed for 2017-11-21: EngineFailure, 50 tasks"]
    text = inbox.arrived[0][2]
    assert "Cause:    task_0: EngineFailure: the lake is gone; disk 0; task_1: " in text
    assert text.splitlines()[0].endswith("; and 47 more")
    assert "Log:      http://log/task_0" in text


@pytest.mark.fault("F32")
def test_many_incidents_at_once_are_paged_until_five_and_then_together(home, inbox):
    inbox.start()
    for number in range(50):
        page(home, news(f"run {number}"), AT + timedelta(seconds=number))
    deliver(home, minutes(1))
    assert len(inbox.subjects("slack")) == 6
    assert inbox.subjects("slack")[5].startswith("[Nightjar] 6 incidents within 5 minutes")

    for number in range(49):
        resolve(home, f"run {number}", minutes(30))
    deliver(home, minutes(30))
    assert len(inbox.subjects("slack")) == 11, "the five are resolved, the flood lasts as long as one of its parts"
    resolve(home, "run 49", minutes(31))
    deliver(home, minutes(31))
    assert inbox.subjects("slack")[11].startswith("[Nightjar] resolved: 6 incidents within")
    assert page(home, news("the next day"), minutes(60))


def test_a_rerun_that_fails_again_pages_nobody_again_and_one_that_succeeds_resolves_once(home, inbox):
    inbox.start()
    for attempt in range(3):
        run = EndedRun("ingest", f"run_{attempt}", NIGHT, "data platform", "task_failure", "ingest_day")
        fail(home, run, no_drop(), minutes(attempt))
        assert page_failure(home, run, minutes(attempt)) == (attempt == 0)
        deliver(home, minutes(attempt))
    for minute in (30, 40):
        resolve_run(home, EndedRun("ingest", "run_3", NIGHT, "data platform"), minutes(minute))
        deliver(home, minutes(minute))

    assert inbox.subjects("slack") == [PAGED, PAGED.replace("ingest", "resolved: ingest", 1)]
    assert [(event["event_action"], event["dedup_key"]) for event in inbox.events] == [
        ("trigger", "ingest 2017-11-21"),
        ("resolve", "ingest 2017-11-21"),
    ]


def test_another_date_is_another_incident(home):
    assert page_failure(home, INGEST, AT)
    assert page_failure(home, EndedRun("ingest", "r2", date(2017, 11, 22), "o", "task_failure", "ingest_day"), AT)


def test_everything_that_a_warehouse_drags_down_is_one_incident_until_all_of_it_has_recovered(home, inbox):
    inbox.start()
    down = WarehouseDown("lost", where="postgresql://db/w", found="connection refused", remedy="start it")
    nights = [EndedRun("ingest", f"r{n}", date(2017, 11, n), "o", "task_failure", "ingest_day") for n in (21, 22)]
    for run in nights:
        fail(home, run, down)
        page_failure(home, run, AT)
    for run in nights:
        resolve_run(home, run, minutes(5))
        deliver(home, minutes(5))
        if run is nights[0]:
            assert inbox.subjects("email") == ["[Nightjar] the warehouse is down"], "one night still lacks"
    assert inbox.subjects("email") == ["[Nightjar] the warehouse is down", "[Nightjar] resolved: the warehouse is down"]


@pytest.mark.parametrize(
    ("run", "error", "runbook", "readers"),
    [
        (INGEST, no_drop(), "a-drop-failed-validation", "not ingested"),
        (
            EndedRun("score__shop", "r", NIGHT, "o", "task_failure", "publish_scores"),
            ChecksFailed("1 of 9 checks failed", where="scores__shop", found="score: 7", remedy="see"),
            "the-audit-refused-the-scores",
            "the newest date published before",
        ),
        (
            EndedRun("score__shop", "r", NIGHT, "o", "task_failure", "materialise_features"),
            KeyError("x"),
            "a-run-failed",
            "the right scores; only online look-ups are a day old",
        ),
        (
            EndedRun("score__shop", "r", NIGHT, "o", "task_failure", "publish_scores"),
            None,
            "a-task-was-killed",
            "whole",
        ),
        (EndedRun("ingest", "r", NIGHT, "o", "timed_out", "ingest_day"), None, "a-run-failed", "not ingested"),
    ],
)
def test_the_page_says_what_failed_what_readers_see_and_where_to_look(home, inbox, run, error, runbook, readers):
    inbox.start()
    if error:
        fail(home, run, error)
    page_failure(home, run, AT)
    deliver(home, AT)
    text = inbox.arrived[0][2]
    assert f"docs/running.md#{runbook}\n" in text
    assert readers in text
    assert "Since:    2017-11-22 05:05 EST" in text


def test_no_secret_and_no_person_stands_in_a_page(home, inbox):
    inbox.start()
    secret = home.pagerduty_routing_key.get_secret_value()
    found = f"household_id=2070 of postgresql://nightjar:hunter2@db/w, key {secret}, pseudonym 956985085195024"
    fail(home, INGEST, EngineFailure("it broke\nbadly", where="here", found=found, remedy=f"not {secret}"))
    fail(home, INGEST, ValueError("household 2070 bought beer"))
    page_failure(home, INGEST, AT)
    deliver(home, AT)
    told = "".join(subject + text for _, subject, text in inbox.arrived)
    for hidden in (secret, "hunter2", "2070", "956985085195024", "beer"):
        assert hidden not in told, hidden
    assert "it broke badly; here; found household_id=*** of postgresql://db/w" in told


def test_who_refuses_is_told_without_the_secret_address(home, inbox):
    page(home, news(), AT)
    assert "a-secret-path" not in str(deliver(home, AT))
    assert deliver(home, AT).keys() == set(CHANNELS)


def test_nothing_in_an_error_can_call_a_slack_channel(home, inbox):
    inbox.start()
    page(home, news("<!channel> & co"), AT)
    deliver(home, AT)
    assert inbox.subjects("slack") == ["[Nightjar] &lt;!channel&gt; &amp; co failed"]


@pytest.mark.fault("F32")
def test_two_processes_that_see_the_same_incident_send_one_page(home, inbox):
    inbox.start()
    code = (
        "import sys; from datetime import datetime, UTC; from pipelines import paging;"
        "from pipelines.settings import load_settings; s = load_settings(); at = datetime.now(UTC)\n"
        "for n in range(20): paging.page(s, paging.Page(key=f'k{n % 4}', what='w', cause=sys.argv[1], meaning='m',"
        " runbook='r'), at); paging.deliver(s, at)"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, name], cwd=PROJECT) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    for channel in CHANNELS:
        assert len(inbox.subjects(channel)) == 4
    assert sum(known.count for known in paging.read_state(home).open.values()) == 40


@pytest.mark.fault("F32")
def test_a_crash_between_sending_and_noting_repeats_one_message_on_one_channel_with_the_same_names(home, inbox):
    inbox.start()
    page(home, news(), AT)
    code = (
        "from datetime import datetime, UTC; from pipelines import paging;"
        "from pipelines.settings import load_settings; paging.deliver(load_settings(), datetime.now(UTC))"
    )
    crash = {**os.environ, "NIGHTJAR_CRASH_AT": "paging.sent"}
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, env=crash, check=False)
        assert done.returncode == -signal.SIGKILL
    deliver(home, minutes(1))
    deliver(home, minutes(2))
    assert [channel for channel, *_ in inbox.arrived] == ["slack", "slack", "slack", "email", "pagerduty"]


def test_without_a_channel_nothing_is_kept_to_be_sent(settings):
    assert page(settings, news(), AT)
    assert deliver(settings, AT) == {}
    assert paging.read_state(settings).outbox == []


def test_only_errors_of_ours_are_quoted():
    assert cause_of(KeyError("secret"), "t", "", AT).error == "KeyError: see the log"
    assert cause_of(NightjarError("w", where="x", remedy="r"), "t", "", AT).error == "NightjarError: w; x"
