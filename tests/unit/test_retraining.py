import json
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from corner_shop import SHOP, day, find, log, publish, put_scores, register, rows_of, sell, snapshot

from pipelines import tables, warehouse
from pipelines.audit import Figures
from pipelines.column_drift import list_drift
from pipelines.errors import MissingPartition, UnknownVersion
from pipelines.measurements import Measurement, replace_measurements
from pipelines.monitoring import decide_retraining, measure_drift
from pipelines.retrain_ledger import admit, past_requests
from pipelines.settings import Settings

REFERENCE = json.dumps(
    {
        "purchases": {"edges": [1, 2], "cumulative": [0.5, 1], "threshold": 0.4},
        "spend_usd": {"edges": [2, 4], "cumulative": [0.5, 1], "threshold": 0.4},
        "score": {"edges": [0.5, 1], "cumulative": [0.5, 1], "threshold": 0.6},
    }
)


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory) -> str:
    home: Path = tmp_path_factory.mktemp("registry")
    facts = {"params": {"as_of": str(day(-7))}, "metrics": {"auc": 0.80}, "reference": REFERENCE}
    return register(home, **facts).mlflow_tracking_uri


@pytest.fixture
def scored(tmp_path: Path, registered: str) -> Settings:
    """The shop at the end of day 5, with scores of that day published by version 1."""
    settings = Settings(home=tmp_path, mlflow_tracking_uri=registered)
    log(settings, 5)
    publish(settings, 5, {1: ["MILK"]})
    return settings


def note(settings: Settings, number: int, metric: str, value: float, version: str = "1", **facts: str) -> None:
    replace_measurements(settings, SHOP, day(number), [metric], [Measurement(metric, version, value, **facts)])


def end_training(settings: Settings, number: int, run_id: str, *, is_success: bool = True) -> None:
    """The training of a day has ended; where well, with version 2."""
    row = {"run_id": run_id, "step": f"train__{SHOP.name}", "partition_key": str(day(number))}
    row |= dict.fromkeys(("wall_s", "cpu_s", "peak_memory_mib", "euros"), 1.0)
    row |= {"is_success": is_success, "model_version": "2" if is_success else None}
    with warehouse.open_warehouse(settings) as connection:
        warehouse.append_rows(connection, tables.RUN_COSTS, [row])


def say(settings: Settings, action: str, version: str, before: str = "1") -> None:
    """The log of promotions says this of a version."""
    with warehouse.open_warehouse(settings) as connection:
        number = len(warehouse.read_rows(connection, sa.select(tables.PROMOTION_LOG)))
        row = {"run_id": "t", "recorded_at": datetime(2017, 5, 8, tzinfo=UTC), "use_case": SHOP.name, "action": action}
        row |= {"from_version": before, "to_version": version, "is_promoted": action != "refuse", "actor": "nightjar"}
        row |= {"reason": "", "evidence": "[]", "previous_hash": str(number), "entry_hash": str(number + 1)}
        warehouse.append_rows(connection, tables.PROMOTION_LOG, [row])


def decisions(settings: Settings) -> list[dict[str, Any]]:
    return rows_of(settings, tables.RETRAIN_DECISIONS)


def triggers(settings: Settings) -> list[tuple[str, str, str]]:
    (row,) = decisions(settings)
    return [(one["run_id"], one["by"], one["outcome"]) for one in json.loads(row["evidence"])["triggers"]]


def test_the_decision_and_its_evidence_are_written_down_once(scored: Settings) -> None:
    note(scored, 5, "drift", 0.1, clock="data")
    find(scored, 5)

    report = decide_retraining(scored, SHOP, day(5), "first")
    (before,) = decisions(scored)
    again = decide_retraining(scored, SHOP, day(5), "second")

    assert again == report
    assert decisions(scored) == [before]
    assert (before["decision_date"], before["action"], before["is_requested"]) == (day(5), "request", True)
    assert before["reason"] == report.reason
    assert "households buy otherwise" in report.reason
    evidence = json.loads(before["evidence"])
    assert (evidence["trained"], evidence["model_version"]) == (str(day(-7)), "1")
    assert [cause["key"] for cause in evidence["causes"]] == ["rate of all since 2017-05-05"]
    assert before["evidence_hash"] == sha256(evidence["causes"][0]["key"].encode()).hexdigest()


def test_the_same_evidence_asks_once_whatever_becomes_of_the_challenger(scored: Settings) -> None:
    for number in (5, 6, 16):
        log(scored, number)
        publish(scored, number, {1: ["MILK"]})
        note(scored, number, "drift", 0.1, clock="data")
        find(scored, number)
    decide_retraining(scored, SHOP, day(5), "test")
    at_once = decide_retraining(scored, SHOP, day(6), "test")
    end_training(scored, 5, "train")
    say(scored, "refuse", "2")

    later = decide_retraining(scored, SHOP, day(16), "test")

    assert [(one.action, one.is_requested) for one in (at_once, later)] == [("coalesce", False)] * 2
    assert verdicts(scored) == ["refuse"]


