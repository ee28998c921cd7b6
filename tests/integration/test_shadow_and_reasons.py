"""Nights of the toy on real data: full lists with additive reasons, a challenger in the shadow, excluded items."""

import json
from datetime import date, timedelta

import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from toy import USE_CASE
from typer.testing import CliRunner

from pipelines import lake, monitoring, registry, tables, warehouse
from pipelines.champion import load_version
from pipelines.cli import app
from pipelines.errors import NotPublished, SnapshotRefused
from pipelines.explain import explain
from pipelines.measurements import EVERYTHING, LABEL
from pipelines.metrics import paired_interval
from pipelines.publishing import publish
from pipelines.quality_rows import scored_by_all
from pipelines.scoring import candidate_features, score
from pipelines.shadow import realised, score_challenger

pytestmark = pytest.mark.slow
LEARNT, NIGHT, MATURED = date(2017, 11, 12), date(2017, 11, 19), date(2017, 11, 26)


@pytest.fixture(scope="module")
def scored(toy_copy):
    """Two nights by version 1, with version 2 in the shadow; the labels of the first are known."""
    home = toy_copy()
    for day in (NIGHT, MATURED):
        by_champion = score(home, USE_CASE, day, "test")
        publish(home, USE_CASE, day, "test", by_champion.model_version)
        shadow = score_challenger(home, USE_CASE, day, "test", by_champion.model_version, by_champion.problem)
        assert (by_champion.model_version, shadow.model_version, shadow.reason) == ("1", "2", "")
        assert shadow.rows == by_champion.rows
    return home


def published(home, day=NIGHT):
    table = tables.scores_table(USE_CASE)
    with warehouse.open_warehouse(home) as connection:
        return warehouse.read_rows(connection, sa.select(table).where(table.c.score_date == day))


def test_the_contributions_of_every_published_row_add_up_to_its_log_odds(scored):
    rows = {
        (row["household_id"], row["store_id"]): row for row in published(scored) if row["score_source"] == "champion"
    }
    features = candidate_features(scored, USE_CASE, NIGHT)
    keys = list(zip(*(features.column(name).to_pylist() for name in USE_CASE.keys), strict=True))
    picked = np.array([place for place, key in enumerate(keys) if key in rows])
    model = load_version(scored, USE_CASE, "1")
    found = model.contributions(model.look_at(features, 2), picked, 2)

    score_of = np.array([rows[keys[place]]["score"] for place in picked])
    assert len(score_of) == len(rows) > 4000
    total = found.base + found.features.sum(axis=1)
    assert np.abs(total - np.log(score_of / (1 - score_of))).max() < 1e-6


def test_reasons_say_what_the_features_say(scored):
    features = {
        (row["household_id"], row["store_id"]): row for row in candidate_features(scored, USE_CASE, NIGHT).to_pylist()
    }
    rows = published(scored)
    for row in rows:
        told = [row[f"reason_{place}"] for place in (1, 2, 3)]
        if row["score_source"] == "cold_start":
            assert told == ["popular with all", None, None]
            assert row["is_low_confidence"]
        else:
            seen = features[row["household_id"], row["store_id"]]
            wanted = {
                f"visited {seen['visits_84d']} times in 12 weeks",
                f"last visit {seen['days_since_visit']} days ago",
            }
            assert {reason.removeprefix("although ") for reason in told[:2]} == wanted
            assert told[2] is None
    assert {row["score_source"] for row in rows} == {"champion", "cold_start"}


