import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
from faulty_proxy import faulty_proxy
from object_store import client_of

from pipelines import lake
from pipelines import storage as storage_module
from pipelines.errors import BadInput, StorageDown, StorageRefused
from pipelines.settings import Settings
from pipelines.storage import Location

ROWS = pa.table({"day": ["2017-05-06"], "units": [3]})


@pytest.fixture(params=["folders", "s3"])
def storage(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def place(settings):
    return settings.lake


@pytest.fixture
def on_s3(tmp_path, s3):
    """Gives a location on the S3 server, or on a worse one."""

    def forget_the_key():
        storage_module._client.cache_clear()
        storage_module._session.cache_clear()

    def on_s3(home="here", **changed) -> Location:
        return Settings(home=tmp_path / home, **{**s3, "s3_timeout_s": 0.5, **changed}).lake

    forget_the_key()
    yield on_s3
    forget_the_key()


def test_what_is_written_is_listed_read_replaced_and_deleted(place):
    place.write("a/b/one.json", b"1")
    place.write("a/b/two.json", b"2")
    place.write("a/c.json", b"3")
    place.write("a/b/two.json", b"22")

    assert place.names("a/b/") == ["a/b/one.json", "a/b/two.json"]
    assert place.names("a/") == ["a/b/one.json", "a/b/two.json", "a/c.json"]
    assert place.names("a/b/t") == ["a/b/two.json"]
    assert (place.read("a/b/two.json"), place.fetch("a/b/two.json").read_bytes()) == (b"22", b"22")
    place.delete("a/b/two.json")
    place.delete("a/b/two.json")
    assert (place.exists("a/b/one.json"), place.exists("a/b/two.json"), place.exists("a/b")) == (True, False, False)
    assert not (place.folder / "a/b/two.json").exists()


def test_a_name_that_another_one_begins_with_is_not_taken_for_it(place):
    place.write("a.json.old", b"old")

    assert not place.exists("a.json")
    for look in (place.read, place.fetch):
        with pytest.raises(FileNotFoundError):
            look("a.json")


def test_marks_of_folders_and_unfinished_files_are_no_files(on_s3, s3, object_store):
    bucket = s3["lake_uri"].split("/")[2]
    for key in ("lake/a/", "lake/a/.b.json.77", "lake/a/b.json"):
        client_of(object_store.url).put_object(Bucket=bucket, Key=key, Body=b"")

    assert on_s3().names() == ["a/b.json"]


def test_more_files_than_one_answer_holds_are_all_listed(on_s3):
    place = on_s3()
    wanted = [f"many/{number:04}.json" for number in range(1050)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: place.write(name, b"x"), wanted))

    assert place.names("many/") == wanted


def test_a_large_file_goes_there_and_back_in_parts(on_s3, s3, object_store, tmp_path):
    content = os.urandom(20_000_000)
    (tmp_path / "large").write_bytes(content)
    on_s3().upload(tmp_path / "large", "large.parquet")

    assert on_s3("elsewhere").fetch("large.parquet").read_bytes() == content
    stored = client_of(object_store.url).head_object(Bucket=s3["lake_uri"].split("/")[2], Key="lake/large.parquet")
    assert stored["ETag"].strip('"').endswith("-3")  # parts of 8 MiB


def test_a_copy_follows_the_object_unless_that_cannot_change(on_s3):
    here, there = on_s3("here"), on_s3("there")
    here.write("one.parquet", b"first")
    assert there.fetch("one.parquet").read_bytes() == b"first"
    here.write("one.parquet", b"other")

    assert there.fetch("one.parquet", is_immutable=True).read_bytes() == b"first"
    copied = there.fetch("one.parquet").stat()
    assert there.fetch("one.parquet").read_bytes() == b"other"
    assert there.fetch("one.parquet").stat().st_ino == copied.st_ino  # not fetched again
    assert abs(copied.st_mtime - time.time()) < 60  # the janitor goes by it


