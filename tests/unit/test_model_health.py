"""The page on a model's health: its data by hand-made nights, and each number against the query shown beside it."""

from datetime import UTC, datetime, timedelta

import pytest
from corner_shop import SHOP, day, log
from lxml import html
from postgres import without_warehouse

from pipelines import tables, warehouse
from pipelines.errors import OutdatedSchema, WarehouseDown
from pipelines.health_charts import Points, draw
from pipelines.health_queries import weekly
from pipelines.health_report import Links, as_error, as_html, as_index, show, write_report
from pipelines.labels import mature_on
from pipelines.measurements import Measurement, replace_measurements
from pipelines.model_health import read_health
from pipelines.settings import Settings

pytestmark = pytest.mark.usefixtures("database")
NOW = 60
TRAP = "<script>alert('a % b')</script>"


def put(settings, table, *rows):
    with warehouse.open_warehouse(settings) as connection:
        warehouse.append_rows(connection, table, rows)


def publish(settings, number, version, status="published"):
    row = {"use_case": SHOP.name, "score_date": day(number), "model_version": version, "status": status, "rows": 3}
    row |= dict.fromkeys(("run_id", "content_hash", "feature_version", "actor", "reason"), "x") | {"audit": "{}"}
    put(settings, tables.PUBLISH_LOG, row)


def measure(settings, number, metric, version, value, **facts):
    replace_measurements(settings, SHOP, day(number), [metric], [Measurement(metric, version, value, **facts)])


def kpi(number, name, value, **facts):
    words = {"unit": "US$", "owner": "sales", "meaning": f"Worth {TRAP}", "status": "ok"}
    return {"use_case": SHOP.name, "kpi_date": day(number), "kpi": name, "value": value} | words | facts


def move(settings, action, before, after, number):
    row = {"use_case": SHOP.name, "action": action, "from_version": before, "to_version": after, "is_promoted": True}
    row |= {"run_id": "x", "actor": "ann", "trainer": None, "reason": "better", "evidence": "{}"}
    at = datetime.combine(day(number), datetime.min.time(), UTC)
    put(settings, tables.PROMOTION_LOG, row | {"recorded_at": at, "previous_hash": f"{number}", "entry_hash": "e"})


@pytest.fixture
def filled(settings: Settings) -> Settings:
    """Nine weeks of the shop: version 1, then 2 from day 30, and 1 again from day 50."""
    log(settings, *range(NOW + 1))
    for number in range(0, NOW + 1):
        publish(settings, number, "2" if 30 <= number < 50 else "1")
    for number in range(4, NOW - 5, 7):
        version = "2" if 30 <= number < 50 else "1"
        told = {"reference": 0.7, "threshold": 0.75, "low": 0.7, "high": 0.9, "status": "ok"}
        measure(settings, number, "auc", version, 0.8 + number / 1000, **told)
    measure(settings, 53, "ndcg_at_2", "1", 0.31234567, reference=0.35, threshold=0.35, status="alert")
    measure(settings, NOW, "estimated_auc", "1", 0.83, clock="prediction")
    measure(settings, NOW, "drift_ks", "1", 0.2, slice="spend_usd", threshold=0.1, status="alert", clock="data")
    measure(settings, NOW, "drift_detectable", "1", 0.05, slice="drift_ks spend_usd", clock="data")
    move(settings, "promote", "1", "2", 30)
    move(settings, "rollback", "2", "1", 50)
    found = {"use_case": SHOP.name, "finding_date": day(NOW), "metric": "drift_ks", "slice": "spend_usd"}
    found |= {"cause": "season", "action": "inform", "clock": "data", "first_date": day(59), "value": 0.2}
    put(settings, tables.FINDINGS, found | {"reference": None, "threshold": 0.1, "told": TRAP, "source": ""})
    put(settings, tables.KPI_DAILY, kpi(NOW, "worth_usd", 1234.5678, status="alert"), kpi(59, "worth_usd", 7.0))
    weeks = [kpi(number, "worth_usd", 100.0 + number, band_low=90.0, band_high=150.0) for number in (41, 48, 55)]
    put(settings, tables.KPI_WEEKLY, *weeks)
    decided = {"use_case": SHOP.name, "decision_date": day(NOW), "run_id": "x", "is_requested": False}
    decided |= {"action": "none", "model_version": "1", "reason": "no gain", "evidence": "{}", "evidence_hash": "h"}
    put(settings, tables.RETRAIN_DECISIONS, decided | {"gain_usd": 12.5, "cost_usd": 40.0})
    return settings


