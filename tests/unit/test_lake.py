import io
import multiprocessing
import traceback
from datetime import date, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_proxy import faulty_proxy

from pipelines import lake
from pipelines.errors import EngineFailure, SnapshotRefused
from pipelines.settings import Settings

DAY, TABLE, ROUNDS = date(2017, 5, 6), "core__counts", 4
NEXT_DAY = DAY + timedelta(days=1)


@pytest.fixture(params=["folders", "s3"])
def storage(request):
    return request.getfixturevalue(request.param)


def rows_of(day, value, rows=3):
    return pa.table({"business_date": pa.array([day] * rows, pa.date32()), "value": [value] * rows})


def replace_day(settings, day, value):
    return lake.replace_dates(settings.lake, TABLE, rows_of(day, value), first=day, last=day)


def values_in(settings):
    found = {}
    for path in lake.files_of(settings.lake, TABLE):
        day = path.split("business_date=")[1][:10]
        found.setdefault(day, []).extend(pq.read_table(path, partitioning=None).column("value").to_pylist())
    return found


def replace_again_and_again(start, outcome, settings, day, writer):
    """In a process of its own: tells for each round whether it was written or refused."""
    start.wait()
    for number in range(ROUNDS):
        try:
            replace_day(settings, day, f"{writer} {number}")
            outcome.put((writer, number, "written"))
        except EngineFailure as error:
            outcome.put((writer, number, error.what))
        except BaseException:
            outcome.put((writer, number, traceback.format_exc()))


def at_once(settings, days):
    """What became of each round of two processes that begin together."""
    context = multiprocessing.get_context("spawn")
    start, outcome = context.Barrier(len(days)), context.Queue()
    writers = [
        context.Process(target=replace_again_and_again, args=(start, outcome, settings, day, writer))
        for writer, day in enumerate(days)
    ]
    for writer in writers:
        writer.start()
    told = [outcome.get(timeout=60) for _ in range(ROUNDS * len(days))]
    for writer in writers:
        writer.join(timeout=60)
    return told


def test_two_processes_that_replace_different_days_at_once_both_succeed(settings):
    replace_day(settings, DAY - timedelta(days=1), "before")

    told = at_once(settings, [DAY, NEXT_DAY])

    assert {what for _, _, what in told} == {"written"}
    last = ROUNDS - 1
    assert values_in(settings) == {
        "2017-05-05": ["before"] * 3,
        "2017-05-06": [f"0 {last}"] * 3,
        "2017-05-07": [f"1 {last}"] * 3,
    }
    assert lake.version_of(settings.lake, TABLE) == str(2 * ROUNDS)


def test_two_processes_that_create_a_table_at_once_do_not_lose_what_either_wrote(settings):
    told = at_once(settings, [DAY, NEXT_DAY])

    newest = {writer: number for writer, number, what in sorted(told) if what == "written"}
    assert values_in(settings) == {
        str(day): [f"{writer} {newest[writer]}"] * 3 for writer, day in enumerate([DAY, NEXT_DAY])
    }
    assert all(what == "written" or what.startswith("another run changed") for _, _, what in told)


def test_two_processes_that_replace_the_same_day_at_once_leave_one_of_their_writes_whole(settings):
    replace_day(settings, DAY, "before")

    told = at_once(settings, [DAY, DAY])

    written = [f"{writer} {number}" for writer, number, what in told if what == "written"]
    (left,) = values_in(settings).values()
    assert len(left) == 3
    assert len(set(left)) == 1
    assert left[0] in written
    assert all(what == "written" or what.startswith("another run changed") for _, _, what in told)
    assert lake.version_of(settings.lake, TABLE) == str(len(written))  # each success is a version, each refusal none


@pytest.mark.parametrize("fault", ["refused", "lost"])
@pytest.mark.parametrize("step", ["data", "commit"])
def test_a_commit_that_fails_half_way_leaves_one_version_or_the_other(s3, tmp_path, object_store, step, fault):
    settings = Settings(home=tmp_path / "var", **s3)
    replace_day(settings, DAY, "before")

    def choose(method, path):
        is_commit = "_delta_log/" in path
        return fault if method == "PUT" and is_commit == (step == "commit") else None

    with faulty_proxy(object_store.url, choose) as url:
        failing = settings.model_copy(update={"s3_endpoint_url": url, "s3_timeout_s": 1})
        with pytest.raises(EngineFailure):
            replace_day(failing, DAY, "after")

    arrived = (step, fault) == ("commit", "lost")
    assert values_in(settings) == {"2017-05-06": ["after" if arrived else "before"] * 3}
    replace_day(settings, DAY, "after")
    assert values_in(settings) == {"2017-05-06": ["after"] * 3}


@pytest.mark.slow
@pytest.mark.parametrize("is_new", [True, False], ids=["new table", "old table"])
def test_a_writer_that_commits_between_any_two_requests_of_another_is_not_overwritten(
    s3, tmp_path, object_store, is_new
):
    requests = 0
    for chosen in range(1, 40):
        settings = Settings(home=tmp_path / str(chosen), **s3 | {"lake_uri": f"{s3['lake_uri']}/{chosen}"})
        if not is_new:
            replace_day(settings, DAY - timedelta(days=1), "before")
        requests = 0

        def come_between(method, path, settings=settings, chosen=chosen):
            nonlocal requests
            requests += 1
            if requests == chosen:
                replace_day(settings, NEXT_DAY, "other")

        with faulty_proxy(object_store.url, come_between) as url:
            try:
                replace_day(settings.model_copy(update={"s3_endpoint_url": url}), DAY, "own")
                own = {"2017-05-06": ["own"] * 3}
            except EngineFailure as error:
                own = {}
                assert error.what.startswith("another run changed")
        if requests < chosen:
            break
        before = {} if is_new else {"2017-05-05": ["before"] * 3}
        assert values_in(settings) == {**before, **own, "2017-05-07": ["other"] * 3}, chosen

    assert 4 < requests < chosen


def test_a_file_that_somebody_put_in_a_snapshots_place_is_refused_by_its_name(settings):
    day = date(2017, 5, 1)
    sink = io.BytesIO()
    pq.write_table(pa.table({"household_id": [1]}), sink)
    settings.lake.write(lake.snapshot_name("features__shop", day), sink.getvalue())

    with pytest.raises(SnapshotRefused) as refused:
        lake.require_snapshot(settings.lake, "features__shop", day)
    assert refused.value.where == "features__shop, as_of=2017-05-01"
