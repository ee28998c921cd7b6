"""Erasure: a household goes from every layer, whatever interrupts it, and a re-delivery does not bring it back."""

import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta

import corner_shop as shop
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from pipelines import drop_files, erasure, lake, tables, warehouse
from pipelines.access import reidentify
from pipelines.contracts import TRANSACTIONS_DROP
from pipelines.drops import MANIFEST, read_drop
from pipelines.erasure import erase
from pipelines.errors import EngineFailure, MissingColumn, WrongKey
from pipelines.ingest import ingest
from pipelines.ingest_log import current_log
from pipelines.labels import build_labels
from pipelines.pseudonyms import pseudonym
from pipelines.settings import Settings
from pipelines.storage import Location

pytestmark = pytest.mark.usefixtures("database")

DAY = date(2017, 5, 6)
DAYS = [DAY + timedelta(days=n) for n in range(3)]
GONE, STAYS = 7700770077007, 8800880088008
NOON = datetime(2017, 5, 6, 16, tzinfo=UTC).replace(tzinfo=None)


def a_line(basket, household, day=DAY, **changed):
    return {
        "household_id": household,
        "store_id": 300,
        "basket_id": basket,
        "product_id": 10,
        "quantity": 1,
        "sales_value": 2.29,
        "retail_disc": 0.0,
        "coupon_disc": 0.0,
        "coupon_match_disc": 0.0,
        "transaction_timestamp": NOON + (day - DAY),
        **changed,
    }


def lines_of(day):
    start = 100 * (day - DAY).days
    others = [a_line(start + n, STAYS + n, day) for n in range(40)]
    return [a_line(start + 90, GONE, day), *others, a_line(start + 91, GONE, day, quantity=-1)]


def deliver_text(settings, day, lines, name="part-0.csv.gz", encoding="latin-1"):
    """Puts the day's file in place as CSV, with a column more than agreed, and its manifest."""
    folder = f"transactions/date={day}"
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*TRANSACTIONS_DROP.schema.names, "note"])
    writer.writerows([*line.values(), 'Café, "two\nlines"'] for line in lines)
    content = text.getvalue().encode(encoding)
    if name.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    for old in settings.landing.names(f"{folder}/"):
        settings.landing.delete(old)
    settings.landing.write(f"{folder}/{name}", content)
    file = {"name": name, "rows": len(lines), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    told = {"drop": "transactions", "business_date": str(day), "schema_version": 1, "is_closed": False}
    manifest = {**told, "files": [file | {"encoding": encoding}]}
    settings.landing.write(f"{folder}/{MANIFEST}", json.dumps(manifest).encode())


@pytest.fixture
def storage(request):
    return request.getfixturevalue(getattr(request, "param", "folders"))


@pytest.fixture
def home(settings, deliver):
    """Three ingested days: Parquet, latin-1 CSV in gzip, and UTF-8 CSV; features, labels, scores of the first."""
    deliver("products", DAY, [{"product_id": 10, "product_category": "MILK", "product_type": "X", "department": "G"}])
    deliver("households", DAY, [{"household_id": GONE, "age": "35-44"}, {"household_id": STAYS, "age": "25-34"}])
    campaign = {"campaign_id": 1, "campaign_type": "A", "start_date": DAY, "end_date": DAY}
    deliver("campaigns", DAY, [{"household_id": GONE, **campaign}, {"household_id": STAYS, **campaign}])
    for day in DAYS:
        deliver("redemptions", day, [{"household_id": GONE, "coupon_upc": 5, "campaign_id": 1}] * 1)
        deliver("transactions", day, lines_of(day))
    deliver_text(settings, DAYS[1], lines_of(DAYS[1]))
    deliver_text(settings, DAYS[2], lines_of(DAYS[2]), "part-0.csv", "utf-8")
    ingest(settings, DAYS[0], DAYS[2], "r1")
    use_case = shop.SHOP
    warehouse.create_tables(settings, [use_case])
    number = (DAY - shop.DAY).days
    shop.snapshot(settings, number)
    build_labels(settings, use_case, DAY, "r1")
    who = pseudonym(settings.key, GONE)
    shop.publish(settings, number, {who: ["MILK"], pseudonym(settings.key, STAYS): ["MILK"]})
    shop.put_scores(settings, number, [(who, "MILK", 0.9, "champion"), (5 * 10**9, "MILK", 0.8, "champion")])
    stage(settings)
    return settings


def stage(settings):
    """What readers see stands in the staging table as well, as if the run that put it there had been killed."""
    scores, staging = tables.scores_table(shop.SHOP), tables.staging_table(shop.SHOP)
    names = [column.name for column in scores.columns]
    rows = sa.select(sa.literal(1), *(scores.c[name] for name in names))
    with warehouse.open_warehouse(settings) as connection:
        connection.execute(sa.insert(staging).from_select(["fence", *names], rows))


def traces(settings):
    """Places that still know the household: every Parquet value, every delivered text, every byte of the databases."""
    who, found = pseudonym(settings.key, GONE), set()
    for name, content in everything(settings):
        if name.endswith(".parquet"):
            rows = pq.read_table(io.BytesIO(content))
            texts = rows["row_json"].to_pylist() if "row_json" in rows.column_names else []
            if "household_id" in rows.column_names and {who, GONE} & set(rows["household_id"].to_pylist()):
                found.add(name)
            if str(who) in str(texts):
                found.add(f"{name}: row_json")
        elif "warehouse.db" not in name and "receipts" not in name:
            text = gzip.decompress(content) if name.endswith(".gz") else content
            if any(needle in text for needle in needles(who)):
                found.add(name)
    with warehouse.open_warehouse(settings) as connection:
        for name in sa.inspect(connection).get_table_names():
            rows = connection.execute(sa.text(f"SELECT * FROM {name}")).fetchall()
            if str(who) in str(rows) and name not in ("ops__tombstones", "ops__access_log"):
                found.add(name)
            if str(GONE) in str(rows):
                found.add(f"{name}: raw")
    return found


def everything(settings):
    """Every file of this machine, and every object."""
    for path in settings.home.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(settings.home)), path.read_bytes()
    for place in (settings.landing, settings.lake):
        if place.is_remote:
            yield from ((place.uri_of(name), place.read(name)) for name in place.names())


