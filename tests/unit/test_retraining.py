import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from corner_shop import SHOP, day, log, publish, put_scores, register, rows_of, sell, snapshot

from pipelines import tables
from pipelines.errors import MissingPartition, UnknownVersion
from pipelines.measurements import Measurement, replace_measurements
from pipelines.monitoring import decide_retraining, measure_drift
from pipelines.retraining import Evidence, apply_policy
from pipelines.settings import Settings
from pipelines.use_case import RetrainPolicy

POLICY = RetrainPolicy(champion_max_age_days=28, min_auc_drop=0.02, drifted_feature_share=0.25)
CALM = Evidence(trained_as_of=day(0), validation_auc=0.80, realised_auc=0.79, drifted_share=0.10)
# Training saw one purchase and 2 $ in half of the pairs, two purchases and 4 $ in the others.
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


def note(settings: Settings, number: int, metric: str, value: float, version: str = "1") -> None:
    replace_measurements(settings, SHOP, day(number), [metric], [Measurement(metric, version, value)])


def failed(evidence: Evidence, age_days: int = 7) -> list[str]:
    checks = apply_policy(POLICY, evidence, day(0) + timedelta(days=age_days))
    return [check.name for check in checks if not check.success]


def test_a_young_good_and_steady_model_stays() -> None:
    assert failed(CALM) == []


def test_age_counts_from_the_day_after_the_limit() -> None:
    assert failed(CALM, age_days=28) == []
    assert failed(CALM, age_days=29) == ["days since the model's training date"]


def test_a_realised_auc_far_below_validation_counts() -> None:
    assert failed(replace(CALM, realised_auc=0.7801)) == []
    assert failed(replace(CALM, realised_auc=0.7799)) == ["realised AUC"]


def test_no_matured_scores_are_no_reason() -> None:
    assert failed(replace(CALM, realised_auc=None)) == []


def test_drift_counts_above_the_share_and_not_at_it() -> None:
    assert failed(replace(CALM, drifted_share=0.25)) == []
    assert failed(replace(CALM, drifted_share=0.26)) == ["share of drifted features"]


def test_the_decision_and_its_evidence_are_written_down_once(scored: Settings) -> None:
    note(scored, 5, "drift_share", 0.5)
    note(scored, 3, "auc", 0.79)

    report = decide_retraining(scored, SHOP, day(5), "first")
    decide_retraining(scored, SHOP, day(5), "second")

    (row,) = rows_of(scored, tables.RETRAIN_DECISIONS)
    assert (row["decision_date"], row["is_requested"], row["run_id"]) == (day(5), True, "second")
    assert row["reason"] == report.reason == "share of drifted features: expected at most 0.25, observed 0.5"
    evidence = json.loads(row["evidence"])
    assert evidence["model_version"] == "1"
    observed = {check["name"]: check["observed"] for check in evidence["checks"]}
    assert observed == {
        "days since the model's training date": 12,
        "realised AUC": 0.79,
        "share of drifted features": 0.5,
    }


def test_only_matured_figures_of_the_model_itself_count(scored: Settings) -> None:
    note(scored, 5, "drift_share", 0.0)
    note(scored, 1, "auc", 0.79)
    note(scored, 3, "auc", 0.10, version="0")  # a model that is gone
    note(scored, 4, "auc", 0.10)  # measured by a later run; not known at the end of day 5

    report = decide_retraining(scored, SHOP, day(5), "test")

    assert not report.is_requested
    assert "observed 0.79" in report.reason


def test_nothing_is_decided_when_drift_was_not_measured(scored: Settings) -> None:
    note(scored, 4, "drift_share", 0.9)  # of another date

    with pytest.raises(MissingPartition, match="no basis for a decision"):
        decide_retraining(scored, SHOP, day(5), "test")
    assert rows_of(scored, tables.RETRAIN_DECISIONS) == []


def test_a_version_that_the_registry_does_not_know_is_an_error_and_never_a_request(scored: Settings) -> None:
    publish(scored, 5, {1: ["MILK"]}, version="99")  # the registry knows no such version
    note(scored, 5, "drift_share", 0.9, version="99")

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
    assert found == {
        ("drift_ks", "purchases"): (0.0, "ok"),
        ("drift_ks", "spend_usd"): (0.5, "alert"),
        ("drift_ks", "score"): (0.5, "ok"),
        ("drift_share", "all"): (0.5, "alert"),
        ("auc", "all"): (0.7, "info"),
    }
    assert (report.features, report.drifted, report.drifted_share, report.is_score_drifted) == (
        2,
        ("spend_usd",),
        0.5,
        False,
    )


def test_drift_needs_published_scores(scored: Settings) -> None:
    with pytest.raises(MissingPartition, match="no scores are published"):
        measure_drift(scored, SHOP, day(4), "test")
