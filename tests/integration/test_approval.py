"""A model that passed the gate waits in a real Airflow: for silence, a no, its own trainer's yes, somebody else's yes.

The tests run in this order: each asks again, and after the last there is nothing left to ask.
"""

import pytest
from approvals import waiting_run
from registered import aliases
from toy import USE_CASE

from pipelines import promotion_log, warehouse
from pipelines.errors import EngineFailure
from pipelines.use_cases import load_use_cases

pytestmark = pytest.mark.slow
REFUSED = {"ask_approval": "success", "promote_model": "success", "announce_champion": "skipped"}


@pytest.fixture(scope="module")
def waiting(year_copy):
    settings = year_copy(use_cases=["toy"])
    warehouse.create_tables(settings, list(load_use_cases(settings).values()))
    with waiting_run(settings, timeout_hours=0.03) as waiting:  # 108 s
        yield waiting


@pytest.fixture
def asked(waiting):
    waiting.admin.ask_again(waiting.run_id)
    waiting.admin.wait_for(waiting.run_id, ask_approval="awaiting_input")
    return waiting


def test_silence_means_no(waiting):
    subject, body = waiting.approver.question(waiting.run_id)
    assert subject == "Shall version 1 of Store visits be champion?"
    assert "| NDCG over the rule spend |" in body
    assert "(/nightjar/model_cards/toy_visits/v1.html)" in body
    with pytest.raises(EngineFailure, match="403"):
        waiting.viewer.answer(waiting.run_id, "Approve")

    waiting.admin.wait_for(waiting.run_id, **REFUSED)

    assert waiting.newest() == ("refuse", "nightjar", "admin", "nobody answered within 0.03 hours")
    assert aliases(waiting.settings, USE_CASE) == (None, "1")


def test_a_no_is_written_down_with_its_reason(asked):
    asked.approver.answer_until(asked.run_id, "Reject", "not before the holidays", **REFUSED)

    assert asked.newest() == ("refuse", "approver", "admin", "not before the holidays")


@pytest.mark.attack("S4")
def test_who_started_the_training_cannot_approve_it(asked):
    asked.admin.answer_until(asked.run_id, "Approve", "it is mine", **REFUSED)

    assert asked.newest()[:3] == ("refuse", "admin", "admin")
    assert aliases(asked.settings, USE_CASE) == (None, "1")


def test_a_yes_of_somebody_else_makes_a_champion(asked):
    asked.approver.answer_until(
        asked.run_id, "Approve", "the gain is worth it", **REFUSED | {"announce_champion": "success"}
    )

    assert asked.newest() == ("promote", "approver", "admin", "the gain is worth it")
    assert aliases(asked.settings, USE_CASE) == ("1", None)
    assert promotion_log.verify(asked.settings, USE_CASE) == 4
