"""People in the data: real days with one household of a distinctive id, through every step; who is in what is left."""

import csv
import gzip
import hashlib
import io
import json
import re
import shutil
import sqlite3
from contextlib import closing
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from toy import HOUSEHOLD

from pipelines import lake, monitoring, tables, warehouse
from pipelines.erasure import erase
from pipelines.errors import WrongKey
from pipelines.feature_store import materialise, open_store
from pipelines.features import build_features
from pipelines.gate import judge
from pipelines.ingest import ingest
from pipelines.landing import land
from pipelines.lineage import rebuild_training_set
from pipelines.promotion import promote
from pipelines.pseudonyms import pseudonym
from pipelines.publishing import publish
from pipelines.retention import clean
from pipelines.scoring import score
from pipelines.settings import Settings
from pipelines.training import train
from pipelines.use_cases import load_use_cases

pytestmark = pytest.mark.slow
FIRST, TRAINED, LAST = date(2017, 7, 3), date(2017, 8, 20), date(2017, 8, 27)
RAW = 7700770077007
AS_CSV = date(2017, 8, 1)  # delivered as CSV in gzip
KNOWS = {"ops__tombstones", "ops__access_log"}  # of an erased household, the pseudonym alone


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Eight weeks, landed, ingested, learned from; the last day scored, published, online and monitored."""
    settings = Settings(home=tmp_path_factory.mktemp("people"), use_cases=["toy"])
    land(settings, FIRST, LAST)
    rename(settings, one_who_shops_on(settings, AS_CSV))
    ingest(settings, FIRST, LAST, "r")
    toy = load_use_cases(settings)["toy_visits"]
    warehouse.create_tables(settings, [toy])
    version = train(settings, toy, TRAINED, "r").model_version
    judge(settings, toy, version, TRAINED, "r")
    assert promote(settings, toy, version, "r").is_promoted
    for day in (TRAINED, LAST):
        build_features(settings, toy, day, "r")
        score(settings, toy, day, "r")
        publish(settings, toy, day, "r")
        materialise(settings, toy, day, "r")
    monitoring.record_outcomes(settings, toy, LAST, "r")
    monitoring.measure_quality(settings, toy, LAST, "r")
    return settings


@pytest.fixture
def copy(home, tmp_path):
    """A home of the test's own with the same content."""
    shutil.copytree(home.home, tmp_path / "copy")
    return Settings(home=tmp_path / "copy", use_cases=["toy"])


def one_who_shops_on(settings, day):
    """A household of the survey that shops that day, and on the last."""
    found = []
    for drop in (f"households/date={FIRST}", f"transactions/date={day}", f"transactions/date={LAST}"):
        file = settings.landing.folder / drop / "part-0.parquet"
        found.append(set(pq.read_table(file, partitioning=None)["household_id"].to_pylist()))
    return min(set.intersection(*found))


def rename(settings, household):
    """Deliver every file again with the distinctive id in place of that household's, one line of it a bad one."""
    for file in settings.landing.folder.glob("*/*/part-0.parquet"):
        rows = pq.read_table(file, partitioning=None)
        if "household_id" in rows.column_names:
            ids = rows["household_id"]
            ids = pc.if_else(pc.equal(ids, household), pa.scalar(RAW), ids)
            rows = rows.set_column(rows.column_names.index("household_id"), "household_id", ids)
            if file.parent.name == f"date={AS_CSV}" and file.parts[-3] == "transactions":
                spoilt = rows.slice(ids.to_pylist().index(RAW), 1).to_pylist()[0] | {"basket_id": 1, "quantity": -1}
                rows = pa.concat_tables([rows, pa.Table.from_pylist([spoilt], schema=rows.schema)])
                delivered = as_csv(file, rows)
            else:
                delivered = file
                pq.write_table(rows, file)
            content = delivered.read_bytes()
            manifest = json.loads((file.parent / "manifest.json").read_text())
            facts = {"name": delivered.name, "rows": len(rows), "bytes": len(content)}
            manifest["files"] = [facts | {"sha256": hashlib.sha256(content).hexdigest()}]
            (file.parent / "manifest.json").write_text(json.dumps(manifest))