def needles(who):
    return [str(who).encode(), str(GONE).encode(), who.to_bytes(8, "big"), who.to_bytes(8, "little")]


def tables_of(settings, read_table):
    return {
        name: read_table(settings, name).to_pylist() for name in lake.tables(settings.lake) if name.startswith("core__")
    }


@pytest.mark.attack("S17")
@pytest.mark.parametrize("storage", ["folders", "s3"], indirect=True)
def test_after_an_erasure_no_layer_knows_the_household_and_nobody_else_is_missing(home, read_table):
    who = pseudonym(home.key, GONE)
    others = {
        name: [row for row in rows if row.get("household_id") != who]
        for name, rows in tables_of(home, read_table).items()
    }
    lake.replace_snapshot(home.lake, "features__category", pa.table({"product_category": ["MILK"]}), DAY)
    (home.home / "scratch").mkdir(exist_ok=True)
    (home.home / "scratch" / "copy.csv").write_text(f"{GONE}")
    assert len(traces(home)) > 12

    report = erase(home, str(GONE), DAYS[2], "r2")

    assert traces(home) == set()
    assert tables_of(home, read_table) == others
    assert report.is_complete
    assert report.removed == {
        "landing/transactions": 6,
        "landing/households": 1,
        "landing/campaigns": 1,
        "landing/redemptions": 3,
        "lake/core__transactions": 3,
        "lake/core__households": 1,
        "lake/core__campaigns": 1,
        "lake/core__redemptions": 3,
        "lake/core__products": 0,
        "lake/quarantine__transactions": 3,
        "lake/features__corner_shop": 1,
        "lake/labels__corner_shop": 1,
        "lake/scores__corner_shop": 1,
        "online store": 0,
        "warehouse/scores__corner_shop": 1,
        "warehouse/staging__corner_shop": 1,
        "warehouse/outcomes__corner_shop": 0,
    }
    assert set(report.removed) == set(report.left)
    assert set(report.left.values()) == {0}


