"""What somebody may type into a trigger form: only a date written as YYYY-MM-DD gets through."""

import importlib
import re

import pytest
from airflow.sdk.exceptions import ParamValidationError

from pipelines.errors import InvalidRunParameter

HOSTILE = [
    *("", " ", "today", "now()", "yesterday", "2017", "2017-11", "20171119", "2017-W46-7", "2017-13-01", "2017-02-30"),
    *("2017-11-19 ", " 2017-11-19", "2017-11-19\n", "2017-11-19T00:00:00", "2017-11-19Z", "+2017-11-19", "-2017-11-19"),
    *("2017/11/19", "19.11.2017", "11-19-2017", "2017-1-9", "2017-11-19,2017-11-20", "2017-11-19..2017-11-20"),
    *(
        "2017-11-19' OR '1'='1",
        "2017-11-19; DROP TABLE ops__ingest_log",
        "'; --",
        '"',
        "\\",
        "%00",
        "\x00",
        "2017-11-19\x00",
    ),
    *("../../etc/passwd", "date=2017-11-19/../..", "/", "C:\\", "file:///etc/passwd", "s3://elsewhere/2017-11-19"),
    *("$(id)", "`id`", "2017-11-19 && id", "| id", "{{ ds }}", "{{ var.value.secret }}", "{% raw %}", "${HOME}"),
    *("<script>alert(1)</script>", "２０１７-１１-１９", "٢٠١٧-١١-١٩", "9" * 10_000, "None", "null", "NaN"),
    *(0, 20171119, 3.5, True, [], ["2017-11-19"], {}, {"as_of": "2017-11-19"}),
]


@pytest.mark.attack("S10")
def test_hostile_dates_are_refused_by_every_form_and_by_every_task(read_dags):
    params = {(name, key): param for name, dag in read_dags().dags.items() for key, param in dag.params.items()}
    others = {"search_minutes", "anyway", "model_version", "reason"}
    assert {key for _, key in params} == {"as_of", "first_date", "train_date", "last_date"} | others
    business_date = importlib.import_module("nightjar_dags").business_date

    for value in HOSTILE:
        for (_, key), param in params.items():
            if key not in others:
                with pytest.raises(ParamValidationError):
                    param.resolve(value)
        with pytest.raises(InvalidRunParameter):
            business_date(value, "a run")

    assert len(HOSTILE) >= 50


@pytest.mark.attack("S10")
def test_hostile_versions_and_minutes_are_refused(read_dags):
    dags = read_dags().dags
    version = dags["rollback__category_propensity"].params.get_param("model_version")
    minutes = dags["train__category_propensity"].params.get_param("search_minutes")
    anyway = dags["train__category_propensity"].params.get_param("anyway")
    for value in {repr(value): value for value in HOSTILE}.values():
        if not str(value).isdecimal() or isinstance(value, int) or len(value) > 9:
            with pytest.raises(ParamValidationError):
                version.resolve(value)
        if not (isinstance(value, int | float) and 0 <= value <= 30) or value is True:
            with pytest.raises(ParamValidationError):
                minutes.resolve(value)
        if not isinstance(value, bool):
            with pytest.raises(ParamValidationError):
                anyway.resolve(value)


REASONS = ["", "no", "x" * 501, None, 7, True, ["a good reason"], {"why": "a good reason"}]


def hostile_confs(dags):
    """A trigger's whole conf with one bad value in it, for every DAG that takes parameters."""
    good = {"as_of": "2017-11-12", "first_date": "2017-11-12", "train_date": "2017-11-12", "last_date": "2017-11-12"}
    good |= {"search_minutes": 1, "anyway": False, "model_version": "1", "reason": "a good reason"}
    bad_versions = ["1; DROP TABLE x", "1' OR '1'='1", "../1", "$(id)", "{{ ds }}", "v1", "-1", 1, "1" * 40, ""]
    bad_minutes = [-1, 31, 1e9, "1", "{{ 1 }}", True, [], {}]
    texts = {repr(value): value for value in HOSTILE}.values()
    bad = dict.fromkeys(("as_of", "first_date", "train_date", "last_date"), [*texts][::4])
    bad |= {"search_minutes": bad_minutes, "model_version": bad_versions, "reason": REASONS}
    bad |= {"anyway": ["yes", "true; --", 1, 0, None, [], {}]}
    for name, dag in dags.items():
        fine = {key: good[key] for key in dag.params}
        yield from ((name, key, fine | {key: value}) for key in dag.params for value in bad[key])


@pytest.mark.attack("S10")
def test_a_real_airflow_refuses_hostile_confs_by_the_name_of_the_parameter_and_starts_no_run(
    airflow_database, read_dags
):
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from airflow.dag_processing.dagbag import sync_bag_to_db
    from airflow.models import DagRun
    from airflow.models.dagbundle import DagBundleModel
    from airflow.settings import Session
    from fastapi.testclient import TestClient

    bag = read_dags()
    with Session() as session:
        if session.get(DagBundleModel, "dags-folder") is None:
            session.add(DagBundleModel(name="dags-folder"))
        session.commit()
    sync_bag_to_db(bag, "dags-folder", None)
    confs = list(hostile_confs(bag.dags))
    with Session() as session, TestClient(create_app(apps="core"), base_url="http://testserver") as client:
        before = session.query(DagRun).count()
        token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="admin", role="admin"))
        client.headers["Authorization"] = f"Bearer {token}"
        for name, key, conf in confs:
            answer = client.post(f"/api/v2/dags/{name}/dagRuns", json={"logical_date": None, "conf": conf})
            assert answer.status_code in (400, 422), (name, key, conf[key], answer.text)
            assert key in answer.text
        assert session.query(DagRun).count() == before
    assert len({repr(conf) for _, _, conf in confs}) >= 50


@pytest.mark.attack("S10")
def test_no_task_runs_a_shell_or_has_a_template_into_which_a_parameter_could_be_put(read_dags):
    for dag in read_dags(NIGHTJAR_PROMOTION="approval").dags.values():
        for task in dag.tasks:
            assert task.task_type in ("_PythonDecoratedOperator", "HITLOperator"), task.task_type
            for field in task.template_fields:
                own = str(getattr(task, field, ""))  # what another task returns is put in as a value, not as a template
                rest = re.sub(r"\{\{ task_instance\.xcom_pull\([^{}]*\) \}\}", "", own)
                assert "{{" not in rest, (dag.dag_id, task.task_id, field)
