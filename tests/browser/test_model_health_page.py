"""The page "Model health" in a real browser: as viewer, administrator and stranger, on a phone, by keyboard alone."""

import json

import pytest
from chromium import logged_in
from playwright.sync_api import expect

from local_stack.airflow_server import VIEWER
from pipelines.settings import PREFIX

pytestmark = [pytest.mark.browser, pytest.mark.timeout(1800)]
NAME = "category_propensity"
HEADING = "Model health: Category propensity"
FIRST_CHARTS_MS = 30_000  # the first page of a server waits for the library that draws


@pytest.fixture
def viewer(airflow, settings):
    """A page of somebody who may only look."""
    passwords = json.loads((settings.home / "airflow" / "passwords.json").read_text())
    with logged_in(airflow.server.url, VIEWER, passwords[VIEWER]) as page:
        yield page


def test_the_administrator_reaches_it_from_the_navigation_and_from_a_dag(page, airflow, picture, published_dates):
    page.goto(f"{airflow.server.url}/plugin/model_health_nav")
    frame = page.frame_locator("iframe")
    frame.get_by_role("link", name="Category propensity").click()
    expect(frame.get_by_role("heading", name=HEADING, level=1)).to_be_visible(timeout=FIRST_CHARTS_MS)
    expect(frame.get_by_text(str(max(published_dates()))).first).to_be_visible()
    picture("model_health_in_airflow")

    page.goto(f"{airflow.server.url}/dags/monitor__{NAME}")
    page.get_by_role("link", name="Model health").last.click()
    expect(page.frame_locator("iframe").get_by_role("heading", name=HEADING, level=1)).to_be_visible()


def test_a_viewer_reads_it_and_every_jump_and_link_within_airflow_works(viewer, airflow, tmp_path):
    viewer.goto(f"{airflow.server.url}/model_health/{NAME}")
    expect(viewer.get_by_role("heading", name=HEADING, level=1)).to_be_visible()
    for name in ("Findings", "Realised quality", "Signals of the newest night", "KPIs by week", "Model history"):
        expect(viewer.get_by_role("heading", name=name, level=2)).to_be_visible()
    assert viewer.locator("script").count() == 0
    within = [link.get_attribute("href") for link in viewer.locator("a[href^='/']").all()]
    assert within
    for href in within:
        assert viewer.request.get(f"{airflow.server.url}{href}").status == 200, href


def test_whoever_is_not_logged_in_lands_at_the_login(page, airflow):
    stranger = page.context.browser.new_context().new_page()
    for path in ("plugin/model_health_nav", f"model_health/{NAME}"):
        stranger.goto(f"{airflow.server.url}/{path}")
        expect(stranger.locator("input[type=password]")).to_be_visible()
        assert "Category propensity" not in stranger.content()


def test_it_fits_a_phone_and_a_desk(page, airflow):
    page.goto(f"{airflow.server.url}/model_health/{NAME}")
    for width in (360, 1440):
        page.set_viewport_size({"width": width, "height": 740})
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert PREFIX not in page.content()  # no setting is told


def test_it_is_used_by_keyboard_alone(page, airflow):
    page.goto(f"{airflow.server.url}/model_health/{NAME}")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to what was found")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    assert skip.evaluate("link => getComputedStyle(link).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    query = page.locator("main summary").first
    expect(query).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main details").first.get_by_text("FROM monitor__findings")).to_be_visible()