@pytest.mark.attack("S17")
@pytest.mark.parametrize("storage", ["folders", "s3"], indirect=True)
def test_rewritten_files_are_as_agreed_and_keep_every_other_row(home):
    erase(home, str(GONE), DAYS[2], "r2")

    for day in DAYS:
        drop = read_drop(home.landing, TRANSACTIONS_DROP, day)
        (file,) = drop.manifest.files
        content = home.landing.read(drop.name_of(file))
        assert (file.rows, file.bytes, file.sha256) == (40, len(content), hashlib.sha256(content).hexdigest())
    (file,) = read_drop(home.landing, TRANSACTIONS_DROP, DAYS[1]).manifest.files
    assert (file.name, file.encoding) == ("part-0.csv.gz", "latin-1")
    text = gzip.decompress(home.landing.read(f"transactions/date={DAYS[1]}/{file.name}")).decode("latin-1")
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [int(row["basket_id"]) for row in rows] == list(range(100, 140))
    assert {row["note"] for row in rows} == {'Café, "two\nlines"'}
    assert {row["sales_value"] for row in rows} == {"2.29"}


@pytest.mark.attack("S17")
def test_ingest_takes_rewritten_files_for_what_it_knows_and_a_copy_of_the_original_too(home, deliver, read_table):
    original = [file.read_bytes() for file in sorted(home.landing.folder.glob("transactions/*/part-0.parquet"))]
    erase(home, str(GONE), DAYS[2], "r2")
    before = tables_of(home, read_table)
    later = DAYS[2] + timedelta(days=8)  # beyond the late window
    for day in [later + timedelta(days=n) for n in range(-7, 1)]:
        deliver("redemptions", day, [])
        deliver("transactions", day, [a_line(10_000 + day.day, STAYS, day)])
    copy = home.landing.folder / f"transactions/date={later}/part-1.parquet"
    copy.write_bytes(original[0])
    manifest = json.loads((copy.parent / MANIFEST).read_text())
    digest = hashlib.sha256(original[0]).hexdigest()
    manifest["files"].append({"name": copy.name, "rows": 42, "bytes": len(original[0]), "sha256": digest})
    (copy.parent / MANIFEST).write_text(json.dumps(manifest))

    report = ingest(home, DAYS[2] + timedelta(days=1), later, "r3")

    assert (report.rows_in, report.rows_kept, report.rows_duplicate) == (8 + 42, 8, 42)
    log = current_log(home, date.min, later)
    assert [row for row in log if row["status"] == "late"] == []
    after = tables_of(home, read_table)
    assert [row for row in after["core__transactions"] if row["business_date"] <= DAYS[2]] == before[
        "core__transactions"
    ]


@pytest.mark.attack("S17")
def test_the_original_file_delivered_again_does_not_bring_it_back(home, deliver, read_table):
    erase(home, str(GONE), DAYS[2], "r2")
    before = tables_of(home, read_table)
    deliver("transactions", DAY, lines_of(DAY))
    deliver("households", DAY, [{"household_id": GONE, "age": "35-44"}, {"household_id": STAYS, "age": "25-34"}])

    ingest(home, DAY, DAY, "r3")

    assert tables_of(home, read_table) == before
    (row,) = [row for row in current_log(home, DAY, DAY) if row["status"] != "erased"]
    counts = ("rows_in", "rows_kept", "rows_quarantined", "rows_duplicate", "rows_erased")
    assert tuple(row[name] for name in counts) == (42, 40, 0, 0, 2)
    assert erase(home, str(GONE), DAYS[2], "r4").removed["landing/transactions"] == 6 + 2
    assert traces(home) == set()


class Killed(BaseException):
    """Ends a step as a kill does: nothing catches it."""


WRITES = [
    (Location, "write"),
    (Location, "upload"),
    (lake, "replace_where"),
    (lake, "replace_snapshot"),
    (lake, "vacuum"),
    (erasure, "forget_online"),
    (erasure, "write_private"),
    (erasure, "append_log"),
    (warehouse, "append_rows"),
    (erasure.shutil, "rmtree"),
]