def page_of(settings, number=NOW):
    return html.document_fromstring(write_report(settings, SHOP, day(number), "test").page.read_text())


def cells_of(panel):
    """What a panel shows, by column: numbers in full, else the text."""
    cells = {}
    for cell in panel.xpath(".//*[@data-column]"):
        data = cell.find("data")
        found = cell.text_content().strip() if data is None else float(data.get("value"))
        cells.setdefault(cell.get("data-column"), []).append(found)
    return cells


def as_shown(column, value):
    """What a cell must hold, by the raw value that the database gives to whoever runs the shown query."""
    if column == "is promoted":
        return "yes" if value else "no"
    if column == "recorded at":
        return f"{value}"[:16] + " UTC"
    if isinstance(value, int | float):
        return f"{value}" if column.endswith(("alerts", "findings", "incidents")) else float(value)
    words = {"ok": "✔ ok", "warn": "▲ warning", "alert": "✘ alert", "info": "· info"}
    return words[value] if column == "status" else "–" if value in (None, "") else f"{value}"


def test_every_number_equals_the_query_beside_it(filled):
    panels = {panel.get("data-panel"): panel for panel in page_of(filled).xpath("//*[@data-panel]")}

    assert {"glance", "findings", "quality auc", "quality ndcg_at_2", "signals", "kpi worth_usd"} <= panels.keys()
    checked = 0
    with warehouse.open_warehouse(filled) as connection:
        for name, panel in panels.items():
            rows = connection.exec_driver_sql(panel.xpath("string(.//code)")).mappings().all()
            columns = {key.replace("_", " "): [row[key] for row in rows] for key in (rows[0] if rows else ())}
            expected = {column: [as_shown(column, one) for one in values] for column, values in columns.items()}
            assert cells_of(panel) == expected, name
            checked += sum(map(len, columns.values()))
    assert checked > 150


def test_the_figures_are_those_that_were_put_there(filled):
    health = read_health(filled, SHOP, day(NOW))

    assert health.now == {
        "published_date": day(60),
        "ingested_date": day(60),
        "model_version": "1",
        "quality_date": day(53),
        "signals_date": day(60),
        "kpi_date": day(60),
        "quality_alerts": 1,
        "signal_alerts": 1,
        "new_findings": 1,
        "kpi_alerts": 1,
        "open_incidents": 0,
    }
    auc = [(row["score_date"], row["metric"], row["model_version"]) for row in health.quality["auc"].rows]
    labelled = [(day(n), "auc", "2" if 30 <= n < 50 else "1") for n in (4, 11, 18, 25, 32, 39, 46, 53)]
    assert auc == [*labelled, (day(60), "estimated_auc", "1")]
    assert [row["value"] for row in health.kpi_weeks["worth_usd"].rows] == [141.0, 148.0, 155.0]
    assert [(row["slice"], row["detectable"]) for row in health.signals.rows] == [("spend_usd", 0.05)]
    changes = [(row["score_date"], row["model_version"], row["action"]) for row in health.served.rows]
    assert changes == [(day(50), "1", "rollback"), (day(30), "2", "promote")]


def test_an_earlier_night_shows_nothing_that_came_later(filled):
    health = read_health(filled, SHOP, day(40))

    assert health.now["published_date"] == day(40)
    assert health.now["model_version"] == "2"
    assert max(row["score_date"] for row in health.quality["auc"].rows) == day(32)
    assert health.kpi_weeks == {}
    assert health.findings.rows == health.decisions.rows == ()


def test_a_date_without_its_label_is_not_shown_before_it_has_one(filled):
    measure(filled, 58, "auc", "1", 0.1)
    known = mature_on(SHOP, day(58))
    log(filled, 61, 62, 63)

    assert read_health(filled, SHOP, known - timedelta(days=1)).now["quality_date"] == day(53)
    assert read_health(filled, SHOP, known).now["quality_date"] == day(58)