def test_only_matured_figures_of_known_models_count(scored: Settings) -> None:
    note(scored, 5, "drift", 0.1, clock="data")
    note(scored, 0, "avoidable_log_loss", 0.0004)  # matured on day 2
    note(scored, -1, "avoidable_log_loss", 0.1, version="0")  # a model that is gone
    note(scored, 4, "avoidable_log_loss", 0.1)  # not known at the end of day 5

    report = decide_retraining(scored, SHOP, day(5), "test")

    assert (report.action, report.is_requested) == ("none", False)
    (row,) = decisions(scored)
    known = {"score_date": str(day(0)), "trained": str(day(-7)), "avoidable": 0.0004}
    assert json.loads(row["evidence"])["matured"] == [known]


def test_a_kpi_below_its_band_is_a_cause_where_a_rule_has_it_too(scored: Settings) -> None:
    note(scored, 5, "drift", 0.1, clock="data")
    row = {"use_case": SHOP.name, "kpi_date": day(5), "value": 0.2, "band_low": 0.3, "band_high": 0.4}
    row |= {"status": "alert", "unit": "share", "owner": "tests", "meaning": "hits"}
    with warehouse.open_warehouse(scored) as connection:
        kpis = [row | {"kpi": "baskets", "reference": None}, row | {"kpi": "hit_rate", "reference": 0.25}]
        warehouse.append_rows(connection, tables.KPI_WEEKLY, kpis)

    report = decide_retraining(scored, SHOP, day(5), "test")

    assert report.reason.startswith("hit_rate is 0.2, usually 0.3 on; a new model")


def test_data_at_fault_block_the_decision_and_a_training_by_hand(scored: Settings) -> None:
    note(scored, 5, "drift", 0.1, clock="data")
    find(scored, 5, action="block", metric="sales_usd")
    find(scored, 5)

    assert decide_retraining(scored, SHOP, day(5), "test").action == "block"
    refused = admit(scored, SHOP, day(5), "by hand", "ada")

    assert (refused.is_admitted, refused.reason) == (False, "the data are at fault: households buy otherwise")
    assert triggers(scored) == [("by hand", "ada", "refused")]
    assert not decisions(scored)[0]["is_requested"]
    assert admit(scored, SHOP, day(5), "by hand", "ada", anyway=True).is_admitted


def test_a_second_trigger_for_a_date_is_coalesced_and_a_retry_of_the_first_is_not(scored: Settings) -> None:
    note(scored, 5, "drift", 0.1, clock="data")
    find(scored, 5)
    decide_retraining(scored, SHOP, day(5), "monitor")

    admitted = [admit(scored, SHOP, day(5), run, by).is_admitted for run, by in (("r1", "nightjar"), ("r2", "ada"))]
    retried = admit(scored, SHOP, day(5), "r1")

    assert (admitted, retried.is_admitted) == ([True, False], True)
    assert triggers(scored) == [("r1", "nightjar", "admitted"), ("r2", "ada", "coalesced")]
    decide_retraining(scored, SHOP, day(5), "monitor again")
    assert len(triggers(scored)) == 2


def test_after_a_training_that_failed_another_run_may_train(scored: Settings) -> None:
    assert admit(scored, SHOP, day(5), "r1", "ada").is_admitted
    end_training(scored, 5, "r1", is_success=False)

    assert admit(scored, SHOP, day(5), "r2", "ada").is_admitted


def test_the_monitor_joins_a_training_that_somebody_asked_for_and_its_causes_are_used_up(scored: Settings) -> None:
    assert admit(scored, SHOP, day(5), "r1", "ada").is_admitted
    note(scored, 5, "drift", 0.1, clock="data")
    find(scored, 5)

    report = decide_retraining(scored, SHOP, day(5), "monitor")

    assert (report.is_requested, report.reason) == (True, "asked for by ada")
    assert not admit(scored, SHOP, day(5), "r2").is_admitted
    with warehouse.open_warehouse(scored) as connection:
        (request,) = past_requests(connection, SHOP, day(6))
    assert request.keys == {"rate of all since 2017-05-05"}


def verdicts(settings: Settings) -> list[str]:
    with warehouse.open_warehouse(settings) as connection:
        return [one.verdict for one in past_requests(connection, SHOP, day(9))]


def test_what_became_of_a_training_is_what_was_said_last_of_its_model(scored: Settings) -> None:
    assert verdicts(scored) == []
    admit(scored, SHOP, day(5), "r1", "ada")
    assert verdicts(scored) == [""]
    end_training(scored, 5, "r1")
    say(scored, "promote", "2")
    assert verdicts(scored) == ["promote"]
    say(scored, "rollback", "1", before="2")
    assert verdicts(scored) == ["rollback"]