@pytest.mark.attack("S17")
@pytest.mark.parametrize("day", DAYS)
def test_rows_that_somebody_dropped_from_quarantine_stay_dropped_in_the_rewritten_file(home, day, read_table):
    (file,) = read_drop(home.landing, TRANSACTIONS_DROP, day).manifest.files
    told = {"source_file": "x", "business_date": day, "rule_id": "r", "reason": "known", "run_id": "r"}
    told |= {"source_sha256": file.sha256}
    with warehouse.open_warehouse(home) as connection:  # of the first other household, of the last, and of the erased
        rows = [told | {"source_line": line} for line in (1, 40, 41)]
        warehouse.append_rows(connection, tables.QUARANTINE_DROPS, rows)

    erase(home, str(GONE), DAYS[2], "r2")
    ingest(home, day, day, "r3")

    (row,) = [row for row in current_log(home, day, day) if row["status"] != "erased"]
    assert (row["rows_in"], row["rows_kept"], row["rows_dropped"]) == (40, 38, 2)
    baskets = read_table(home, "core__transactions", day)["basket_id"].to_pylist()
    start = 100 * (day - DAY).days
    assert baskets == list(range(start + 1, start + 39))


@pytest.mark.attack("S17")
@pytest.mark.slow
@pytest.mark.parametrize("first", range(3))
def test_killed_before_any_of_its_writes_a_second_run_ends_it(home, monkeypatch, tmp_path, first, is_thorough):
    kills, stride = 0, 3 if is_thorough else 12
    for position in range(first, 200, stride):
        again = Settings(home=tmp_path / str(position))
        shutil.copytree(home.home, again.home)
        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            kill_at(patched, position)
            erase(again, str(GONE), DAYS[2], "r2")
            break
        kills += 1
        if position > 1:  # the access log comes first
            assert len(shop.rows_of(again, tables.TOMBSTONES)) == 1

        report = erase(again, str(GONE), DAYS[2], "r3")

        assert traces(again) == set(), position
        assert report.is_complete
        for day in DAYS:
            drop_files.check_files(read_drop(again.landing, TRANSACTIONS_DROP, day))
        shutil.rmtree(again.home)
    assert kills > 40 // stride


def kill_at(patched, position):
    seen = iter(range(10_000))
    for owner, name in WRITES:
        real = getattr(owner, name)

        def counted(*args, _real=real, **kwargs):
            if next(seen) == position:
                raise Killed
            return _real(*args, **kwargs)

        patched.setattr(owner, name, counted)


