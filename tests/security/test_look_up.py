"""`nightjar serve` as a deployment runs it: a process of its own, whose files are its owner's alone."""

import os
import subprocess
import sys
import time
from contextlib import suppress

import httpx
import pytest
from corner_shop import day, note_publication, publish

from local_stack.servers import LOOPBACK, free_port
from pipelines import warehouse
from pipelines.serving_app import HEADER
from pipelines.settings import PROJECT
from pipelines.use_cases.category_propensity import USE_CASE

pytestmark = pytest.mark.slow
KEY = "a-key-of-a-caller-0123456789abcdef"


@pytest.fixture
def server(settings):
    """The address of a server that was started with an open mask."""
    before = os.umask(0o077)
    warehouse.create_tables(settings, [USE_CASE])
    publish(settings, 0, {1: ["MILK", "BREAD"]}, use_case=USE_CASE)
    note_publication(settings, 0, use_case=USE_CASE)
    os.umask(before)
    port = free_port()
    command = [sys.executable, "-m", "pipelines.cli", "serve", "--port", str(port)]
    environment = os.environ | {"NIGHTJAR_HOME": str(settings.home), "NIGHTJAR_SERVE_KEYS": KEY}
    with subprocess.Popen(command, env=environment, cwd=PROJECT, umask=0, stdout=subprocess.DEVNULL) as process:
        try:
            wait_until_ready(process, f"http://{LOOPBACK}:{port}")
            yield f"http://{LOOPBACK}:{port}"
        finally:
            process.terminate()


def wait_until_ready(process, url, patience_s=400):
    deadline = time.monotonic() + patience_s
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            return httpx.get(f"{url}/health", trust_env=False).raise_for_status()
        time.sleep(0.3)
    raise AssertionError("the server did not get ready")


@pytest.mark.attack("S20")
def test_the_health_check_needs_no_key_a_list_does_and_what_the_server_leaves_is_its_owners_alone(server, settings):
    assert httpx.get(f"{server}/health", trust_env=False).json()["use_cases"][USE_CASE.name]["score_date"] == str(
        day(0)
    )

    path = f"{server}/v1/{USE_CASE.name}/1?bought=MILK"  # asks the online store, which is made by that
    assert httpx.get(path, trust_env=False).status_code == 401
    assert httpx.get(path, headers={HEADER: KEY[:-1]}, trust_env=False).status_code == 401
    answer = httpx.get(path, headers={HEADER: KEY}, trust_env=False)
    assert [one["item"] for one in answer.json()["items"]] == ["BREAD"]
    assert "server" not in answer.headers

    left = [settings.home, *settings.home.rglob("*")]
    assert "feast" in {place.name for place in left}
    assert [place for place in left if place.stat().st_mode & 0o077] == []
