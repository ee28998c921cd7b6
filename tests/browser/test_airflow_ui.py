"""The Airflow UI after a run, in a real browser; these are the pictures of the README."""

from datetime import date, timedelta

import pytest
from playwright.sync_api import expect

from pipelines.landing import land

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
DAGS = (
    "bootstrap",
    "deadline",
    "ingest",
    "janitor",
    *(f"{kind}__category_propensity" for kind in ("monitor", "rollback", "score", "train")),
)
NIGHTS = {date(2017, 11, 9), date(2017, 11, 19), date(2017, 11, 20)}


def test_eight_dags_and_no_import_error(page, airflow, picture):
    page.goto(f"{airflow.server.url}/dags")
    expect(page.get_by_text("8 Dags", exact=True)).to_be_visible()
    for dag_id in DAGS:
        expect(page.get_by_role("link", name=dag_id, exact=True)).to_be_visible()
    assert airflow.get("/api/v2/importErrors")["total_entries"] == 0
    expect(page.get_by_text("Import Error")).to_have_count(0)
    picture("dags")


def test_the_graph_of_a_finished_night(page, airflow, picture):
    dag_id = "score__category_propensity"
    run = next(run for run in airflow.runs(dag_id, "2017-11-20") if run.state == "success")
    page.goto(f"{airflow.server.url}/dags/{dag_id}/runs/{run.run_id}")
    page.get_by_role("button", name="Show Graph").click()
    graph = page.locator(".react-flow__nodes")
    for task in ("build_features", "materialise_features", "score_candidates", "publish_scores"):
        expect(graph.get_by_text(task, exact=True)).to_be_visible()
    expect(graph.get_by_text("success", exact=True)).to_have_count(4)
    expect(page.get_by_text("2017-11-20", exact=True).first).to_be_visible()
    picture("night")


def test_the_trigger_form_of_train_asks_for_a_date(page, airflow, picture):
    page.goto(f"{airflow.server.url}/dags/train__category_propensity")
    page.get_by_role("button", name="Trigger").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("Train with data up to")).to_be_visible()
    expect(dialog.get_by_text("Last business date whose rows the training may see")).to_be_visible()
    field = dialog.locator("input[type=date]")
    field.fill("2017-11-12")
    expect(field).to_have_value("2017-11-12")
    expect(dialog.get_by_role("button", name="Trigger")).to_be_enabled()
    picture("train")


def test_each_dag_shows_its_page(page, airflow):
    for dag_id in DAGS:
        page.goto(f"{airflow.server.url}/dags/{dag_id}")
        page.get_by_role("button", name="Dag Docs").click()
        expect(page.get_by_role("dialog").get_by_text("When it fails")).to_be_visible()


def test_a_trigger_with_a_partition_key_publishes_that_date_and_no_other(
    page, airflow, settings, picture, published_dates, wait_for_runs
):
    day, before = first_date_without_scores(published_dates), published_dates()
    land(settings, day, day)
    page.goto(f"{airflow.server.url}/dags/ingest")
    page.get_by_role("button", name="Trigger").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Advanced Options").click()
    dialog.locator("input[name=partitionKey]").fill(str(day))
    picture("trigger")
    dialog.get_by_role("button", name="Trigger").click()
    assert wait_for_runs([str(day)]) == {"success"}
    assert published_dates() == before | {day}


def test_a_backfill_over_three_days_publishes_those_dates_and_no_other(
    settings, airflow_command, published_dates, wait_for_runs
):
    first, before = first_date_without_scores(published_dates), published_dates()
    days = [first + timedelta(days=offset) for offset in range(3)]
    land(settings, days[0], days[-1])
    until = str(days[-1] + timedelta(days=1))
    airflow_command("backfill", "create", "--dag-id", "ingest", "--from-date", str(first), "--to-date", until)
    assert wait_for_runs([str(day) for day in days], patience_s=1200) == {"success"}
    assert published_dates() == before | set(days)


def test_the_schedule_never_asks_for_a_date_outside_the_data(airflow, published_dates):
    assert published_dates() >= NIGHTS
    assert {run.partition_key[:7] for run in airflow.runs("ingest")} == {"2017-11"}


def first_date_without_scores(published_dates):
    return max(published_dates()) + timedelta(days=1)
