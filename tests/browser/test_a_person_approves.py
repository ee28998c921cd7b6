"""A model waits for approval, and somebody other than who trained it answers in a real browser."""

import json
from datetime import date

import pytest
from approvals import waiting_run
from chromium import logged_in
from playwright.sync_api import expect
from registered import aliases
from toy import USE_CASE

from local_stack.airflow_server import APPROVER
from pipelines import warehouse
from pipelines.ingest import ingest
from pipelines.landing import land
from pipelines.settings import Settings
from pipelines.use_cases import load_use_cases

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
FIRST, LAST = date(2017, 7, 3), date(2017, 11, 12)


@pytest.fixture(scope="module")
def waiting(tmp_path_factory):
    settings = Settings(home=tmp_path_factory.mktemp("approval"), use_cases=["toy"])
    land(settings, FIRST, LAST)
    ingest(settings, FIRST, LAST, "history")
    warehouse.create_tables(settings, list(load_use_cases(settings).values()))
    with waiting_run(settings, timeout_hours=2) as waiting:
        yield waiting


def test_a_person_approves_in_the_browser_and_the_log_names_them(waiting, tmp_path):
    passwords = json.loads((waiting.settings.home / "airflow" / "passwords.json").read_text())
    url = waiting.admin.server.url
    with logged_in(url, APPROVER, passwords[APPROVER]) as page:
        page.goto(f"{url}/required_actions")
        page.get_by_text("Shall version 1 of Store visits be champion?").first.click()
        row = page.get_by_role("row").filter(has_text="NDCG over the rule spend")
        expect(row.get_by_role("cell").last).to_have_text("yes")
        card = page.get_by_role("link", name="model card")
        expect(card).to_have_attribute("href", "/nightjar/model_cards/toy_visits/v1.html")
        approve = page.get_by_role("button", name="Approve", exact=True)
        page.locator("input[name=element_reason]").fill("the gain is worth it")
        expect(approve).to_be_enabled()
        approve.click()
        waiting.admin.wait_for(waiting.run_id, promote_model="success", announce_champion="success")

    assert waiting.newest() == ("promote", "approver", "admin", "the gain is worth it")
    assert aliases(waiting.settings, USE_CASE) == ("1", None)
