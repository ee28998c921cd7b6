"""What people hear of a run, from the callbacks that Airflow calls with what Airflow gives them."""

from datetime import date

import pytest

from local_stack.receivers import Receivers
from pipelines import paging

pytestmark = pytest.mark.slow
NIGHT = "2017-05-06"
FAILED = "[Nightjar] ingest failed for 2017-05-06: MissingDrop"


@pytest.fixture
def inbox():
    with Receivers() as receivers:
        yield receivers


def test_a_run_that_fails_is_one_page_for_all_its_reruns_and_resolved_when_one_ends_well(
    settings, inbox, deliver, run_dag
):
    for _ in range(2):
        assert run_dag("ingest", NIGHT, inbox.variables)["ingest_day"].state == "failed"
    assert inbox.subjects("email") == inbox.subjects("slack") == inbox.subjects("pagerduty") == [FAILED]
    text = inbox.arrived[0][2]
    assert "Cause:    ingest_day: MissingDrop: " in text
    assert "/dags/ingest/runs/" in text
    assert "/tasks/ingest_day?try_number=1\n" in text
    assert "Owner:    data platform\n" in text

    day = date.fromisoformat(NIGHT)
    deliver("products", day, [{"product_id": 10, "product_category": "MILK", "product_type": "X", "department": "G"}])
    deliver("redemptions", day, [])
    deliver("transactions", day, [], is_closed=True)
    assert run_dag("ingest", NIGHT, inbox.variables)["ingest_day"].state == "success"
    assert inbox.subjects("email") == [FAILED, FAILED.replace("ingest", "resolved: ingest", 1)]


@pytest.mark.fault("F18")
def test_three_requests_for_the_same_training_that_fail_are_one_page(settings, inbox, run_dag):
    for _ in range(3):
        tasks = run_dag(
            "train__category_propensity", variables=inbox.variables | {"NIGHTJAR_RETRIES": "0"}, as_of="2017-05-06"
        )
        assert tasks["train_model"].state == "failed"
    assert len(inbox.subjects("email")) == 1
    assert inbox.subjects("email")[0].startswith("[Nightjar] train__category_propensity failed for 2017-05-06")


@pytest.mark.fault("F32")
def test_channels_that_are_down_change_no_run(settings, deliver, run_dag):
    nobody_listens = Receivers().variables
    assert run_dag("ingest", NIGHT, nobody_listens)["ingest_day"].state == "failed"
    tasks = run_dag("deadline", NIGHT, nobody_listens)
    assert tasks["check_deadline"].state == "success", "that a page cannot be sent fails nothing"
    state = paging.read_state(settings)
    assert [message.page.key for message in state.outbox] == ["ingest 2017-05-06"]
    assert state.open["ingest 2017-05-06"].parts == {"ingest 2017-05-06", "late category_propensity 2017-05-06"}
