"""The plugin that serves data docs and profiles behind Airflow's login."""

import subprocess
import sys

import pytest

from pipelines.pages import frame_page, page_path, write_page
from pipelines.settings import PROJECT


@pytest.fixture
def leave_page(settings):
    """Leaves a page that says which it is."""

    def leave_page(kind, subject, *dates):
        text = f"{kind} {subject} {' '.join(dates)}"
        return write_page(page_path(settings.home, kind, subject, *dates), frame_page(text, ""))

    return leave_page


@pytest.mark.parametrize(
    "path",
    [
        "data_docs",
        "profiles",
        "model_cards",
        "model_health",
        "data_docs/core__transactions/2017-11-19.html",
        "model_cards/category_propensity/v1.html",
    ],
)
def test_whoever_is_not_logged_in_sees_nothing(logged_out, leave_page, path):
    leave_page("data_docs", "core__transactions", "2017-11-19")
    leave_page("model_cards", "category_propensity", "v1")

    assert logged_out.get(f"/nightjar/{path}").status_code == 401
    assert logged_out.get(f"/nightjar/{path}", headers={"Authorization": "Bearer forged"}).status_code == 403


def test_a_page_is_found_through_the_list_newest_first(client, leave_page):
    leave_page("data_docs", "core__transactions", "2017-11-19")
    leave_page("data_docs", "core__transactions", "2017-01-01", "2017-01-31")
    leave_page("data_docs", "scores__category_propensity", "2017-11-20")

    listed = client.get("/nightjar/data_docs").text

    places = [listed.index(date) for date in ("2017-11-20", "2017-11-19", "2017-01-01 to 2017-01-31")]
    assert places == sorted(places)
    assert 'href="data_docs/core__transactions/2017-11-19.html"' in listed
    page = client.get("/nightjar/data_docs/core__transactions/2017-11-19.html").text
    assert "<h1>data_docs core__transactions 2017-11-19</h1>" in page


def test_the_list_of_a_date_has_the_pages_that_cover_it(client, leave_page):
    leave_page("data_docs", "in_range", "2017-01-01", "2017-01-31")
    leave_page("data_docs", "that_day", "2017-01-15")
    leave_page("data_docs", "next_day", "2017-01-16")

    listed = client.get("/nightjar/data_docs?date=2017-01-15").text

    assert "in_range" in listed
    assert "that_day" in listed
    assert "next_day" not in listed


def test_model_cards_are_listed_by_version_the_tenth_before_the_ninth(client, leave_page):
    for version in ("v9", "v10", "v1"):
        leave_page("model_cards", "category_propensity", version)

    listed = client.get("/nightjar/model_cards").text

    places = [listed.index(f'href="model_cards/category_propensity/{version}.html"') for version in ("v10", "v9", "v1")]
    assert places == sorted(places)
    page = client.get("/nightjar/model_cards/category_propensity/v10.html").text
    assert "<h1>model_cards category_propensity v10</h1>" in page


@pytest.mark.parametrize("kind", ["data_docs", "profiles", "model_cards", "model_health"])
def test_an_empty_list_says_how_to_fill_it(client, kind):
    answer = client.get(f"/nightjar/{kind}")

    assert answer.status_code == 200
    assert 'class="empty"' in answer.text


@pytest.mark.attack("S19")
@pytest.mark.parametrize(
    "path",
    [
        "data_docs/../secret.html",
        "data_docs/..%2f..%2f/secret.html",
        "data_docs/%2e%2e/secret.html",
        "data_docs/subject/..%2f..%2fsecret.html",
        "data_docs/subject/%2e%2e%5csecret.html",
        "data_docs//etc/passwd",
        "data_docs/subject/link.html",
        "data_docs/linked/secret.html",
        "data_docs/subject/.hidden.html",
        "data_docs/subject/notes.txt",
        "airflow/passwords.json",
    ],
)
def test_no_file_but_a_page_is_ever_served(client, settings, leave_page, path):
    subject = leave_page("data_docs", "subject", "2017-11-19").parent
    elsewhere = settings.home / "elsewhere"
    elsewhere.mkdir()
    for secret in (settings.home / "secret.html", elsewhere / "secret.html", subject / ".hidden.html"):
        secret.write_text("classified")
    (subject / "notes.txt").write_text("classified")
    (subject / "link.html").symlink_to(settings.home / "secret.html")
    (subject.parent / "linked").symlink_to(elsewhere)

    answer = client.get(f"/nightjar/{path}")

    assert answer.status_code in (404, 422)
    assert "classified" not in answer.text


def test_a_page_is_a_stranger_to_airflow_and_the_list_runs_no_script(client, leave_page):
    leave_page("profiles", "core__transactions", "2017-11-19")

    page = client.get("/nightjar/profiles/core__transactions/2017-11-19.html").headers["Content-Security-Policy"]
    listed = client.get("/nightjar/profiles?date=<script>alert(1)</script>")

    assert page.startswith("sandbox allow-scripts; default-src 'none'")
    assert "allow-same-origin" not in page
    assert "script-src" not in listed.headers["Content-Security-Policy"]
    assert "<script>" not in listed.text


def test_the_page_of_a_night_runs_no_script_and_its_links_work(client, leave_page):
    leave_page("model_health", "corner_shop", "2017-11-19")

    answer = client.get("/nightjar/model_health/corner_shop/2017-11-19.html")

    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_airflow_knows_the_views_and_the_link_of_every_task(client):
    plugins = client.get("/api/v2/plugins").json()["plugins"]
    (ours,) = [plugin for plugin in plugins if plugin["name"] == "nightjar_pages"]

    views = {(view["name"], view["destination"], view["href"]) for view in ours["external_views"]}
    assert views == {
        (title, destination, f"/nightjar/{kind}")
        for title, kind in (("Data docs", "data_docs"), ("Profiles", "profiles"), ("Model cards", "model_cards"))
        for destination in ("nav", "dag")
    }
    assert ours["global_operator_extra_links"]


def test_a_task_links_to_the_data_docs_of_its_business_date(run_dag):
    from nightjar_pages import DataDocsLink

    (task,) = run_dag("ingest", partition_key="2017-11-19", mark_success="ingest_day").values()

    assert DataDocsLink().get_link(None, ti_key=task.key).endswith("/nightjar/data_docs?date=2017-11-19")


def test_loading_the_plugin_imports_no_web_framework():
    code = "import sys, nightjar_pages; print(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-c", code],
        cwd=PROJECT,
        env={"PYTHONPATH": f"{PROJECT}:{PROJECT / 'plugins'}", "AIRFLOW_HOME": "/nonexistent", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert not {"fastapi", "pandas", "great_expectations", "evidently"} & set(shown.stdout.split())
