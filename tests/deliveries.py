"""Small deliveries in every form, what is left of them in the tables, and what must hold after any fault."""

import csv
import gc
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import resource
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from pipelines import lake, warehouse
from pipelines.contracts import CORE_TABLES, DROPS, QUARANTINE_TRANSACTIONS, SCHEMA_VERSION
from pipelines.drops import MANIFEST, Manifest
from pipelines.ingest import ingest
from pipelines.settings import Settings

SQL = "'); DROP TABLE core__transactions; --"
DAY = date(2017, 5, 10)
MILK, FUEL, UNKNOWN = 10, 20, 99
PRODUCTS = [
    {"product_id": MILK, "product_category": "MILK", "product_type": "WHOLE", "department": "DAIRY"},
    {"product_id": FUEL, "product_category": "FUEL", "product_type": "GAS", "department": "FUEL"},
]
PARTS = ("rows_kept", "rows_quarantined", "rows_duplicate", "rows_erased", "rows_late", "rows_dropped")
PRELOADED = ["expectations.transactions", "pipelines.quarantine", "pipelines.validation", "pipelines.logs",
             "pipelines.schema", "mlflow.store.tracking.sqlalchemy_store", "mlflow.tracing.processor", "alembic.config",
             "alembic.command", "pyarrow.dataset", "nights"]  # fmt: skip
Line = dict[str, Any]


def after(days: int) -> date:
    """The date so many days after DAY."""
    return DAY + timedelta(days=days)


def at(day: date, hour: int = 12, zone: str = "America/New_York") -> datetime:
    """That hour in the stores' zone, as upstream has it: naive UTC."""
    local = datetime(day.year, day.month, day.day, hour, tzinfo=ZoneInfo(zone))
    return local.astimezone(UTC).replace(tzinfo=None)


def a_line(basket: int, day: date = DAY, **changed: Any) -> Line:
    """A good line, bought at noon of that date, but for what is changed."""
    line = {
        "household_id": basket % 7 + 1,
        "store_id": 300,
        "basket_id": basket,
        "product_id": MILK,
        "quantity": 1,
        "sales_value": 2.29,
        "retail_disc": 0.3,
        "coupon_disc": 0.0,
        "coupon_match_disc": 0.0,
        "transaction_timestamp": at(day),
    }
    return {**line, **changed}


def as_parquet(rows: Sequence[Line] | pa.Table, name: str = "transactions") -> bytes:
    """The rows as a Parquet file of the contract's types; a table keeps its own."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), DROPS[name].schema)
    content = io.BytesIO()
    pq.write_table(table, content)
    return content.getvalue()


def as_csv(rows: Sequence[Mapping[str, Any]], encoding: str = "utf-8", columns: Sequence[str] = ()) -> bytes:
    """The rows as a CSV file with a header."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns or DROPS["transactions"].schema.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(encoding)


def put(
    settings: Settings,
    day: date,
    files: Mapping[str, bytes | Sequence[Line]],
    *,
    name: str = "transactions",
    rows: Mapping[str, int] | None = None,
    encoding: str = "utf-8",
    **facts: Any,
) -> Path:
    """Deliver a drop of files by name; the manifest says the truth, but for the facts given otherwise."""
    folder = settings.landing.folder / name / f"date={day}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    entries = []
    for file, given in files.items():
        content = given if isinstance(given, bytes) else _encoded(file, given, name)
        (folder / file).write_bytes(content)
        counted = rows[file] if rows else len(given)
        entry = {"name": file, "rows": counted, "bytes": len(content), "encoding": encoding}
        entries.append({**entry, "sha256": hashlib.sha256(content).hexdigest()})
    told = {"drop": name, "business_date": day, "schema_version": SCHEMA_VERSION, "is_closed": False}
    manifest = Manifest.model_validate({**told, "files": entries, **facts})
    (folder / MANIFEST).write_text(manifest.model_dump_json())
    return folder


def _encoded(file: str, rows: Sequence[Line], name: str) -> bytes:
    if file.endswith(".parquet"):
        return as_parquet(rows, name)
    content = as_csv(rows)
    return gzip.compress(content, mtime=0) if file.endswith(".gz") else content


