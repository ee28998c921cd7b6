"""The toy use case runs through all DAGs on real data; neither dags/ nor plugins/ know it."""

from datetime import date

import pytest
import sqlalchemy as sa
from toy import USE_CASE

from pipelines import lake, promotion_log, registry, tables, warehouse
from pipelines.landing import land

pytestmark = pytest.mark.slow
TOY = {"NIGHTJAR_USE_CASES": "toy"}
DATES = {"first_date": "2017-07-03", "train_date": "2017-11-12", "last_date": "2017-11-12"}
NIGHT = date(2017, 11, 13)


def states(tasks):
    return {name: task.state for name, task in tasks.items()}


def test_a_use_case_of_the_settings_has_dags_of_its_own(read_dags):
    bag = read_dags(**TOY)
    assert not bag.import_errors
    assert {f"{kind}__toy_visits" for kind in ("score", "monitor", "train", "rollback")} < set(bag.dags)
    assert "toy_visits.train_model" in bag.dags["bootstrap"].task_ids


def test_the_toy_runs_through_all_dags(settings, run_dag, events_of):
    others = "category_propensity\\..*"  # what tests of its own run
    bootstrap = run_dag("bootstrap", variables=TOY, mark_success=others, **DATES)
    assert states(bootstrap) == dict.fromkeys(bootstrap, "success") | {"ingest_catch_up": "skipped"}
    assert events_of(bootstrap["land_files"].run_id) == []
    assert published_dates(settings) == [date(2017, 11, 12)]

    land(settings, NIGHT, NIGHT)
    ingest = run_dag("ingest", str(NIGHT), TOY)
    assert states(ingest) == {"ingest_day": "success"}
    assert max(lake.dates_of(settings.lake, "core__transactions")) == NIGHT

    score = run_dag("score__toy_visits", str(NIGHT), TOY)
    assert states(score) == dict.fromkeys(score, "success") | {"score_challenger": "skipped"}  # there is none
    assert events_of(score["publish_scores"].run_id) == [("scores__toy_visits", str(NIGHT), {})]
    assert published_dates(settings) == [date(2017, 11, 12), NIGHT]

    monitor = run_dag("monitor__toy_visits", str(NIGHT), TOY)
    asked = decision(settings)
    answer = {"request_training": "success" if asked else "skipped"}
    assert states(monitor) == dict.fromkeys(monitor, "success") | answer
    wanted = [("retrain__toy_visits", str(NIGHT), {})] if asked else []
    assert events_of(monitor["request_training"].run_id) == wanted

    train = run_dag("train__toy_visits", variables=TOY, as_of="2017-11-12")
    champion = registry.champion(settings, USE_CASE).version
    assert set(states(train).values()) == {"success"}
    assert champion == "2"
    event = ("model__toy_visits", "2017-11-12", {"model_version": champion})
    assert events_of(train["announce_champion"].run_id) == [event]

    asking = TOY | {"NIGHTJAR_PROMOTION": "approval"}
    older = run_dag("train__toy_visits", variables=asking, as_of="2017-11-05")  # it cannot be compared: red
    not_asked = {"ask_approval": "skipped", "announce_champion": "skipped"}
    assert states(older) == dict.fromkeys(older, "success") | not_asked
    newest = promotion_log.history(settings, USE_CASE)[-1]
    assert (newest["action"], newest["to_version"], newest["actor"]) == ("refuse", "3", "nightjar")

    undo = {"model_version": "1", "first_date": str(NIGHT), "last_date": str(NIGHT), "reason": "2 is bad"}
    rollback = run_dag("rollback__toy_visits", variables=TOY, **undo)
    assert set(states(rollback).values()) == {"success"}
    assert registry.champion(settings, USE_CASE).version == "1"
    event = ("model__toy_visits", "2017-11-12", {"model_version": "1"})
    assert events_of(rollback["announce_champion"].run_id) == [event]
    newest = promotion_log.history(settings, USE_CASE)[-1]
    assert (newest["action"], newest["actor"], newest["reason"]) == ("rollback", "dag_test", "2 is bad")


def published_dates(settings):
    query = sa.select(tables.scores_table(USE_CASE).c.score_date).distinct().order_by("score_date")
    with warehouse.open_warehouse(settings) as connection:
        return list(connection.scalars(query))


def decision(settings):
    table = tables.RETRAIN_DECISIONS
    query = sa.select(table.c.is_requested).where(table.c.decision_date == NIGHT)
    with warehouse.open_warehouse(settings) as connection:
        return connection.scalars(query).one()
