"""DAGs run in this process, task by task, with their real steps."""

import json
from datetime import date, datetime

import pytest
from corner_shop import rows_of

from pipelines import lake, tables
from pipelines.retrain_ledger import admit
from pipelines.use_cases import get_use_case
from pipelines.warehouse import create_tables

pytestmark = pytest.mark.slow
DAY = date(2017, 5, 6)
PRODUCT = {"product_id": 10, "product_category": "MILK", "product_type": "X", "department": "GROCERY"}
TIMES_OF_DAY = ("2017-05-06T13:00:00", "2017-05-06T23:30:00")  # UTC; both on the 6th in New York


@pytest.fixture
def delivered(settings, deliver):
    """One business date with two lines, as the upstream system would deliver it."""
    lines = [
        {
            "household_id": basket,
            "store_id": 300,
            "basket_id": basket,
            "product_id": 10,
            "quantity": 1,
            "sales_value": 2.29,
            "retail_disc": 0.0,
            "coupon_disc": 0.0,
            "coupon_match_disc": 0.0,
            "transaction_timestamp": datetime.fromisoformat(time),
        }
        for basket, time in enumerate(TIMES_OF_DAY, 1)
    ]
    deliver("products", DAY, [PRODUCT])
    deliver("redemptions", DAY, [])
    deliver("transactions", DAY, lines)
    return settings


def test_a_night_ingests_the_business_date_of_its_key_and_tells_the_readers_of_the_asset(delivered, run_dag, events_of):
    tasks = run_dag("ingest", "2017-05-06")
    assert {name: task.state for name, task in tasks.items()} == {"ingest_day": "success"}
    assert lake.dates_of(delivered.lake, "core__transactions") == [DAY]
    assert events_of(tasks["ingest_day"].run_id) == [("core__transactions", "2017-05-06", {})]


@pytest.mark.parametrize("key", [None, "2017-5-6", "20170506", "yesterday", "2017-02-30", "2017-05-06T00"])
def test_a_key_that_is_no_business_date_fails_at_once_with_a_named_error(settings, run_dag, events_of, capfd, key):
    tasks = run_dag("ingest", key)
    assert (tasks["ingest_day"].state, tasks["ingest_day"].try_number) == ("failed", 1)
    assert "InvalidRunParameter: the run names no business date" in capfd.readouterr().out
    assert events_of(tasks["ingest_day"].run_id) == []
    assert not settings.lake.folder.exists()


def test_a_missing_drop_is_not_retried(settings, run_dag, capfd):
    tasks = run_dag("ingest", "2017-05-06")
    assert (tasks["ingest_day"].state, tasks["ingest_day"].try_number) == ("failed", 1)
    assert "MissingDrop" in capfd.readouterr().out


def test_training_without_a_date_asks_for_one(run_dag, capfd):
    tasks = run_dag("train__category_propensity")
    assert {name: task.state for name, task in tasks.items()} == {
        "admit_training": "failed",
        "train_model": "upstream_failed",
        "judge_model": "upstream_failed",
        "promote_model": "upstream_failed",
        "announce_champion": "upstream_failed",
        "write_model_card": "upstream_failed",
    }
    assert "a date as YYYY-MM-DD, such as 2017-11-19" in capfd.readouterr().out


@pytest.mark.fault("F18")
def test_a_second_run_that_would_train_for_a_date_is_skipped_and_wakes_nobody(settings, run_dag, events_of):
    use_case = get_use_case("category_propensity", settings)
    create_tables(settings, [use_case])
    assert admit(settings, use_case, DAY, "the first run").is_admitted

    tasks = run_dag("train__category_propensity", as_of=str(DAY))

    assert {task.state for task in tasks.values()} == {"skipped"}
    assert events_of(tasks["announce_champion"].run_id) == []
    (row,) = rows_of(settings, tables.RETRAIN_DECISIONS)
    told = [(one["by"], one["outcome"]) for one in json.loads(row["evidence"])["triggers"]]
    assert told == [("nightjar", "admitted"), ("dag_test", "coalesced")]


def test_bootstrap_refuses_dates_that_are_out_of_order(run_dag, capfd):
    tasks = run_dag("bootstrap", first_date="2017-05-01", train_date="2017-11-12", last_date="2017-11-11")
    assert tasks["land_files"].state == "failed"
    assert "first_date <= train_date <= last_date" in capfd.readouterr().out


def test_the_janitor_cleans_up_for_an_ingested_date_and_for_no_other(delivered, run_dag, capfd):
    run_dag("ingest", "2017-05-06")
    leftover = delivered.lake.folder / "core__transactions/business_date=2017-05-06/part-00000-orphan.parquet"
    leftover.write_bytes(b"of a writer that was killed")

    tasks = run_dag("janitor", "2017-05-06", variables={"NIGHTJAR_LEFTOVER_HOURS": "0"})
    assert (tasks["remove_old"].state, leftover.exists()) == ("success", False)

    tasks = run_dag("janitor", "2026-11-20")
    assert (tasks["remove_old"].state, tasks["remove_old"].try_number) == ("failed", 1)
    assert "MissingPartition" in capfd.readouterr().out