def test_figures_of_a_version_that_readers_did_not_see_are_left_out(filled):
    measure(filled, 46, "auc", "7", 0.99)

    assert "7" not in {row["model_version"] for row in read_health(filled, SHOP, day(NOW)).quality["auc"].rows}


def test_the_newest_date_of_each_week_is_drawn_and_26_at_most():
    days = [day(number) for number in (0, 3, 7, 8, 9, 16)]

    assert weekly(days) == [day(16), day(9), day(0)]
    assert len(weekly(day(number) for number in range(400))) == 26
    assert weekly([]) == []


@pytest.mark.parametrize(
    ("spoil", "status"),
    [
        (lambda settings: None, "ok"),
        (lambda settings: publish(settings, NOW, "1", "refused"), "ok"),
        (lambda settings: log(settings, NOW + 1), "ok"),
        (
            lambda settings: measure(settings, NOW, "drift_ks", "1", 1.0, slice="x", clock="data", status="alert"),
            "ok",
        ),
        (lambda settings: measure(settings, 53, "auc", "1", 0.1, status="alert"), "alert"),
        (lambda settings: measure(settings, 53, "auc", "1", 0.1, slice="few", status="alert"), "ok"),
        (lambda settings: put(settings, tables.KPI_DAILY, kpi(NOW, "lines", 1.0, status="alert")), "alert"),
        (lambda settings: put(settings, tables.INCIDENTS, incident()), "alert"),
        (lambda settings: put(settings, tables.INCIDENTS, incident(resolved_date=day(NOW))), "ok"),
        (lambda settings: put(settings, tables.FINDINGS, finding("inform")), "warn"),
        (lambda settings: put(settings, tables.FINDINGS, finding("retrain")), "alert"),
        (lambda settings: put(settings, tables.FINDINGS, finding("retrain", NOW - 1)), "ok"),
    ],
)
def test_the_status_is_that_of_the_gravest_thing(settings, spoil, status):
    log(settings, NOW)
    publish(settings, NOW, "1")
    measure(settings, NOW, "drift_share", "1", 0.0, clock="data")
    measure(settings, 53, "auc", "1", 0.8)
    publish(settings, 53, "1")
    spoil(settings)

    assert read_health(settings, SHOP, day(NOW)).status == status


def test_the_finding_of_a_night_that_was_refused_counts(filled):
    log(filled, NOW + 1)
    publish(filled, NOW + 1, "1", "refused")
    put(filled, tables.FINDINGS, finding("block", NOW + 1))

    health = read_health(filled, SHOP, day(NOW + 1))

    assert health.now["new_findings"] == 2
    assert health.now["published_date"] == day(NOW)
    assert health.status == "alert"


def test_scores_that_readers_must_have_and_lack_are_late(filled):
    assert not read_health(filled, SHOP, day(NOW)).is_late
    health = read_health(filled, SHOP, day(NOW + 3), expected=day(NOW + 1))
    assert health.is_late
    assert health.as_of == day(NOW)


def test_the_marks_of_promotions_and_rollbacks_are_on_the_charts_and_in_their_words(filled):
    svg = page_of(filled).xpath("//*[@data-panel='quality auc']//*[local-name()='svg']")[0]

    told = svg.xpath("string(.//*[local-name()='desc'])")
    assert f"{day(30)}: ▸ v2. {day(50)}: ↩ v1." in told
    assert "8 dates from 2017-05-05 to 2017-06-23, between 0.804 and 0.853. The newest is 0.853" in told
    assert "it is held against 0.7" in told
    drawn = [text.strip() for text in svg.xpath(".//*[local-name()='text']/text()")]
    assert {"▸ v2", "↩ v1"} <= set(drawn)


def test_no_text_of_the_warehouse_is_markup_and_nothing_is_loaded(filled):
    text = write_report(filled, SHOP, day(NOW), "test").page.read_text()

    assert TRAP not in text
    assert "&lt;script&gt;alert(&#39;a % b&#39;)&lt;/script&gt;" in text
    page = html.document_fromstring(text)
    assert not page.xpath("//script|//link|//iframe|//img|//object|//form|//*[@src]|//@*[starts-with(name(), 'on')]")
    assert "@import" not in text
    assert "url(http" not in text


