"""What must hold for every DAG; the lists come from the registry of use cases and the DAGs themselves."""

import ast
import json
import subprocess
import sys
from datetime import date, timedelta

import pytest
from airflow.sdk import Asset, CronPartitionTimetable, PartitionedAssetTimetable, RetryAction
from airflow.sdk.exceptions import ParamValidationError

from local_stack.airflow_server import POOL
from pipelines.errors import BadInput, DatesNotIngested, EngineFailure, MissingDrop, NoChampion
from pipelines.settings import PROJECT, Settings
from pipelines.use_cases import load_use_cases

HEAVY = (
    *("pandas", "numpy", "pyarrow", "duckdb", "deltalake"),
    *("lightgbm", "feast", "mlflow", "great_expectations"),
)
USE_CASES = list(load_use_cases(Settings()))
KINDS = ("score", "monitor", "train", "rollback")
DATES = {
    *(("bootstrap", f"{kind}_date") for kind in ("first", "train", "last")),
    *((f"train__{name}", "as_of") for name in USE_CASES),
    *((f"rollback__{name}", f"{kind}_date") for name in USE_CASES for kind in ("first", "last")),
}
DAG_FILES = sorted((PROJECT / "dags").glob("*.py"))


@pytest.fixture
def bag(read_dags):
    bag = read_dags()
    assert not bag.import_errors
    return bag


def test_there_are_four_shared_dags_and_four_for_each_use_case(bag):
    of_use_cases = {f"{kind}__{name}" for name in USE_CASES for kind in KINDS}
    assert set(bag.dags) == {"ingest", "bootstrap", "janitor", "deadline"} | of_use_cases


def test_no_dag_uses_what_airflow_has_deprecated(bag):
    assert bag.captured_warnings == {}


def test_every_dag_says_what_when_why_and_what_to_do_when_it_fails(bag):
    for dag in bag.dags.values():
        for heading in ("**What**", "**When, and why then**", "**Reads**", "**Writes**", "**When it fails**"):
            assert heading in dag.doc_md, (dag.dag_id, heading)
        assert dag.description
        assert "nightjar" in dag.tags


def test_every_task_says_what_it_does(bag):
    for dag in bag.dags.values():
        for task in dag.tasks:
            assert task.doc_md, (dag.dag_id, task.task_id)


def test_every_task_has_an_owner_a_pool_a_timeout_and_retries_with_backoff(bag):
    for dag in bag.dags.values():
        for task in dag.tasks:
            assert task.owner not in ("", "airflow"), (dag.dag_id, task.task_id)
            assert task.pool == POOL
            assert timedelta(0) < task.execution_timeout <= timedelta(hours=1)
            assert task.retries > 0
            assert task.retry_exponential_backoff > 1


def test_dags_of_a_use_case_belong_to_its_owner(bag):
    for name, use_case in load_use_cases(Settings()).items():
        for kind in KINDS:
            assert {task.owner for task in bag.dags[f"{kind}__{name}"].tasks} == {use_case.owner}


def test_one_run_of_a_dag_at_a_time_and_none_is_made_up_for_the_past(bag):
    for dag in bag.dags.values():
        assert dag.max_active_runs == 1
        assert not dag.catchup


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (MissingDrop("no drop", where="landing", remedy="deliver it"), RetryAction.FAIL),
        (NoChampion("no champion", where="registry", remedy="train"), RetryAction.FAIL),
        (DatesNotIngested("the day before is missing", where="lake", remedy="ingest it"), RetryAction.RETRY),
        (EngineFailure("the warehouse is locked", where="warehouse", remedy="wait"), RetryAction.RETRY),
        (ConnectionResetError("lost"), RetryAction.RETRY),
        (TimeoutError("slow"), RetryAction.RETRY),
        (OSError(28, "No space left on device"), RetryAction.RETRY),
    ],
)
def test_bad_input_is_never_retried_but_a_lost_connection_is_and_a_date_that_another_run_may_bring_in(
    bag, error, action
):
    for dag in bag.dags.values():
        for task in dag.tasks:
            assert task.retry_policy.evaluate(error, 1, 3).action == action


def test_every_error_that_says_the_input_is_bad_is_recognised_by_the_retry_policy(bag):
    policy = bag.dags["ingest"].tasks[0].retry_policy
    for kind in BadInput.__subclasses__():
        error = kind("what", where="where", remedy="remedy")
        assert policy.evaluate(error, 1, 3).action == RetryAction.FAIL


def test_partitioned_assets_join_the_dags_of_a_use_case(bag):
    for name in USE_CASES:
        listens = {
            f"score__{name}": "core__transactions",
            f"monitor__{name}": f"scores__{name}",
            f"train__{name}": f"retrain__{name}",
        }
        for dag_id, asset in listens.items():
            timetable = bag.dags[dag_id].timetable
            assert isinstance(timetable, PartitionedAssetTimetable)
            assert timetable.asset_condition.name == asset
        assert emitted(bag.dags[f"score__{name}"]) == {"publish_scores": [f"scores__{name}"]}
        assert emitted(bag.dags[f"monitor__{name}"]) == {"request_training": [f"retrain__{name}"]}
        for kind in ("train", "rollback"):
            assert emitted(bag.dags[f"{kind}__{name}"]) == {"announce_champion": [f"model__{name}"]}
    assert emitted(bag.dags["ingest"]) == {"ingest_day": ["core__transactions"]}


