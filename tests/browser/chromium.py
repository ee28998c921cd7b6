"""A headless Chromium on which somebody is logged in to Airflow."""

import shutil
from contextlib import contextmanager

from playwright.sync_api import sync_playwright

FLAGS = ("no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync")
OFFLINE_FLAGS = ("disable-background-networking", "disable-component-update")


@contextmanager
def logged_in(url, user, password):
    """A page of headless Chromium on which somebody is logged in; it must see no error of a script."""
    chromium = shutil.which("chromium")
    assert chromium, "these tests need Debian's chromium: apt-get install chromium"
    errors = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, args=[f"--{flag}" for flag in (*FLAGS, *OFFLINE_FLAGS)]
        )
        page = browser.new_page(viewport={"width": 1440, "height": 1000}, locale="en-US")
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        page.locator("input[name=username]").fill(user)
        page.locator("input[type=password]").fill(password)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("link", name="Dags").first.wait_for()
        yield page
        browser.close()
    assert errors == []
