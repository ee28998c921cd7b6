"""What Prometheus is told of the nights, and that dashboard and rules ask for nothing else."""

import json
import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
import yaml
from corner_shop import SHOP
from fastapi.testclient import TestClient
from postgres import without_warehouse
from prometheus_client.parser import text_string_to_metric_families
from two_nights import NEXT_DAY, fill, note_publication

from pipelines import tables, warehouse
from pipelines.serving_app import HEADER, create_app
from pipelines.settings import DEMO_KEY, PROJECT
from pipelines.telemetry import GAUGES, open_registry

OBSERVABILITY = PROJECT / "observability"


@pytest.fixture
def home(settings):
    fill(settings)
    return settings


def scrape(registry):
    """Name, labels in the order of their names, and value of each sample."""
    from prometheus_client import generate_latest

    families = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name.removeprefix("nightjar_"), *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_scrape_tells_of_the_newest_date_of_each_step_and_of_what_readers_see(home):
    found = scrape(open_registry(home, [SHOP]))

    assert found["up",] == 1
    midnight = datetime(NEXT_DAY.year, NEXT_DAY.month, NEXT_DAY.day, tzinfo=ZoneInfo("America/New_York")).timestamp()
    assert found["ingested_timestamp_seconds",] == found["scores_timestamp_seconds", "corner_shop"] == midnight
    assert found["quarantine_share",] == 0.03  # 3 of 100 in the second attempt; the first does not count
    assert [found["ingested_rows", name] for name in ("kept", "quarantined", "duplicate", "late")] == [96, 3, 1, 0]
    assert [found["scores_rows", name, "corner_shop"] for name in ("champion", "baseline", "cold_start")] == [2, 1, 1]
    assert found["scores_fallback_share", "corner_shop"] == pytest.approx(1 / 3)  # one of three; a cold start is none
    quantiles = [found["scores_quantile", share, "corner_shop"] for share in ("0.05", "0.5", "0.95")]
    assert quantiles == [0.1, 0.2, 0.4]
    assert found["publications", "published", "corner_shop"] == 1
    assert found["incidents_open", "registry down", "corner_shop"] == 1
    assert found["step_rows", "publish", "corner_shop"] == 4
    assert (found["step_is_success", "publish", "corner_shop"], found["step_failures", "publish", "corner_shop"]) == (
        1,
        1,
    )
    assert found["step_peak_memory_bytes", "ingest", ""] == 100 * 2**20
    assert (found["step_wall_seconds", "ingest", ""], found["step_cpu_seconds", "ingest", ""]) == (10, 5)
    assert found["step_euros", "ingest", ""] == 0.5
    assert abs(found["step_end_timestamp_seconds", "ingest", ""] - datetime.now(UTC).timestamp()) < 120
    # 0.01 + 0.02 + 0.003 (refused) + 0.007 euros for 200 scores
    assert found["scores_euros_per_million", "corner_shop"] == pytest.approx(200)


def test_every_figure_is_in_a_scrape_and_none_is_in_it_that_is_not_described(home):
    assert {f"nightjar_{name[0]}" for name in scrape(open_registry(home, [SHOP]))} == set(GAUGES)


def test_a_use_case_that_was_never_published_has_no_figures_yet(home):
    new = SHOP.model_copy(update={"name": "new_shop"})
    assert scrape(open_registry(home, [new, SHOP])) == scrape(open_registry(home, [SHOP]))


def test_quantiles_are_read_again_only_when_something_was_published(home):
    registry, scores = open_registry(home, [SHOP]), tables.scores_table(SHOP)
    median = ("scores_quantile", "0.5", "corner_shop")
    assert scrape(registry)[median] == 0.2
    with warehouse.open_warehouse(home) as connection:
        connection.execute(scores.update().values(score=0.9))
    assert scrape(registry)[median] == 0.2
    with warehouse.open_warehouse(home) as connection:
        note_publication(connection)
    assert scrape(registry)[median] == 0.9