@pytest.mark.parametrize("dag_id", ["bootstrap", "janitor", "deadline"])
def test_what_makes_no_core_table_and_no_scores_wakes_nobody(bag, dag_id):
    assert emitted(bag.dags[dag_id]) == {}


def emitted(dag):
    assets = {task.task_id: [each.name for each in task.outlets if isinstance(each, Asset)] for task in dag.tasks}
    return {task_id: names for task_id, names in assets.items() if names}


@pytest.mark.parametrize("dag_id", ["ingest", "janitor", "deadline"])
def test_the_daily_key_is_the_business_date_that_has_just_ended(bag, dag_id):
    timetable = bag.dags[dag_id].timetable
    assert isinstance(timetable, CronPartitionTimetable)
    assert (timetable.key_format, timetable.run_offset) == ("%Y-%m-%d", -1)
    assert str(timetable.timezone) == "America/New_York"


@pytest.mark.parametrize("dag_id", ["ingest", "janitor", "deadline"])
def test_the_schedule_ends_after_the_run_of_its_last_business_date(read_dags, dag_id):
    dag = read_dags(NIGHTJAR_SCHEDULE_END_DATE="2017-11-20").dags[dag_id]
    assert dag.end_date.isoformat() == "2017-11-22T04:59:59.999999+00:00"  # in UTC
    assert read_dags(NIGHTJAR_SCHEDULE_END_DATE="").dags[dag_id].end_date is None


@pytest.mark.parametrize("nonsense", ["soon", "2017-13-01", "2017-11-31", "20171119", 7, True, {"a": 1}])
def test_params_refuse_what_is_no_date(bag, nonsense):
    for dag_id, name in DATES:
        with pytest.raises(ParamValidationError):
            bag.dags[dag_id].params.get_param(name).resolve(nonsense)


def test_every_param_describes_itself_in_the_trigger_form(bag):
    for dag in bag.dags.values():
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.description
            assert param.schema["title"]
    params = {(dag.dag_id, name) for dag in bag.dags.values() for name in dag.params}
    assert params == DATES | {
        (f"{kind}__{name}", param)
        for name in USE_CASES
        for kind, param in (
            ("train", "search_minutes"),
            ("train", "anyway"),
            ("rollback", "model_version"),
            ("rollback", "reason"),
        )
    }


def test_a_param_for_a_date_takes_one_as_people_write_it(bag):
    for dag_id, name in DATES:
        param = bag.dags[dag_id].params.get_param(name)
        assert param.schema["format"] == "date"
        assert param.resolve(str(date(2017, 11, 12))) == "2017-11-12"


def test_nobody_is_asked_unless_the_setting_says_so(bag, read_dags):
    assert not [task for dag in bag.dags.values() for task in dag.task_ids if "ask_approval" in task]
    bag = read_dags(NIGHTJAR_PROMOTION="approval", NIGHTJAR_APPROVAL_TIMEOUT_HOURS="30")
    assert not bag.import_errors
    asked = {dag.dag_id: task for dag in bag.dags.values() for task in dag.tasks if "ask_approval" in task.task_id}
    assert set(asked) == {"bootstrap", *(f"train__{name}" for name in USE_CASES)}
    for dag_id, task in asked.items():
        assert task.response_timeout == timedelta(hours=30)
        assert bag.dags[dag_id].dagrun_timeout == timedelta(hours=36), "the run must outlive the wait"
        assert (task.defaults, task.doc_md is not None) == (["Reject"], True)


def test_reading_the_dags_imports_nothing_heavy(tmp_path):
    program = (
        "import json, sys\n"
        "import airflow\n"
        "before = set(sys.modules)\n"
        "from airflow.dag_processing.dagbag import DagBag\n"
        f"bag = DagBag({str(PROJECT / 'dags')!r})\n"
        f"print(json.dumps([bag.import_errors, sorted((set(sys.modules) - before) & set({HEAVY!r}))]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [{}, []]


@pytest.mark.parametrize("file", DAG_FILES, ids=lambda file: file.name)
def test_a_dag_file_is_wiring_of_at_most_80_lines_of_code(file):
    tree = ast.parse(file.read_text())
    documented = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef) and ast.get_docstring(node):
            documented |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = file.read_text().splitlines()
    code = [line for number, line in enumerate(lines, 1) if number not in documented and line.strip()]
    assert len(code) <= 80
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.If | ast.Try | ast.While)]


def test_people_hear_of_every_run_by_its_end_and_of_no_attempt(bag):
    for dag in bag.dags.values():
        told = [each.__name__ for each in (dag.on_failure_callback, dag.on_success_callback)]
        assert told == ["page_failure", "resolve_page"]
        for task in dag.tasks:
            assert [each.__name__ for each in task.on_failure_callback] == ["note_cause"], task.task_id
            assert not task.on_retry_callback


def test_the_deadline_follows_the_setting(read_dags):
    timetable = read_dags(NIGHTJAR_PUBLISH_DEADLINE="06:30").dags["deadline"].timetable
    assert (timetable.expression, str(timetable.timezone)) == ("30 06 * * *", "America/New_York")