def as_csv(file, rows):
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, rows.column_names)
    writer.writeheader()
    writer.writerows(rows.to_pylist())
    file.unlink()
    packed = file.with_name("part-0.csv.gz")
    packed.write_bytes(gzip.compress(text.getvalue().encode()))
    return packed


def values_in(path):
    """Every value in a file, as text: Parquet and SQLite by their columns, others as they are."""
    if path.suffix == ".parquet":
        table = pq.read_table(path, partitioning=None)
        yield from ((name, str(value)) for name in table.column_names for value in table[name].unique().to_pylist())
    elif path.read_bytes().startswith(b"SQLite format 3"):
        with closing(sqlite3.connect(path)) as database:
            for (table,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                found = database.execute(f'SELECT * FROM "{table}"')
                names = [column[0] for column in found.description]
                for row in found.fetchall():
                    yield from ((f"{table}.{name}", shown(value)) for name, value in zip(names, row, strict=True))
    yield "bytes", path.read_bytes().decode("latin-1")


def shown(value):
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def text_of(number):
    """How a number may stand in a file: as digits, or as eight bytes in either order."""
    orders = (number.to_bytes(8, order).decode("latin-1") for order in ("big", "little"))
    return re.compile("|".join(re.escape(form) for form in (str(number), *orders)))


def files_of(settings):
    files = [path for path in settings.home.rglob("*") if path.is_file()]
    return [path for path in files if settings.landing.folder not in path.parents]


@pytest.mark.attack("S16")
def test_outside_landing_no_file_holds_a_raw_id(home):
    raw, scanned, smallest = text_of(RAW), set(), []
    for path in files_of(home):
        scanned.add(path.suffix)
        for name, value in values_in(path):
            assert not raw.search(value), (path, name)
            if name.endswith("household_id") and value.isdigit():
                smallest.append(int(value))
    assert {".parquet", ".db", ".json", ".txt", ".png"} <= scanned
    assert min(smallest) > 1_000_000  # of the 2,469 raw ids the largest is 2,500
    assert len(set(smallest)) > 1_000
    assert (
        str(RAW)
        in gzip.decompress((home.landing.folder / f"transactions/date={AS_CSV}/part-0.csv.gz").read_bytes()).decode()
    )


@pytest.mark.attack("S16")
def test_who_tries_all_raw_ids_without_the_key_matches_nobody(home):
    stored = set()
    for file in lake.files_of(home.lake, "core__transactions"):
        stored |= set(pq.read_table(file, columns=["household_id"], partitioning=None)["household_id"].to_pylist())
    guesses = range(10_000)

    def hashed(make):
        return {int.from_bytes(make(str(raw).encode())[:8], "big") >> 1 for raw in guesses}

    unkeyed = [hashed(lambda raw: hashlib.sha256(raw).digest()), hashed(lambda raw: hashlib.md5(raw).digest().ljust(8))]
    wrong_key = {pseudonym(b"nightjar" * 4, raw) for raw in guesses}
    assert len(stored & {pseudonym(home.key, raw) for raw in guesses}) == len(stored) - 1  # the key finds all but RAW
    for found in (*unkeyed, wrong_key, set(guesses)):
        assert not stored & found


@pytest.mark.attack("S16")
def test_another_key_is_refused_in_the_same_lake_and_shares_no_pseudonym_in_a_new_one(home, copy, tmp_path):
    key = {"pseudonym_key": "another key, of 32 characters or more", "landing_uri": str(home.landing.folder)}
    with pytest.raises(WrongKey) as refused:
        ingest(Settings(home=copy.home, **key), LAST, LAST, "r2")
    assert key["pseudonym_key"] not in str(refused.value)

    fresh = Settings(home=tmp_path / "fresh", **key)
    ingest(fresh, AS_CSV, AS_CSV, "r2")

    def ids(settings):
        (file,) = lake.files_of(settings.lake, "core__transactions", first=AS_CSV, last=AS_CSV)
        return set(pq.read_table(file, partitioning=None)["household_id"].to_pylist())

    assert len(ids(fresh)) == len(ids(home)) > 100
    assert not ids(fresh) & ids(home)


@pytest.mark.attack("S17")
def test_after_an_erasure_nothing_holds_the_household_and_the_next_model_does_not_know_it(copy):
    who = pseudonym(copy.key, RAW)
    known = text_of(who)
    holding = {path for path in files_of(copy) for _, value in values_in(path) if known.search(value)}
    assert {path.suffix for path in holding} >= {".parquet", ".db"}
    toy = load_use_cases(copy)["toy_visits"]
    before = online(copy, toy, who)
    assert before["trips_84d"] is not None

    report = erase(copy, str(RAW), LAST, "r2")

    assert report.is_complete
    assert all(report.removed[place] > 0 for place in REACHED), report.removed
    for path in files_of(copy):
        if copy.home / "receipts" not in path.parents:
            for name, value in values_in(path):
                if name != "bytes" or path.name != "warehouse.db":  # the tombstone is in there
                    assert name.partition(".")[0] in KNOWS or not known.search(value), (path, name)
    for path in copy.landing.folder.rglob("part-0.*"):
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else b""
        assert str(RAW).encode() not in content
        if path.suffix == ".parquet":
            assert str(RAW) not in {value for name, value in values_in(path) if name == "household_id"}
    assert set(online(copy, toy, who).values()) == {None}
    version = train(copy, toy, TRAINED, "r3").model_version
    training_set = copy.home / "training_set.parquet"
    rebuild_training_set(copy, toy, version, training_set)
    learned_from = pq.read_table(training_set)["household_id"].to_pylist()
    assert who not in learned_from
    assert len(set(learned_from)) > 1_000
    monitoring.record_outcomes(copy, toy, LAST, "r3")
    assert monitoring.measure_quality(copy, toy, LAST, "r3").newest["auc"] > 0.5


REACHED = (
    *("landing/transactions", "landing/households", "lake/core__transactions", "lake/core__households"),
    *("lake/quarantine__transactions", "lake/features__toy_household", "lake/features__toy_household_store"),
    *("lake/labels__toy_visits", "lake/scores__toy_visits", "online store"),
    *("warehouse/scores__toy_visits", "warehouse/outcomes__toy_visits"),
)


def online(settings, toy, who):
    found = open_store(settings, toy).get_online_features(
        features=[f"{HOUSEHOLD.name}:{name}" for name in HOUSEHOLD.features], entity_rows=[{"household_id": who}]
    )
    return {name: values[0] for name, values in found.to_dict().items() if name != "household_id"}


@pytest.mark.attack("S18")
def test_a_night_after_the_janitor_finds_all_that_it_needs(copy):
    toy = load_use_cases(copy)["toy_visits"]
    least = {"landing": 3, "quarantine": 3, "scores": 17, "snapshots": 94, "published": 17}
    kept = copy.model_copy(update={f"keep_{name}_days": days for name, days in least.items()} | {"leftover_hours": 0})

    removed = clean(kept, LAST, "r2").removed

    assert removed["landing"] > 100
    assert removed["quarantine"] > 0
    land(kept, date(2017, 8, 28), date(2017, 8, 28))
    assert ingest(kept, date(2017, 8, 28), date(2017, 8, 28), "r3").rows_kept > 1000
    assert publish_a_night(kept, toy, date(2017, 8, 28)) > 1000
    with warehouse.open_warehouse(kept) as connection:
        late = sa.select(tables.INGEST_LOG.c.status).where(tables.INGEST_LOG.c.status == "late")
        assert list(connection.scalars(late)) == []


def publish_a_night(settings, toy, day):
    build_features(settings, toy, day, "r3")
    score(settings, toy, day, "r3")
    rows = publish(settings, toy, day, "r3").rows
    monitoring.record_outcomes(settings, toy, day, "r3")
    monitoring.measure_quality(settings, toy, day, "r3")
    return rows
