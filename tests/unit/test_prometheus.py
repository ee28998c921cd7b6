"""A real Prometheus reads the real exporter, knows our rules, and sees an alert fire. Needs Debian's `prometheus`."""

import json
import shutil
import subprocess
import sys
import time

import httpx
import pytest
import yaml
from corner_shop import SHOP
from postgres import without_warehouse
from two_nights import fill

from local_stack.servers import LOOPBACK, free_port, start_server, stop_server, wait_until_up
from pipelines.serving_app import HEADER
from pipelines.settings import DEMO_KEY, PROJECT

pytestmark = pytest.mark.deploy
OBSERVABILITY = PROJECT / "observability"


def promtool(*arguments, text=None):
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, input=text, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_configuration_and_rules_and_each_rule_speaks_when_it_should():
    promtool("check", "config", "--lint=all", "--lint-fatal", str(OBSERVABILITY / "prometheus.yml"))
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(OBSERVABILITY / "alerts.yml"))
    promtool("test", "rules", str(OBSERVABILITY / "alerts_test.yml"))


def test_every_rule_is_in_the_rules_test_with_and_without_something_to_say():
    rules = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text())["groups"][0]["rules"]
    cases = yaml.safe_load((OBSERVABILITY / "alerts_test.yml").read_text())["tests"]
    seen = {(one["alertname"], bool(one["exp_alerts"])) for case in cases for one in case["alert_rule_test"]}
    assert seen == {(rule["alert"], speaks) for rule in rules for speaks in (True, False)}


def start(settings, tmp_path, command):
    """A command of ours as a server, with the corner shop as a use case."""
    port = free_port()
    environment = {"NIGHTJAR_HOME": str(settings.home), "NIGHTJAR_USE_CASES": "shop_of_the_tests"}
    environment |= {"NIGHTJAR_DEMO": "true"}
    environment["PYTHONPATH"] = f"{tmp_path}:{PROJECT}:{PROJECT / 'tests'}"
    command = [sys.executable, "-m", "pipelines.cli", command, "--port", str(port)]
    return start_server(settings, command[3], command, environment, f"http://{LOOPBACK}:{port}")


@pytest.fixture
def exporter(settings, tmp_path, monkeypatch):
    """`nightjar metrics` over two nights of the corner shop."""
    monkeypatch.setenv("NIGHTJAR_USE_CASES", "shop_of_the_tests")
    (tmp_path / "shop_of_the_tests.py").write_text("from corner_shop import SHOP as USE_CASE\n")
    fill(settings)
    server = start(settings, tmp_path, "metrics")
    yield server
    stop_server(settings, server)


@pytest.fixture
def look_up(settings, exporter, tmp_path):
    """`nightjar serve` over the same nights."""
    server = start(settings, tmp_path, "serve")
    yield server
    stop_server(settings, server)


@pytest.fixture
def prometheus(settings, exporter, look_up, tmp_path):
    """A real Prometheus with our rules that asks both every few seconds."""
    config = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "5s", "evaluation_interval": "1s"}  # a scrape may take as long
    for job, asked in zip(config["scrape_configs"], (exporter, look_up), strict=True):
        job["static_configs"][0]["targets"] = [asked.url.removeprefix("http://")]
    shutil.copy(OBSERVABILITY / "alerts.yml", tmp_path)
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"{LOOPBACK}:{free_port()}"
    command = [shutil.which("prometheus"), f"--config.file={tmp_path / 'prometheus.yml'}"]
    command += [f"--storage.tsdb.path={tmp_path / 'tsdb'}", f"--web.listen-address={address}"]
    server = start_server(settings, "prometheus", command, {}, f"http://{address}")
    try:
        wait_until_up(server, path="/-/ready")
        yield server
    finally:
        stop_server(settings, server)


def ask(server, path, **params):
    return httpx.get(f"{server.url}/api/v1/{path}", params=params, trust_env=False).raise_for_status().json()["data"]


def states(server):
    return {alert["labels"]["alertname"]: alert["state"] for alert in ask(server, "alerts")["alerts"]}


def wait_until(is_so, patience_s=120):
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            if is_so():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise AssertionError("it did not come to pass")


def test_a_real_prometheus_reads_the_exporter_and_sees_what_is_wrong(settings, exporter, look_up, prometheus):
    def ask_for_a_list():
        path = f"{look_up.url}/v1/{SHOP.name}/1"
        return httpx.get(path, headers={HEADER: DEMO_KEY}, trust_env=False).status_code

    wait_until(lambda: ask_for_a_list() == 200)
    wait_until(lambda: states(prometheus).get("IncidentOpen") == "firing" and "LookUpDown" not in states(prometheus))
    found = states(prometheus)
    assert {name for name, state in found.items() if state == "firing"} == {
        "IncidentOpen",
        "QuarantineShareHigh",  # 3 of 100 lines
        "ScoresFromFallback",  # one list of three
    }
    assert {name for name, state in found.items() if state == "pending"} == {"ScoresLate"}  # the shop closed in 2017

    dashboard = json.loads((OBSERVABILITY / "grafana" / "nightjar.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$use_case", SHOP.name)
            wait_until(lambda asked=expression: ask(prometheus, "query", query=asked)["result"])

    with without_warehouse(settings.warehouse):
        wait_until(lambda: ask_for_a_list() == 503 and {"WarehouseDown", "LookUpFails"} <= states(prometheus).keys())
        assert httpx.get(f"{exporter.url}/metrics", trust_env=False).text.splitlines()[-1] == "nightjar_up 0.0"
    stop_server(settings, look_up)
    wait_until(lambda: "LookUpDown" in states(prometheus))
