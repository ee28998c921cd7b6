"""What nightjar watch sees: the shop's dates begin at 2017-05-01; its readers need a date by 07:00 of the next."""

import json
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from corner_shop import SHOP, day, log, publish
from postgres import without_warehouse

from pipelines import incidents, paging
from pipelines.incidents import Incident, open_incident
from pipelines.watch import newest_due, watch

EIGHT = datetime(2017, 5, 3, 12, tzinfo=UTC)  # 08:00 in New York on the shop's day 2
LATE = "scores of corner_shop for 2017-05-02 are late"
SILENT = "the scheduler is silent"


@pytest.fixture
def shop(settings):
    log(settings)
    return settings


@contextmanager
def airflow(body, port=0):
    """A web server that says of Airflow's health what it is told."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.path == "/api/v2/monitor/health"
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def heartbeat(at):
    return {"scheduler": {"status": "healthy", "latest_scheduler_heartbeat": at.isoformat()}}


def open_pages(settings):
    return [known.page.what for known in paging.read_state(settings).open.values()]


@pytest.mark.parametrize(
    ("at", "due"),
    [
        (datetime(2017, 5, 3, 10, 59, tzinfo=UTC), date(2017, 5, 1)),  # 06:59 in New York
        (datetime(2017, 5, 3, 11, 0, tzinfo=UTC), date(2017, 5, 2)),
        (datetime(2017, 5, 4, 3, 59, tzinfo=UTC), date(2017, 5, 2)),  # still the 3rd there
        (datetime(2017, 12, 3, 11, 59, tzinfo=UTC), date(2017, 12, 1)),  # winter: 06:59
    ],
)
def test_a_date_is_due_at_the_deadline_of_the_next_day_where_the_stores_are(settings, at, due):
    assert newest_due(settings, at) == due


def test_nothing_is_due_after_the_schedule_ends(settings):
    ended = settings.model_copy(update={"schedule_end_date": date(2017, 4, 30)})
    assert newest_due(ended, EIGHT) == date(2017, 4, 30)


def test_what_is_published_in_time_is_well(shop):
    publish(shop, 1, {1: ["MILK"]})
    assert watch(shop, [SHOP], EIGHT) == []


def test_scores_that_are_late_are_paged_once_say_what_readers_see_and_are_over_when_published(shop):
    publish(shop, 0, {1: ["MILK"]})
    for minute in (0, 1, 2):
        assert watch(shop, [SHOP], EIGHT + timedelta(minutes=minute))[0].startswith(LATE)
    (known,) = paging.read_state(shop).open.values()
    assert (known.page.what, known.page.meaning) == (LATE, "scores__corner_shop_latest shows 2017-05-01")
    assert (known.page.runbook, known.count) == ("scores-are-late", 3)
    publish(shop, 1, {1: ["MILK"]})
    assert watch(shop, [SHOP], EIGHT) == []


def test_scores_that_are_late_because_a_run_failed_are_no_second_incident(shop):
    failed = paging.Page(key="ingest 2017-05-02", what="ingest failed", cause="c", meaning="m", runbook="r")
    paging.page(shop, failed, EIGHT)
    watch(shop, [SHOP], EIGHT)
    assert open_pages(shop) == ["ingest failed"]
    paging.resolve(shop, "ingest 2017-05-02", EIGHT)
    assert open_pages(shop) == ["ingest failed"], "ingested, but readers do not have it yet"
    publish(shop, 1, {1: ["MILK"]})
    assert watch(shop, [SHOP], EIGHT) == []


@pytest.mark.fault("F32")
def test_silence_of_the_scheduler_is_noticed_while_the_api_still_answers(shop):
    publish(shop, 1, {1: ["MILK"]})
    with airflow(heartbeat(EIGHT)) as url:
        watched = shop.model_copy(update={"airflow_url": url})
        assert watch(watched, [SHOP], EIGHT + timedelta(seconds=180)) == []
        (line, _) = watch(watched, [SHOP], EIGHT + timedelta(seconds=181))
        assert line.startswith("the scheduler is silent: last heartbeat 2017-05-03 08:00 EDT")
        watch(watched, [SHOP], EIGHT + timedelta(hours=1))
        assert open_pages(shop) == [SILENT]


@pytest.mark.fault("F32")
def test_an_api_server_that_restarts_is_no_silence_and_one_that_stays_away_is(shop):
    publish(shop, 1, {1: ["MILK"]})
    with airflow(heartbeat(EIGHT)) as url:
        watched = shop.model_copy(update={"airflow_url": url})
        watch(watched, [SHOP], EIGHT)
    assert watch(watched, [SHOP], EIGHT + timedelta(seconds=100)) == []
    assert watch(watched, [SHOP], EIGHT + timedelta(seconds=200))[0].startswith(SILENT)
    with airflow(heartbeat(EIGHT + timedelta(seconds=300)), port=int(url.rpartition(":")[2])):
        assert watch(watched, [SHOP], EIGHT + timedelta(seconds=301)) == []


@pytest.mark.parametrize("body", [{}, {"scheduler": None}, {"scheduler": {"latest_scheduler_heartbeat": None}}, []])
def test_an_answer_without_a_heartbeat_is_silence(shop, body):
    publish(shop, 1, {1: ["MILK"]})
    with airflow(body) as url:
        assert watch(shop.model_copy(update={"airflow_url": url}), [SHOP], EIGHT)[0].startswith(SILENT)


def test_a_scheduler_that_is_silent_and_the_late_scores_that_follow_are_one_incident(shop):
    watched = shop.model_copy(update={"airflow_url": "http://127.0.0.1:9"})
    watch(watched, [SHOP], EIGHT)
    assert open_pages(shop) == [SILENT]


@pytest.mark.fault("F32")
def test_a_warehouse_that_is_down_is_one_incident_until_it_answers_again(shop):
    publish(shop, 1, {1: ["MILK"]})
    with without_warehouse(shop.warehouse):
        for minute in range(3):
            assert "the warehouse is down" in watch(shop, [SHOP], EIGHT + timedelta(minutes=minute))[0]
        assert open_pages(shop) == ["the warehouse is down"]
    assert watch(shop, [SHOP], EIGHT) == []


def test_nights_scored_by_a_fallback_are_one_page_that_ends_with_the_incident(shop):
    publish(shop, 1, {1: ["MILK"]})
    down = Incident("registry down", "model corner_shop", "refused", "readers see a copy's scores", "start it")
    for number in (0, 1):
        open_incident(shop, SHOP, day(number), down, "r")
        watch(shop, [SHOP], EIGHT)
    (known,) = paging.read_state(shop).open.values()
    assert (known.page.what, known.page.severity) == (
        "scores of corner_shop come from a fallback since 2017-05-01",
        "warning",
    )
    assert (known.page.meaning, known.page.runbook) == ("readers see a copy's scores", "scores-came-from-a-fallback")
    incidents.resolve(shop, SHOP, day(2), ("registry down",))
    assert watch(shop, [SHOP], EIGHT) == []
