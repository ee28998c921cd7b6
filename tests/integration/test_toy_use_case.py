"""A second use case of another grain runs through every step on the real year; no shared code knows it."""

import json
from datetime import date

import pytest
import sqlalchemy as sa
from toy import USE_CASE

from pipelines import monitoring, registry, tables, warehouse
from pipelines.feature_store import materialise, open_store
from pipelines.features import build_features
from pipelines.gate import judge
from pipelines.promotion import promote
from pipelines.publishing import publish
from pipelines.scoring import score
from pipelines.settings import PROJECT
from pipelines.training import train
from pipelines.use_cases import load_use_cases

pytestmark = pytest.mark.slow
TRAINED, SCORED, MATURED = date(2017, 11, 12), date(2017, 11, 19), date(2017, 11, 26)  # Sundays


@pytest.fixture(scope="module")
def home(year_copy):
    settings = year_copy(use_cases=["toy"])
    warehouse.create_tables(settings, list(load_use_cases(settings).values()))
    return settings


@pytest.fixture(scope="module")
def toy(home):
    return load_use_cases(home)[USE_CASE.name]


@pytest.fixture(scope="module")
def trained(home, toy):
    return train(home, toy, TRAINED, "test")


@pytest.fixture(scope="module")
def promoted(home, toy, trained):
    judge(home, toy, trained.model_version, TRAINED, "test")
    return promote(home, toy, trained.model_version, "test")


@pytest.fixture(scope="module")
def published(home, toy, promoted):
    reports = {}
    for day in (SCORED, MATURED):
        built = build_features(home, toy, day, "test")
        scored = score(home, toy, day, "test")
        reports[day] = (built, scored, publish(home, toy, day, "test"))
    return reports


@pytest.fixture(scope="module")
def monitored(home, toy, published):
    monitoring.measure_drift(home, toy, SCORED, "test")
    return {
        step.__name__: step(home, toy, MATURED, "test")
        for step in (
            monitoring.record_outcomes,
            monitoring.measure_quality,
            monitoring.measure_drift,
            monitoring.compute_kpis,
            monitoring.record_findings,
            monitoring.decide_retraining,
        )
    }


def rows_of(home, table, **where):
    query = sa.select(table).where(*(table.c[name] == value for name, value in where.items()))
    with warehouse.open_warehouse(home) as connection:
        return warehouse.read_rows(connection, query)


def test_training_registers_a_version_that_beats_the_simple_rules(home, toy, trained):
    version = registry.get_version(home, toy, trained.model_version)

    assert set(trained.quality) == {"binary", "ranker", "blend", "recency", "spend"}
    assert trained.beats_best_rule
    assert trained.gain["low"] > 0
    assert registry.load(home, toy, version)[0].features == toy.features
    assert registry.validation_parameters(home, version)["as_of"] == str(TRAINED)
    services = {service.name for service in open_store(home, toy).list_feature_services()}
    assert services == {"toy_visits", f"toy_visits__v{trained.model_version}"}


def test_promotion_makes_it_champion_and_records_the_evidence(home, toy, trained, promoted):
    assert (promoted.is_promoted, promoted.reason) == (True, "all checks passed")
    assert registry.champion(home, toy).version == trained.model_version
    (row,) = rows_of(home, tables.PROMOTION_LOG, use_case=toy.name)
    assert (row["action"], row["from_version"], row["to_version"]) == ("promote", None, trained.model_version)
    assert all(check["success"] for check in json.loads(row["evidence"]))


def test_each_active_household_gets_its_best_stores_in_order(home, toy, published):
    built, scored, report = published[SCORED]
    rows = rows_of(home, tables.scores_table(toy), score_date=SCORED)
    lists = {}
    for row in sorted(rows, key=lambda row: row["rank"]):
        lists.setdefault(row["household_id"], []).append(row)

    assert (len(rows), len(lists)) == (report.rows, report.entities)
    assert report.entities > 2000
    assert scored.rows >= report.rows
    assert max(map(len, lists.values())) == toy.top_n
    for found in lists.values():
        assert [row["rank"] for row in found] == list(range(1, len(found) + 1))
        assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
        assert len({row["store_id"] for row in found}) == len(found)
    assert {row["score_source"] for row in rows} == {"champion", "cold_start"}
    assert {row["feature_version"] for row in rows} == {built.feature_version}


def test_publishing_equal_rows_again_changes_nothing(home, toy, published):
    again = publish(home, toy, SCORED, "again")

    assert not again.is_changed
    assert again.content_hash == published[SCORED][2].content_hash
    assert len(rows_of(home, tables.PUBLISH_LOG, score_date=SCORED)) == 1


def test_outcomes_are_recorded_for_each_published_row(home, toy, published, monitored):
    report = monitored["record_outcomes"]
    rows = rows_of(home, tables.outcomes_table(toy))

    assert report.score_dates == (SCORED,)
    assert len(rows) == report.rows == published[SCORED][2].rows
    assert 0 < report.positives < report.rows
    assert {row["matured_date"] for row in rows} == {MATURED}
    assert all((row["value_usd"] == 0) for row in rows if not row["is_positive"])
    first, last = ([row["is_positive"] for row in rows if row["rank"] == rank] for rank in (1, toy.top_n))
    assert sum(first) / len(first) > 2 * sum(last) / len(last)


def test_quality_drift_and_figures_are_measured(home, toy, monitored):
    quality = monitored["measure_quality"]
    metrics = rows_of(home, tables.METRICS, use_case=toy.name)

    assert quality.score_dates == (SCORED,)
    assert quality.newest["auc"] > 0.7
    assert "ndcg_at_3" in quality.newest
    assert {row["model_version"] for row in metrics if row["metric"] == "auc"} == {
        registry.champion(home, toy).version,
        "rule:recency",
        "rule:spend",
    }
    drift = {row["slice"] for row in metrics if row["metric"] == "drift_ks" and row["score_date"] == MATURED}
    assert drift == {*toy.features, "score"}
    assert monitored["measure_drift"].features == len(toy.features)
    assert monitored["record_findings"].blocking == 0


def test_kpis_are_written_by_day_and_by_week(home, toy, monitored):
    report = monitored["compute_kpis"]
    (daily,) = rows_of(home, tables.KPI_DAILY, use_case=toy.name, kpi_date=MATURED)
    (weekly,) = rows_of(home, tables.KPI_WEEKLY, use_case=toy.name, kpi_date=MATURED)

    assert report.daily == {"stores_visited": daily["value"]}
    assert 0 < daily["value"] < weekly["value"] <= 457


def test_the_decision_on_a_new_model_is_written_with_its_reason(home, toy, monitored):
    report = monitored["decide_retraining"]
    (row,) = rows_of(home, tables.RETRAIN_DECISIONS, use_case=toy.name)

    assert (row["decision_date"], row["is_requested"], row["reason"]) == (
        MATURED,
        report.is_requested,
        report.reason,
    )
    assert json.loads(row["evidence"])["trained"] == str(TRAINED)
    assert row["gain_usd"] > 0


def test_the_online_store_takes_its_features(home, toy, published):
    report = materialise(home, toy, SCORED, "test")

    assert report.rows == published[SCORED][0].rows


def test_no_shared_code_knows_the_toy():
    shared = [
        path
        for folder in ("pipelines", "dags", "plugins", "expectations", "feature_repo")
        for path in (PROJECT / folder).rglob("*.py")
    ]

    assert len(shared) > 40
    assert [path for path in shared if "toy" in path.read_text().lower()] == []