@pytest.mark.attack("S17")
@pytest.mark.slow
def test_killed_by_the_system_in_the_middle_a_second_run_ends_it(home):
    program = (
        "import os, signal, sys, datetime\n"
        "from pathlib import Path\n"
        "from pipelines import lake\n"
        "from pipelines.erasure import erase\n"
        "from pipelines.settings import Settings\n"
        "lake.vacuum = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"erase(Settings(home=Path({str(home.home)!r})), '{GONE}', datetime.date(2017, 5, 8), 'r2')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == -9, done.stderr
    assert traces(home)

    report = erase(home, str(GONE), DAYS[2], "r3")

    assert traces(home) == set()
    assert report.removed["landing/transactions"] == 6  # the receipt counts both runs


@pytest.mark.attack("S18")
def test_receipt_and_access_log_name_the_pseudonym_alone_and_only_their_owner_reads_the_receipt(home):
    report = erase(home, str(GONE), DAYS[2], "r2")

    receipt = home.home / "receipts" / f"erasure-{pseudonym(home.key, GONE)}-2017-05-08.json"
    told = json.loads(receipt.read_text())
    assert report.receipt == str(receipt)
    assert stat.S_IMODE(receipt.stat().st_mode) == 0o600
    assert str(GONE) not in receipt.read_text()
    assert (told["household_id"], told["as_of"], told["left"]) == (report.household_id, "2017-05-08", report.left)
    (row,) = shop.rows_of(home, tables.ACCESS_LOG)
    assert (row["what"], row["subject"], row["ids"], row["run_id"]) == ("erase", report.household_id, 1, "r2")
    assert row["who"]


@pytest.mark.attack("S17")
def test_a_file_that_nobody_can_read_is_named_and_the_erasure_not_called_complete(home):
    damaged = home.landing.folder / f"transactions/date={DAYS[0]}/part-0.parquet"
    os.truncate(damaged, 700)
    unfinished = home.landing.folder / "transactions/date=2017-05-09/part-0.parquet"
    unfinished.parent.mkdir()
    unfinished.write_bytes(b"not delivered yet")

    report = erase(home, str(GONE), DAYS[2], "r2")

    names = tuple(str(file.relative_to(home.landing.folder)) for file in (damaged, unfinished))
    assert (report.is_complete, report.unread) == (False, names)


@pytest.mark.attack("S17")
def test_rows_that_come_back_while_it_runs_are_an_error(home, monkeypatch):
    monkeypatch.setattr(lake, "replace_where", lambda *_, **__: None)

    with pytest.raises(EngineFailure, match="core__transactions") as caught:
        erase(home, str(GONE), DAYS[2], "r2")

    assert str(GONE) not in str(caught.value)


def test_with_another_key_nothing_is_erased(home):
    other = home.model_copy(update={"pseudonym_key": type(home.pseudonym_key)("k" * 40)})
    with pytest.raises(WrongKey):
        erase(other, str(GONE), DAYS[2], "r2")
    assert shop.rows_of(home, tables.TOMBSTONES) == []


def write_csv(path, rows):
    with path.open("w", newline="") as content:
        csv.writer(content).writerows(rows)
    return path


def read_csv(path):
    with path.open(newline="") as content:
        return list(csv.reader(content))


@pytest.mark.attack("S19")
def test_pseudonyms_become_raw_ids_other_columns_stay_and_no_cell_is_a_formula(home, tmp_path):
    known, nobody = pseudonym(home.key, STAYS), 12345
    rows = [
        ["offer", "household_id", "note", "amount"],
        ["=cmd|'/c calc'!A1", known, "+1 (555)", "-3.5"],
        ["@SUM(A1)", nobody, "\tx", "+2"],
        ["MILK", known, "-1e3", "-"],
    ]
    report = reidentify(home, write_csv(tmp_path / "in.csv", rows), tmp_path / "out.csv", "November mailing", "r2")

    assert read_csv(tmp_path / "out.csv") == [
        ["offer", "household_id", "note", "amount"],
        ["'=cmd|'/c calc'!A1", str(STAYS), "'+1 (555)", "-3.5"],
        ["'@SUM(A1)", "", "'\tx", "+2"],
        ["MILK", str(STAYS), "-1e3", "'-"],
    ]
    assert (report.rows, report.ids, report.unknown) == (3, 1, (str(nobody),))
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == 0o600
    (row,) = shop.rows_of(home, tables.ACCESS_LOG)
    assert (row["what"], row["subject"], row["ids"], row["reason"]) == ("reidentify", None, 2, "November mailing")


def test_an_erased_household_is_not_translated_even_when_it_was_delivered_again(home, deliver, tmp_path):
    erase(home, str(GONE), DAYS[2], "r2")
    deliver("transactions", DAY, lines_of(DAY))
    who = pseudonym(home.key, GONE)

    report = reidentify(home, write_csv(tmp_path / "in.csv", [["household_id"], [who]]), tmp_path / "o.csv", "x", "r")

    assert (report.ids, report.unknown) == (0, (str(who),))
    assert str(GONE) not in (tmp_path / "o.csv").read_text()


def test_a_list_without_pseudonyms_is_refused(home, tmp_path):
    with pytest.raises(MissingColumn, match="household_id"):
        reidentify(home, write_csv(tmp_path / "in.csv", [["name"], ["x"]]), tmp_path / "out.csv", "x", "r2")
    assert not (tmp_path / "out.csv").exists()