def test_a_warehouse_that_is_down_is_a_figure_and_not_an_error_and_comes_back(home):
    registry = open_registry(home, [SHOP])
    assert scrape(registry)["up",] == 1
    with without_warehouse(home.warehouse):
        assert scrape(registry) == {("up",): 0}
    assert scrape(registry)["up",] == 1


def test_a_scrape_neither_waits_for_a_publication_nor_keeps_one_waiting(home):
    registry = open_registry(home, [SHOP])
    with warehouse.open_warehouse(home) as writer:
        writer.execute(tables.RUN_COSTS.insert().values(**one_cost()))
        assert scrape(registry)["step_failures", "ingest", ""] == 0, "what is not committed is not seen"
    with warehouse.open_warehouse(home, only_reads=True) as reader, warehouse.open_warehouse(home) as writer:
        reader.execute(tables.RUN_COSTS.select()).all()
        writer.execute(tables.RUN_COSTS.insert().values(**one_cost()))
    assert scrape(registry)["step_failures", "ingest", ""] == 2


def one_cost():
    figures = {"wall_s": 1, "cpu_s": 1, "peak_memory_mib": 1, "euros": 0}
    return figures | {"run_id": "r", "step": "ingest", "partition_key": "2017-05-02", "is_success": False}


def asked_by(expression):
    """Names of figures and of labels in a PromQL expression of ours."""
    names = set(re.findall(r"nightjar_\w+|\bup(?=\{)", expression))
    labels = set(re.findall(r'(\w+)(?:=~|!=|!~|=)"', expression)) | set(
        re.findall(r"label_values\([^,]+, (\w+)\)", expression)
    )
    return names, labels


def expressions():
    rules = yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text())["groups"][0]["rules"]
    dashboard = json.loads((OBSERVABILITY / "grafana" / "nightjar.json").read_text())
    panels = [
        (panel["title"], target["expr"], target["legendFormat"])
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]
    variables = [
        (one["name"], one["definition"], "") for one in dashboard["templating"]["list"] if one["type"] == "query"
    ]
    told = [(rule["alert"], rule["expr"], json.dumps(rule["annotations"])) for rule in rules]
    return [*told, *panels, *variables]


def scraped_labels(home):
    """The labels of each figure that Prometheus can know of: of the nights, of the look-up, and its own."""
    from prometheus_client import generate_latest

    with TestClient(create_app(home, [SHOP], lambda: datetime.now(UTC))) as look_up:
        assert look_up.get(f"/v1/{SHOP.name}/1", headers={HEADER: DEMO_KEY}).is_success
        scraped = [generate_latest(open_registry(home, [SHOP])).decode(), look_up.get("/metrics").text]
    labels = {"up": {"job", "instance"}}
    for family in (family for text in scraped for family in text_string_to_metric_families(text)):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return labels


@pytest.mark.parametrize(("name", "expression", "text"), expressions(), ids=lambda value: value[:40])
def test_rules_and_dashboard_ask_only_for_figures_and_labels_that_a_scrape_has(home, name, expression, text):
    labels = scraped_labels(home)
    figures, wanted = asked_by(expression)
    assert figures
    assert figures <= set(labels)
    known = set.union(*(labels[figure] for figure in figures))
    assert wanted <= known
    shown = set(re.findall(r"\$labels\.(\w+)", text)) | set(re.findall(r"\{\{(\w+)\}\}", text))
    assert shown <= known


def test_every_rule_has_a_severity_a_summary_and_a_page_of_the_runbook():
    for rule in yaml.safe_load((OBSERVABILITY / "alerts.yml").read_text())["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("page", "warning", "info")
        assert set(rule["annotations"]) == {"summary", "description", "runbook"}
        assert re.fullmatch(r"docs/running\.md#[a-z-]+", rule["annotations"]["runbook"])


def test_every_panel_of_the_dashboard_has_a_place_of_its_own_a_unit_and_says_what_it_shows():
    panels = json.loads((OBSERVABILITY / "grafana" / "nightjar.json").read_text())["panels"]
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not taken & cells
        assert at["x"] + at["w"] <= 24
        taken |= cells
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
    assert len({panel["id"] for panel in panels}) == len(panels)