def put_day(settings: Settings, day: date, *lines: Line, **files: Any) -> Path:
    """Deliver a date's transactions as one Parquet file, and no redemptions; DAY brings the products."""
    if not (settings.landing.folder / "products").exists():
        put(settings, min(day, DAY) - timedelta(days=40), {"part-0.parquet": PRODUCTS}, name="products")
    put(settings, day, {"part-0.parquet": []}, name="redemptions")
    return put(settings, day, {"part-0.parquet": list(lines)}, **files)


def redeem_nothing(settings: Settings, *days: date) -> None:
    """What a date needs besides its transactions."""
    for day in days:
        put(settings, day, {"part-0.parquet": []}, name="redemptions")
    put(settings, min(days) - timedelta(days=40), {"part-0.parquet": PRODUCTS}, name="products")


def rows_of(settings: Settings, table: str, day: date | None = None) -> list[Line]:
    """The rows of a lake table, or of one date, in the order of its key."""
    contract = {**CORE_TABLES, QUARANTINE_TRANSACTIONS.name: QUARANTINE_TRANSACTIONS}[table]
    found: list[Line] = []
    for path in lake.files_of(settings.lake, table, first=day, last=day):
        written = date.fromisoformat(Path(path).parent.name.removeprefix("business_date="))
        found += [{"business_date": written, **row} for row in pq.read_table(path, partitioning=None).to_pylist()]
    return sorted(found, key=lambda row: str([row[name] for name in ("business_date", *contract.key)]))


def core(settings: Settings, day: date | None = None) -> list[Line]:
    return rows_of(settings, "core__transactions", day)


def baskets(settings: Settings, day: date | None = None) -> list[int]:
    """The baskets in core, each as often as it has lines."""
    return sorted(row["basket_id"] for row in core(settings, day))


def quarantined(settings: Settings, day: date | None = None) -> list[tuple[int | None, str]]:
    """Basket and rule of each row in quarantine."""
    rows = rows_of(settings, "quarantine__transactions", day)
    return [(json.loads(row["row_json"])["basket_id"], row["rule_id"]) for row in rows]


def reconciliation(settings: Settings) -> dict[tuple[str, str], dict[str, Any]]:
    """ops__reconciliation of the transactions, by file and hash."""
    with warehouse.open_warehouse(settings) as connection:
        rows = connection.execute(sa.text("SELECT * FROM ops__reconciliation")).mappings().all()
    core_rows = [dict(row) for row in rows if row["table_name"] == "core__transactions"]
    return {(row["source_file"], row["source_sha256"]): row for row in core_rows}


def tables_of(settings: Settings) -> dict[str, list[Line]]:
    """Everything that ingest makes: the rows of core and quarantine, and what became of each file."""
    found = {name: rows_of(settings, name) for name in (*CORE_TABLES, QUARANTINE_TRANSACTIONS.name)}
    return found | {"reconciliation": [row for _, row in sorted(reconciliation(settings).items())]}


def require_sound(settings: Settings, *, pending: Sequence[str] = ()) -> None:
    """The oracle: no row lost, none doubled, the log says what the tables hold, and no file is left lying about.

    `pending` are files some of whose rows wait for a date that was never ingested.
    """
    found = reconciliation(settings)
    for (file, _), row in found.items():
        parts = sum(row[name] for name in PARTS)
        assert bool(row["is_balanced"]) == (parts == row["rows_delivered"]), row
        assert file in pending or parts == row["rows_delivered"], row
    ingested = {row["business_date"] for row in _current_log(settings)}
    current = {(file, sha256) for file, sha256, day in _landed(settings) if day in ingested}
    assert current <= set(found), "every delivered file is accounted for"
    for table, part in (("core__transactions", "rows_kept"), ("quarantine__transactions", "rows_quarantined")):
        held = rows_of(settings, table)
        by_day = Counter(row["business_date"] for row in held)
        told: Counter[date] = Counter()
        for row in _current_log(settings):
            told[row["business_date"]] += row[part]
        assert +told == by_day, table
    keys = Counter((row["business_date"], row["basket_id"], row["product_id"]) for row in core(settings))
    assert not [key for key, times in keys.items() if times > 1]
    assert leftovers(settings) == []