def test_nothing_is_decided_when_drift_was_not_measured(scored: Settings) -> None:
    note(scored, 4, "drift", 0.9, clock="data")  # of another date

    with pytest.raises(MissingPartition, match="no basis for a decision"):
        decide_retraining(scored, SHOP, day(5), "test")
    assert decisions(scored) == []


def test_a_version_that_the_registry_does_not_know_is_an_error_and_never_a_request(scored: Settings) -> None:
    publish(scored, 5, {1: ["MILK"]}, version="99")  # the registry knows no such version
    note(scored, 5, "drift", 0.9, version="99", clock="data")

    with pytest.raises(UnknownVersion):
        decide_retraining(scored, SHOP, day(5), "test")
    assert rows_of(scored, tables.RETRAIN_DECISIONS) == []


def test_drift_is_measured_over_the_candidates_of_the_date(scored: Settings) -> None:
    # pairs: (1, MILK) twice for 4 $, (1, BREAD) once for 4 $; FUEL is no candidate
    sell(scored, 5, purchases=[(5, 1, 1, "1.00"), (5, 1, 1, "3.00"), (5, 1, 2, "4.00"), (5, 1, 4, "9.00")])
    snapshot(scored, 5)
    put_scores(
        scored,
        5,
        [(1, "MILK", 0.9, "champion"), (1, "BREAD", 0.8, "champion"), (2, "MILK", 0.1, "cold_start")],
    )
    note(scored, 5, "auc", 0.7)

    report = measure_drift(scored, SHOP, day(5), "test")
    measure_drift(scored, SHOP, day(5), "again")

    found = {(r["metric"], r["slice"]): (r["value"], r["status"]) for r in rows_of(scored, tables.METRICS)}
    assert {key: told for key, told in found.items() if key[0] != "drift_detectable"} == {
        ("drift_ks", "purchases"): (0.0, "ok"),
        ("drift_ks", "spend_usd"): (0.5, "warn"),  # in this week alone
        ("drift_ks", "score"): (0.5, "ok"),
        ("drift_share", "all"): (0.0, "ok"),
        ("auc", "all"): (0.7, "info"),
    }
    assert (report.features, report.drifted, report.is_score_drifted) == (2, (), False)


def test_drift_that_lasts_into_a_second_week_counts(scored: Settings) -> None:
    # the spend of day -2 was beyond its limit too; half of the features are drifted, and no trees say which matters
    sell(scored, 5, purchases=[(5, 1, 1, "1.00"), (5, 1, 1, "3.00"), (5, 1, 2, "4.00")])
    snapshot(scored, 5)
    put_scores(scored, 5, [(1, "MILK", 0.9, "champion"), (1, "BREAD", 0.8, "champion")])
    earlier = Measurement("drift_ks", "1", 0.5, slice="spend_usd", threshold=0.4, clock="data")
    replace_measurements(scored, SHOP, day(-2), ["drift_ks"], [earlier])

    report = measure_drift(scored, SHOP, day(5), "test")

    assert (report.drifted, report.drifted_share) == (("spend_usd",), 0.5)
    statuses = {(r["metric"], r["slice"]): r["status"] for r in rows_of(scored, tables.METRICS)}
    assert statuses["drift_share", "all"] == "alert"


def test_lists_are_held_against_those_of_the_same_weekday_before(scored: Settings) -> None:
    entry = {"run_id": "r", "use_case": SHOP.name, "rows": 10, "content_hash": "h", "feature_version": "f"}
    entry |= {"actor": "nightjar", "reason": "", "status": "published", "model_version": "1"}
    mixes = {-16: {"MILK": 1.0}, -9: {"MILK": 0.5, "BREAD": 0.5}, -2: {"MILK": 0.5, "BREAD": 0.5}, 5: {"BEER": 1.0}}
    with warehouse.open_warehouse(scored) as connection:
        for number, items in mixes.items():
            figures = Figures(rows=10, entities=5, cold_start=0, scores=(1,), items=items)
            told = {"score_date": day(number), "audit": json.dumps({"figures": figures.model_dump()})}
            warehouse.append_rows(connection, tables.PUBLISH_LOG, [entry | told])

    (found, detectable) = list_drift(scored, SHOP, day(5), "1")

    # among themselves the weeks are .5, .25 and .25 from the mean of the others
    assert (found.value, found.reference, found.threshold) == pytest.approx((1.0, 0.25, 0.25))
    assert (found.status, found.clock, detectable.slice) == ("warn", "prediction", "list_mix_change all")
    assert list_drift(scored, SHOP, day(-9), "1") == list_drift(scored, SHOP, day(5), "2") == []


def test_drift_needs_published_scores(scored: Settings) -> None:
    with pytest.raises(MissingPartition, match="no scores are published"):
        measure_drift(scored, SHOP, day(4), "test")