@pytest.fixture
def faulty(on_s3, object_store, monkeypatch, request):
    """The location with one fault, the error that it deserves, and what the message must say."""
    name = request.param
    if name == "wrong secret":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        yield on_s3(), StorageRefused, "SignatureDoesNotMatch"
    elif name == "unknown key":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "wrong")
        yield on_s3(), StorageRefused, "InvalidAccessKeyId"
    elif name == "no key":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield on_s3(), StorageRefused, "Unable to locate credentials"
    elif name == "no bucket":
        yield on_s3(lake_uri="s3://no-such-bucket/lake"), StorageRefused, "NoSuchBucket"
    elif name == "no server":
        with socket.socket() as bound:  # bound but not listening: whoever comes is turned away
            bound.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{bound.getsockname()[1]}"
            yield on_s3(s3_endpoint_url=url), StorageDown, url
    elif name == "silent server":
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            yield on_s3(s3_endpoint_url=url), StorageDown, url
    else:
        with faulty_proxy(object_store.url, lambda method, path: "refused") as url:
            yield on_s3(s3_endpoint_url=url), StorageDown, "500"


FAULTS = ["wrong secret", "unknown key", "no key", "no bucket", "no server", "silent server", "broken server"]
CALLS = {
    "list": lambda place, file: place.names("a"),
    "read": lambda place, file: place.read("a"),
    "write": lambda place, file: place.write("a", b"1"),
    "upload": lambda place, file: place.upload(file, "a"),
    "fetch": lambda place, file: place.fetch("a"),
    "open table": lambda place, file: lake.open_table(place, "core__t"),
    "replace rows": lambda place, file: lake.replace_where(
        place, "core__t", ROWS, predicate="day = '2017-05-06'", partition_by=["day"]
    ),
}


@pytest.mark.parametrize("faulty", FAULTS, indirect=True)
@pytest.mark.parametrize("call", CALLS)
def test_a_fault_of_the_store_is_a_clear_error_in_a_bounded_time(faulty, call, tmp_path):
    place, kind, said = faulty
    (tmp_path / "file").write_bytes(b"1")
    began = time.perf_counter()

    with pytest.raises((BadInput, StorageDown)) as caught:
        CALLS[call](place, tmp_path / "file")

    error = caught.value
    assert type(error) is kind
    assert place.uri in error.where
    assert said in f"{error.where} {error.found}"
    assert ("AWS_ACCESS_KEY_ID" if kind is StorageRefused else "NIGHTJAR_S3_ENDPOINT_URL") in error.remedy
    assert "\x1b" not in str(error)
    assert time.perf_counter() - began < 20  # with a timeout of half a second; the default is ten
    assert not place.folder.exists() or not any(path.is_file() for path in place.folder.rglob("*"))


def test_a_server_that_fails_twice_is_asked_again(on_s3, object_store):
    seen = []

    def fault(method, path):
        seen.append(path)
        return "refused" if seen.count(path) <= 2 else None

    with faulty_proxy(object_store.url, fault) as url:
        place = on_s3(s3_endpoint_url=url)
        place.write("a.json", b"1")
        lake.replace_where(place, "core__t", ROWS, predicate="day = '2017-05-06'", partition_by=["day"])

    assert on_s3("elsewhere").read("a.json") == b"1"
    assert lake.open_table(on_s3("elsewhere"), "core__t").to_pyarrow_table().num_rows == 1
    assert max(map(seen.count, seen)) >= 3


def test_content_that_is_damaged_on_its_way_is_not_taken(on_s3, object_store, tmp_path):
    on_s3().write("a.parquet", b"content")
    place = on_s3("elsewhere")

    def fault(method, path):
        return "damaged" if method == "GET" and path.endswith("/a.parquet") else None

    with faulty_proxy(object_store.url, fault) as url, pytest.raises(StorageDown, match="checksum"):
        on_s3("elsewhere", s3_endpoint_url=url).fetch("a.parquet")

    assert place.fetch("a.parquet").read_bytes() == b"content"