def test_the_account_of_a_row_names_values_contributions_and_history(scored, monkeypatch):
    row = next(one for one in published(scored) if one["score_source"] == "champion" and one["rank"] == 1)
    monkeypatch.setenv("NIGHTJAR_HOME", str(scored.home))
    monkeypatch.setenv("NIGHTJAR_USE_CASES", "toy")
    monkeypatch.setenv("NIGHTJAR_SIGNING_KEY", scored.signing_key.get_secret_value())
    asked = ["--use-case", "toy_visits", "--date", str(NIGHT)]
    asked += ["--household", str(row["household_id"]), "--category", row["store_id"]]

    told = json.loads(CliRunner().invoke(app, ["explain", *asked, "--json"], catch_exceptions=False).stdout)
    shown = CliRunner().invoke(app, ["explain", *asked], catch_exceptions=False).stdout

    added = {name: contribution for name, (_, contribution) in told["features"].items()}
    assert set(added) == set(USE_CASE.features)
    assert told["base"] + sum(added.values()) == pytest.approx(told["log_odds"], abs=1e-6)
    assert 1 / (1 + np.exp(-told["log_odds"])) == pytest.approx(row["score"])
    assert told["groups"]["last visit"] == pytest.approx(added["days_since_visit"])
    sizes = [abs(one) for one in added.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert list(told["history"]) == [str(NIGHT - timedelta(days=7 * back)) for back in range(12)]
    assert sum(told["history"].values()) == pytest.approx(told["features"]["spend_usd_84d"][0], abs=0.01)
    for name in (*USE_CASE.features, "last visit", str(NIGHT)):
        assert name in shown


def test_a_row_whose_features_were_built_anew_is_not_explained_by_others(toy_home):
    report = score(toy_home, USE_CASE, NIGHT, "test")
    publish(toy_home, USE_CASE, NIGHT, "test", report.model_version)
    row = next(one for one in published(toy_home) if one["score_source"] == "champion")
    with pytest.raises(NotPublished):
        explain(toy_home, USE_CASE, NIGHT, row["household_id"], "no such store")
    table = USE_CASE.feature_tables[0].name
    path, _ = lake.require_snapshot(toy_home.lake, table, NIGHT)
    rows = pq.read_table(path, partitioning=None)
    lake.replace_snapshot(toy_home.lake, table, rows.slice(1), NIGHT)

    with pytest.raises(SnapshotRefused, match="not those that were scored"):
        explain(toy_home, USE_CASE, NIGHT, row["household_id"], row["store_id"])


def test_the_shadow_is_judged_beside_the_champion_without_touching_its_alerts(scored):
    assert realised(scored, USE_CASE, ("2", "1"), LEARNT, MATURED) is None  # no labels yet
    monitoring.record_outcomes(scored, USE_CASE, MATURED, "test")
    report = monitoring.measure_quality(scored, USE_CASE, MATURED, "test")
    with warehouse.open_warehouse(scored) as connection:
        of_all_rows = tables.METRICS.c.slice == EVERYTHING, tables.METRICS.c.clock == LABEL
        metrics = warehouse.read_rows(connection, sa.select(tables.METRICS).where(*of_all_rows))
    of = {name: {row["metric"]: row for row in metrics if row["model_version"] == name} for name in ("1", "2")}

    assert report.score_dates == (NIGHT,)
    assert report.newest == {metric: row["value"] for metric, row in of["1"].items()}
    at_3 = {f"{figure}_at_3" for figure in ("precision", "recall", "ndcg", "hit", "value_captured")}
    assert set(of["2"]) == {"auc", "log_loss", "ece", *at_3}
    assert {(row["status"], row["threshold"]) for row in of["2"].values()} == {("info", None)}
    rows = {name: scored_by_all(scored, USE_CASE, NIGHT, name)[name] for name in ("1", "2")}
    assert realised(scored, USE_CASE, ("2", "1"), LEARNT, MATURED) == paired_interval(USE_CASE, rows["2"], rows["1"])
    assert realised(scored, USE_CASE, ("2", "1"), LEARNT, MATURED - timedelta(days=1)) is None
    assert realised(scored, USE_CASE, ("2", "1"), NIGHT + timedelta(days=1), MATURED) is None  # learnt from it
    assert realised(scored, USE_CASE, ("2", None), LEARNT, MATURED) is None
    assert realised(scored, USE_CASE, ("3", "1"), LEARNT, MATURED) is None


def test_no_shadow_where_the_champion_did_not_score_or_nobody_challenges(toy_home):
    report = score_challenger(toy_home, USE_CASE, NIGHT, "test", "rule:spend", "the registry is down")
    assert (report.rows, report.reason) == (0, "the champion did not score the night: the registry is down")
    registry.set_alias(toy_home, USE_CASE, registry.CHALLENGER, None)
    assert score_challenger(toy_home, USE_CASE, NIGHT, "test", "1", "").reason == "there is no challenger"


def test_a_night_of_the_rule_is_monitored_and_asks_for_a_model(toy_home):
    registry.set_alias(toy_home, USE_CASE, registry.CHAMPION, None)
    for day in (NIGHT, MATURED):
        report = score(toy_home, USE_CASE, day, "test")
        publish(toy_home, USE_CASE, day, "test", report.model_version)
    monitoring.record_outcomes(toy_home, USE_CASE, MATURED, "test")

    quality = monitoring.measure_quality(toy_home, USE_CASE, MATURED, "test")
    drift = monitoring.measure_drift(toy_home, USE_CASE, MATURED, "test")
    asked = monitoring.decide_retraining(toy_home, USE_CASE, MATURED, "test")

    assert quality.newest["ece"] < 0.05  # it is a probability
    assert quality.alerts == ()
    assert (drift.model_version, drift.features) == ("rule:spend", 0)
    assert asked.is_requested
    account = explain(toy_home, USE_CASE, NIGHT, *key_of(published(toy_home)[0]))
    assert (account.log_odds, account.features) == (None, {})
    assert account.row["reason_1"] == "first by the simple rule spend, in place of a model"


def key_of(row):
    return row["household_id"], row["store_id"]


@pytest.mark.parametrize("path", ["champion", "cached", "baseline", "stored scores of an older version"])
def test_an_excluded_item_is_on_no_list_whoever_made_it(toy_copy, path):
    home = toy_copy()
    busiest = max_store(home)
    without = USE_CASE.model_copy(update={"excluded_items": (busiest,)})
    if path == "cached":
        score(home, without, NIGHT, "test")
        registry.open_registry(home).delete_model_version(USE_CASE.name, "1")
    if path == "baseline":
        registry.set_alias(home, USE_CASE, registry.CHAMPION, None)
    if path.startswith("stored"):
        version = score(home, without, NIGHT, "test", "2").model_version
    else:
        report = score(home, without, NIGHT, "test")
        assert report.score_source == path
        version = report.model_version
    publish(home, without, NIGHT, "test", version)

    rows = published(home)
    assert {row["score_source"] for row in rows} >= {"cold_start"}
    assert busiest not in {row["store_id"] for row in rows}
    assert len(rows) == USE_CASE.top_n * len({row["household_id"] for row in rows})


def max_store(home):
    stores = candidate_features(home, USE_CASE, NIGHT).column("store_id").value_counts().to_pylist()
    return max(stores, key=lambda one: one["counts"])["values"]