def leftovers(settings: Settings) -> list[str]:
    """Files that no table refers to: unfinished ones, staged ones, and Parquet files that no version holds."""
    found = [path for path in settings.home.rglob("*") if path.is_file()]
    stray = [path for path in found if path.name.startswith(".") or path.is_relative_to(settings.home / "scratch")]
    for name in (*CORE_TABLES, QUARANTINE_TRANSACTIONS.name):
        delta = lake.open_table(settings.lake, name)
        held: set[str] = set()
        for version in range(delta.version() + 1 if delta else 0):
            held |= set(lake.files_of(settings.lake, name, version=version))
        stray += [path for path in found if path.suffix == ".parquet" and f"/{name}/" in str(path)]
        stray = [path for path in stray if str(path) not in held]
    return sorted(str(path.relative_to(settings.home)) for path in set(stray))


def _current_log(settings: Settings) -> list[dict[str, Any]]:
    query = (
        "SELECT ops__ingest_log.* FROM ops__ingest_log NATURAL JOIN (SELECT table_name, business_date, "
        "max(attempt) AS attempt FROM ops__ingest_log GROUP BY table_name, business_date) AS newest "
        "WHERE table_name = 'core__transactions'"
    )
    with warehouse.open_warehouse(settings) as connection:
        rows = connection.execute(sa.text(query)).mappings()
        return [{**row, "business_date": date.fromisoformat(str(row["business_date"]))} for row in rows]


def _landed(settings: Settings) -> list[tuple[str, str, date]]:
    found = []
    for path in sorted((settings.landing.folder / "transactions").glob("*/manifest.json")):
        manifest = json.loads(path.read_text())
        day = date.fromisoformat(manifest["business_date"])
        found += [(f"transactions/date={day}/{file['name']}", file["sha256"], day) for file in manifest["files"]]
    return found


def copy_of(settings: Settings, home: Path, **changed: Any) -> Settings:
    """Settings of a new home that holds a copy of everything."""
    shutil.copytree(settings.home, home)
    return settings.model_copy(update={"home": home, **changed})


def in_process(function: Callable[..., None], *arguments: Any, **variables: str) -> tuple[int, str]:
    """Exit code and last error of a call in a process of its own with these variables; −9 is SIGKILL.

    The processes are forked from one that has imported Great Expectations, which takes seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    mine, its = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(its, function, arguments, variables))
    process.start()
    its.close()
    try:
        said = mine.recv()
    except EOFError:
        said = ""
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode, said


def _call(pipe: Any, function: Callable[..., None], arguments: Any, variables: Mapping[str, str]) -> None:
    os.environ.update({"NIGHTJAR_DEMO": "true", **variables})
    gc.freeze()  # what was imported stays; to look through it takes as long as a small night
    try:
        function(*arguments)
    except BaseException as error:
        pipe.send(f"{type(error).__name__}: {error}\n{traceback.format_exc()}")
        raise SystemExit(1) from None
    pipe.send("")


@contextmanager
def paused(function: Callable[..., None], *arguments: Any, at: str) -> Iterator[Any]:
    """The process of a call that stands still at a crash point; it has ended if it did not come to the point."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=call_until, args=(at, function, arguments))
    process.start()
    try:
        deadline = time.monotonic() + 60
        while process.is_alive() and state_of(process.pid) != "T":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.join(10)


def call_until(at: str, function: Callable[..., None], arguments: Any) -> None:
    os.environ.update({"NIGHTJAR_DEMO": "true", "NIGHTJAR_CRASH_AT": f"{at}:stop"})
    function(*arguments)


def state_of(pid: int) -> str:
    """The process's state as Linux tells it; T: stopped; X: it has ended."""
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    return "X"


def ingest_at(home: Path, first: date, last: date, run_id: str = "child") -> None:
    """Ingest in a process of its own."""
    ingest(Settings(home=home), first, last, run_id)


def ingest_with_little_disk(home: Path, first: date, last: date, most_bytes: int) -> None:
    """Ingest where no file can grow beyond so many bytes."""
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    ingest_at(home, first, last)