def test_ids_are_unique_and_every_jump_has_its_target(filled):
    page = page_of(filled)
    ids = page.xpath("//@id")

    assert len(ids) == len(set(ids))
    jumps = [link[1:] for link in page.xpath("//a/@href") if link.startswith("#")]
    assert jumps[0] == "main"
    assert set(jumps) <= set(ids)
    assert all(chart.xpath(".//*[local-name()='title']/text()") for chart in page.xpath("//*[@role='img']"))


def test_links_name_the_version_that_scored_and_no_password(filled):
    tracked = filled.model_copy(update={"mlflow_tracking_uri": "https://ann:secret@models.shop/base"})

    links = page_of(tracked).xpath("//section[@id='links']//a/@href")

    assert links == [
        "../../model_cards/corner_shop/v1.html",
        f"../../data_docs/scores__corner_shop/{day(NOW)}.html",
        "https://models.shop/base/#/models/corner_shop",
    ]
    assert "secret" not in write_report(tracked, SHOP, day(NOW), "test").page.read_text()


def test_an_empty_warehouse_and_none_at_all_say_what_will_come(settings):
    assert read_health(settings, SHOP, day(NOW)) is None
    assert "the warehouse has no tables" in as_html(SHOP, None, Links("./", "All", {}))
    warehouse.create_tables(settings, [SHOP])

    health = read_health(settings, SHOP, day(NOW))

    assert health.status == "info"
    assert "Nothing was measured yet" in page_of(settings).text_content()


def test_a_warehouse_that_is_down_or_old_is_a_named_error(filled):
    with warehouse.open_warehouse(filled) as connection:
        connection.exec_driver_sql("DROP TABLE monitor__findings")
    with pytest.raises(OutdatedSchema):
        read_health(filled, SHOP, day(NOW))
    with without_warehouse(filled.warehouse), pytest.raises(WarehouseDown):
        read_health(filled.model_copy(update={"warehouse_patience_s": 0}), SHOP, day(NOW))


def test_the_page_of_an_error_and_the_list_hold_text_only():
    assert TRAP not in as_error(TRAP, "wait", "docs/running.md#the-warehouse-is-down")
    assert "docs/running.md#the-warehouse-is-down" in as_error("down", "wait", "docs/running.md#the-warehouse-is-down")
    listed = html.document_fromstring(as_index({"corner_shop": (SHOP, None)}, "nights"))
    assert listed.xpath("//li/a/@href") == ["corner_shop"]
    assert "No use case" in as_index({}, "nights")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"), ("", "–"), (True, "yes"), (0.123456, "0.1235"), (1234.56, "1,235"), (123456.7, "123,457"),
        (1e-7, "1e-07"), (12345, "12,345"), (day(0), "2017-05-01"),
        (datetime(2017, 5, 1, 7, 30, tzinfo=UTC), "2017-05-01 07:30 UTC"),
    ],
)  # fmt: skip
def test_values_are_short(value, shown):
    assert show(value) == shown


def test_a_chart_of_missing_values_and_of_estimates_alone_is_drawn():
    row = {"score_date": day(0), "value": None, "low": None, "high": None, "reference": None, "status": "info"}
    assert "The newest is not known" in draw("auc", Points("score_date", [row]), {})
    estimates = Points("score_date", [], [row | {"value": 0.8}])
    assert "1 estimates, and no figure yet" in draw("auc", estimates, {})


def test_the_same_rows_give_the_same_page(filled):
    first = write_report(filled, SHOP, day(NOW), "one").page.read_bytes()

    assert write_report(filled, SHOP, day(NOW), "two").page.read_bytes() == first


def incident(**facts):
    words = dict.fromkeys(("run_id", "kind", "subject", "cause", "meaning", "remedy"), "x")
    return {"use_case": SHOP.name, "first_date": day(NOW), "last_date": day(NOW), "resolved_date": None} | words | facts


def finding(action, number=NOW):
    row = {
        "use_case": SHOP.name,
        "finding_date": day(number),
        "first_date": day(number),
        "action": action,
        "clock": "data",
    }
    row |= dict.fromkeys(("value", "reference", "threshold"), 0.5)
    return row | dict.fromkeys(("metric", "slice", "cause", "told", "source"), "x")
