"""What OpenLineage is told: each run of a task, with the tables that it read and wrote."""

import json
import os
from pathlib import Path

import pytest
from airflow.serialization.serialized_objects import DagSerialization

from local_stack.airflow_server import airflow_environment
from pipelines.contracts import CORE_TABLES, DROPS
from pipelines.settings import Settings

# They make no row of a table of ours.
WITHOUT_TABLES = {"prepare_stores", "request_training", "announce_champion", "remove_old", "check_deadline"}


@pytest.fixture
def events_told(run_dag):
    """Runs a DAG and gives what its tasks told: event, job, names of its inputs, names of its outputs.

    What is told of whole runs comes from a process of its own, at any later time: also during the next test.
    """
    file = Path(json.loads(os.environ["AIRFLOW__OPENLINEAGE__TRANSPORT"])["log_file_path"])

    def events_told(dag_id, key):
        before = file.stat().st_size if file.exists() else 0
        run_dag(dag_id, key)
        told = [json.loads(line) for line in file.read_text()[before:].splitlines()]
        assert {event["job"]["namespace"] for event in told} == {"nightjar"}
        return [
            (event["eventType"], event["job"]["name"], *({table["name"] for table in event[side]} for side in SIDES))
            for event in told
            if "." in event["job"]["name"]
        ]

    return events_told


SIDES = ("inputs", "outputs")


def shown(dag):
    """Names of the tables that each task of a DAG reads and writes."""
    return {
        task.task_id: tuple(
            {f"{each.database}.{each.name}" for each in side if hasattr(each, "database")}
            for side in (task.inlets, task.outlets)
        )
        for task in dag.tasks
    }


@pytest.mark.slow
def test_a_failed_ingest_is_told_with_its_tables(events_told):
    told = events_told("ingest", "2017-05-06")  # nothing was delivered

    landing, core = {f"landing.{name}" for name in DROPS}, {f"lake.{name}" for name in CORE_TABLES}
    written = core | {"lake.quarantine__transactions"}
    assert told == [
        ("START", "ingest.ingest_day", landing, written),
        ("FAIL", "ingest.ingest_day", landing, written),
    ]


def test_every_task_that_touches_a_table_says_which(read_dags):
    for dag in read_dags().dags.values():
        silent = {name.rpartition(".")[2] for name, (reads, writes) in shown(dag).items() if not (reads or writes)}
        assert silent <= WITHOUT_TABLES, dag.dag_id


def test_the_tables_of_a_night_hang_together(read_dags):
    bag = read_dags()
    ingest = shown(bag.dags["ingest"])["ingest_day"]
    score = shown(bag.dags["score__category_propensity"])
    monitor = shown(bag.dags["monitor__category_propensity"])

    named = ("transactions", "products", "redemptions", "households")  # in the use case's SQL, no more
    read = {f"lake.core__{name}" for name in named}
    assert score["build_features"][0] == read
    assert score["build_features"][0] < ingest[1]
    assert score["build_features"][1] <= score["score_candidates"][0]
    assert score["score_candidates"][1] <= score["publish_scores"][0]
    assert score["publish_scores"][1] == {"warehouse.scores__category_propensity"}
    assert score["publish_scores"][1] <= monitor["record_outcomes"][0]


def test_each_use_case_of_bootstrap_has_its_own_tables(read_dags):
    tables = shown(read_dags(NIGHTJAR_USE_CASES="toy").dags["bootstrap"])

    assert tables["toy_visits.publish_scores"][1] == {"warehouse.scores__toy_visits"}
    assert tables["category_propensity.publish_scores"][1] == {"warehouse.scores__category_propensity"}
    assert tables["ingest_history"] == tables["ingest_catch_up"]


def test_dags_with_tables_survive_airflows_database(read_dags):
    for dag in read_dags().dags.values():
        stored = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
        assert {task.task_id: len(task.inlets) for task in stored.tasks} == {
            task.task_id: len(task.inlets) for task in dag.tasks
        }


def test_events_go_to_a_file_unless_openlineages_own_variables_say_where(tmp_path, monkeypatch):
    settings, transport = Settings(home=tmp_path), "AIRFLOW__OPENLINEAGE__TRANSPORT"

    told = json.loads(airflow_environment(settings, 8080)[transport])
    assert told == {
        "type": "file",
        "log_file_path": str(tmp_path / "openlineage" / "events.jsonl"),
        "append": True,
    }
    assert (tmp_path / "openlineage").is_dir()

    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:5000")
    environment = airflow_environment(settings, 8080)
    assert transport not in environment
    assert environment["OPENLINEAGE_URL"] == "http://127.0.0.1:5000"
