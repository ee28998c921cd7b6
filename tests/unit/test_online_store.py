"""Feast's online store in a real Redis, with the logins that a deployment draws. Needs Debian's `redis-server`."""

import shutil
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta

import pyarrow.parquet as pq
import pytest
import redis
from deliveries import DAY, PRODUCTS, a_line, put, put_day

from local_stack.servers import LOOPBACK, free_port
from pipelines import lake
from pipelines.errors import EngineFailure
from pipelines.feature_store import materialise, open_online, read_online
from pipelines.features import build_features, end_of_day
from pipelines.ingest import ingest
from pipelines.online_store import forget_online
from pipelines.settings import PROJECT
from pipelines.use_cases.category_propensity import USE_CASE
from pipelines.use_cases.category_propensity.features import PAIR

pytestmark = pytest.mark.deploy
FEATURE = "purchase_days_decayed_180d"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The URL of each login, and the process."""
    folder, port = tmp_path_factory.mktemp("redis"), free_port()
    subprocess.run([sys.executable, str(PROJECT / "docker/draw_secrets.py"), str(folder / "secrets")], check=True)
    drawn = {file.name: file.read_text() for file in (folder / "secrets").iterdir()}
    told = drawn["redis.conf"].replace("/data", str(folder)) + f"bind {LOOPBACK}\nport {port}\n"
    (folder / "redis.conf").write_text(told)
    names = ("redis_url_online_writer", "redis_url_online_reader", "celery_broker_url")
    urls = {name: drawn[name].replace("redis:6379", f"{LOOPBACK}:{port}") for name in names}
    command = [shutil.which("redis-server"), str(folder / "redis.conf")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            for _ in range(100):
                with suppress(redis.ConnectionError), redis.Redis.from_url(urls["celery_broker_url"]) as client:
                    client.ping()
                    break
                time.sleep(0.1)
            yield urls
        finally:
            process.terminate()


@pytest.fixture
def shop(settings, server):
    """Features of a day of eight households, in Redis: the settings of who writes, and of who looks up."""
    put(settings, DAY, {"part-0.parquet": PRODUCTS}, name="products")
    put_day(settings, DAY, *(a_line(number, DAY) for number in range(8)))
    ingest(settings, DAY, DAY, "r")
    build_features(settings, USE_CASE, DAY, "r")
    writer, reader = (
        settings.model_copy(update={"redis_url": server[f"redis_url_online_{name}"]}) for name in ("writer", "reader")
    )
    assert materialise(writer, USE_CASE, DAY, "r").rows > 0
    assert not (settings.feast_home / "online.db").exists()
    return writer, reader


def pairs(settings):
    """Key and value of every pair, from the lake."""
    rows = pq.read_table(settings.lake.folder / lake.snapshot_name(PAIR.name, DAY)).to_pylist()
    return {(row["household_id"], row["product_category"]): row[FEATURE] for row in rows}


def looked_up(settings, keys, since):
    named = [dict(zip(USE_CASE.keys, key, strict=True)) for key in keys]
    return read_online(open_online(settings), f"household_category_online:{FEATURE}", named, since)


def test_what_a_night_writes_is_what_the_look_up_reads(shop):
    writer, reader = shop
    known = pairs(writer)
    since = end_of_day(writer, DAY)

    assert len(known) > 1
    assert looked_up(reader, known, since) == pytest.approx(list(known.values()))
    assert looked_up(reader, known, since + timedelta(seconds=1)) == [None] * len(known)
    assert looked_up(reader, [(1, "NOBODY'S")], since) == [None]


@pytest.mark.attack("S13")
def test_who_looks_up_cannot_write_and_neither_login_sees_the_queue(shop, server):
    with redis.Redis.from_url(server["celery_broker_url"]) as client:
        client.lpush("celery", "task")
    for settings, commands in zip(
        shop,
        [[("LRANGE", "celery", 0, -1), ("LPUSH", "celery", "mine"), ("FLUSHALL",)], [("SET", "x-nightjar", "1")]],
        strict=True,
    ):
        with redis.Redis.from_url(settings.redis_url.replace("/2", "/0")) as client:
            for command in commands:
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*command)


@pytest.mark.attack("S17")
def test_a_household_that_is_forgotten_is_gone_and_the_others_stay(shop):
    writer, reader = shop
    known = pairs(writer)
    gone = next(iter(known))[0]
    since = end_of_day(writer, DAY)

    assert forget_online(writer, "household_id", gone) == 1 + len([key for key in known if key[0] == gone])
    assert forget_online(writer, "household_id", gone) == 0
    found = dict(zip(known, looked_up(reader, known, since), strict=True))
    assert {key for key, value in found.items() if value is None} == {key for key in known if key[0] == gone}


def test_a_household_is_forgotten_in_the_file_too_that_was_in_use_before_redis(shop):
    writer, _ = shop
    before = writer.model_copy(update={"redis_url": ""})
    materialise(before, USE_CASE, DAY, "r")
    gone = next(iter(pairs(writer)))[0]

    forget_online(writer, "household_id", gone)
    assert forget_online(before, "household_id", gone) == 0


def test_a_redis_that_is_away_is_named_and_nobody_waits_for_it(shop):
    writer, _ = shop
    away = writer.model_copy(update={"redis_url": f"redis://{LOOPBACK}:{free_port()}/2"})
    began = time.monotonic()
    with pytest.raises(EngineFailure, match="online store"):
        looked_up(away, pairs(writer), end_of_day(writer, DAY))
    assert time.monotonic() - began < 5
    with pytest.raises(EngineFailure, match="online store"):
        materialise(away, USE_CASE, DAY, "r")
