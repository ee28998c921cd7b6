"""Three triggers for one training: one run trains, and the others are written down."""

import json
from multiprocessing import get_context

import pytest
from corner_shop import SHOP, day, find, log, publish, register, rows_of

from pipelines import tables
from pipelines.measurements import DATA, Measurement, replace_measurements
from pipelines.retrain_ledger import admit
from pipelines.retrain_policy import hash_of
from pipelines.retraining import decide_retraining
from pipelines.settings import Settings

pytestmark = pytest.mark.fault("F18")
REFERENCE = json.dumps({"score": {"edges": [0.5, 1], "cumulative": [0.5, 1], "threshold": 0.6}})


@pytest.fixture
def due(tmp_path):
    """The shop at the end of day 5: its features have drifted, and its model is older than the policy allows."""
    settings = register(tmp_path, params={"as_of": str(day(-60))}, metrics={"auc": 0.8}, reference=REFERENCE)
    log(settings, 5)
    publish(settings, 5, {1: ["MILK"]})
    replace_measurements(settings, SHOP, day(5), ["drift"], [Measurement("drift", "1", 0.9, clock=DATA)])
    find(settings, 5, clock="data")
    return settings


def ask(home, uri, run_id, by, gate):
    gate.wait(60)
    admit(Settings(home=home, mlflow_tracking_uri=uri), SHOP, day(5), run_id, by)


def test_drift_age_and_a_person_at_once_are_one_training_and_the_others_are_written_down(due):
    decided = decide_retraining(due, SHOP, day(5), "monitor")
    assert decided.is_requested
    context = get_context("spawn")
    gate = context.Barrier(3)
    runs = [("asset", "nightjar"), ("asset again", "nightjar"), ("manual", "ada")]
    processes = [context.Process(target=ask, args=(due.home, due.mlflow_tracking_uri, *run, gate)) for run in runs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]

    (row,) = rows_of(due, tables.RETRAIN_DECISIONS)
    evidence = json.loads(row["evidence"])
    assert {cause["key"].partition(" ")[0] for cause in evidence["causes"]} == {"age", "gain", "rate"}
    assert sorted(one["outcome"] for one in evidence["triggers"]) == ["admitted", "coalesced", "coalesced"]
    assert {(one["run_id"], one["by"]) for one in evidence["triggers"]} == set(runs)
    assert (row["action"], row["is_requested"]) == ("request", True)
    assert row["evidence_hash"] == hash_of([cause["key"] for cause in evidence["causes"]])


def test_the_next_nights_join_the_training_under_way_and_ask_for_none_on_the_same_evidence(due):
    decide_retraining(due, SHOP, day(5), "monitor")
    admit(due, SHOP, day(5), "asset")
    for number in (6, 7):
        log(due, number)
        publish(due, number, {1: ["MILK"]})
        replace_measurements(due, SHOP, day(number), ["drift"], [Measurement("drift", "1", 0.9, clock=DATA)])
        find(due, number, clock="data")

    actions = [decide_retraining(due, SHOP, day(number), "monitor").action for number in (6, 7, 5)]

    assert actions == ["coalesce", "coalesce", "request"]
    requested = [row["decision_date"] for row in rows_of(due, tables.RETRAIN_DECISIONS) if row["is_requested"]]
    assert requested == [day(5)]
