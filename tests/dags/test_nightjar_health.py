"""The page "Model health" in Airflow's API server: who sees it, and what it says when nothing can be shown."""

import subprocess
import sys
from datetime import date

import pytest
from lxml import html
from postgres import without_warehouse

from pipelines import tables, warehouse
from pipelines.settings import PROJECT
from pipelines.use_cases import get_use_case

NAME = "category_propensity"


@pytest.fixture
def published(settings):
    """The warehouse of a use case whose newest date is published by version 3."""
    warehouse.create_tables(settings, [get_use_case(NAME, settings)])
    row = {"use_case": NAME, "score_date": date(2017, 11, 20), "model_version": "3", "status": "published", "rows": 3}
    row |= dict.fromkeys(("run_id", "content_hash", "feature_version", "actor", "reason", "audit"), "x")
    with warehouse.open_warehouse(settings) as connection:
        warehouse.append_rows(connection, tables.PUBLISH_LOG, [row])


@pytest.mark.parametrize("path", ["/model_health/", f"/model_health/{NAME}", "/model_health/nothing"])
def test_whoever_is_not_logged_in_is_sent_to_the_login_and_sees_nothing(logged_out, published, path):
    answer = logged_out.get(path, follow_redirects=False)

    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/auth/login?next=http%3A%2F%2Ftestserver%2Fmodel_health%2F")
    assert answer.text == ""
    assert logged_out.get(path, headers={"Authorization": "Bearer forged"}).status_code == 403


def test_a_viewer_sees_the_list_and_the_page_which_runs_no_script(client, published):
    listed = html.document_fromstring(client.get("/model_health/").text)
    answer = client.get(f"/model_health/{NAME}")

    assert listed.xpath("//li/a/@href") == [f"/model_health/{NAME}"]
    assert answer.status_code == 200
    page = html.document_fromstring(answer.text)
    assert page.xpath("//dd[@data-column='published date']/text()") == ["2017-11-20"]
    assert "/nightjar/model_cards/category_propensity/v3.html" in page.xpath("//a/@href")
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert answer.headers["Cache-Control"] == "no-store"


def test_the_tab_of_a_dag_shows_its_use_case_and_any_other_dag_the_list(client, published):
    shown = client.get("/model_health/", params={"dag_id": f"score__{NAME}"}).text
    listed = client.get("/model_health/", params={"dag_id": "ingest"}).text

    assert "Model health: Category propensity</h1>" in shown
    assert "Model health</h1>" in listed


def test_somebody_whom_airflow_shows_no_dag_sees_no_use_case(client, published, monkeypatch):
    from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

    asked = []
    refuse = lambda self, *, details, **_: asked.append(details.id)  # noqa: E731  # gives nothing, which is no
    monkeypatch.setattr(SimpleAuthManager, "is_authorized_dag", refuse)

    assert client.get(f"/model_health/{NAME}").status_code == 403
    assert "No use case is yours to see" in client.get("/model_health/").text
    assert set(asked) == {f"monitor__{NAME}"}


def test_an_unknown_use_case_is_not_found(client, published):
    assert client.get("/model_health/nothing").status_code == 404


def test_before_the_first_night_the_page_says_what_will_fill_it(client):
    answer = client.get(f"/model_health/{NAME}")

    assert answer.status_code == 200
    assert "Nothing was measured yet" in answer.text


def test_a_warehouse_that_is_down_is_told_with_the_runbook_and_without_a_trace(client, settings, published):
    with without_warehouse(settings.warehouse):
        answer = client.get(f"/model_health/{NAME}")

    assert answer.status_code == 503
    page = html.document_fromstring(answer.text)
    assert page.xpath("//h1/text()") == ["Model health is not known"]
    assert page.xpath("//a/@href") == ["docs/running.md#the-warehouse-is-down"]
    assert "Traceback" not in answer.text
    assert str(settings.home) not in answer.text
    assert answer.headers["Retry-After"] == "30"


def test_airflow_knows_the_entry_and_the_tab(client):
    plugins = client.get("/api/v2/plugins").json()["plugins"]
    (ours,) = [plugin for plugin in plugins if plugin["name"] == "nightjar_health"]

    views = {(view["name"], view["destination"], view["href"]) for view in ours["external_views"]}
    assert views == {
        ("Model health", "nav", "/model_health/"),
        ("Model health", "dag", "/model_health/?dag_id={DAG_ID}"),
    }


def test_loading_the_plugin_imports_neither_web_framework_nor_charts():
    code = "import sys, nightjar_health; print(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env={"PYTHONPATH": f"{PROJECT}:{PROJECT / 'plugins'}", "AIRFLOW_HOME": "/nonexistent", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert not {"fastapi", "pandas", "matplotlib", "pyarrow"} & set(shown.stdout.split())
