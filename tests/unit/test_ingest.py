import hashlib
import hmac
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from pipelines import lake, tables, warehouse
from pipelines.contracts import CORE_TABLES, QUARANTINE_TRANSACTIONS
from pipelines.errors import (
    ChecksFailed,
    DateOutsideData,
    EmptyDay,
    MissingColumn,
    MissingDrop,
    MissingManifest,
    UnreadableFile,
    WrongManifest,
    WrongType,
)
from pipelines.ingest import ingest
from pipelines.landing import land
from pipelines.settings import DEMO_KEY, Settings

DAY = date(2017, 5, 6)


@pytest.fixture(params=["folders", "s3"])
def storage(request):
    return request.getfixturevalue(request.param)


def utc(*parts):
    """A naive time, as the upstream system has it."""
    return datetime(*parts, tzinfo=UTC).replace(tzinfo=None)


NOON = utc(2017, 5, 6, 16)  # in New York
MILK, FUEL, UNNAMED, UNKNOWN = 10, 20, 30, 99


def a_product(product_id, category, type_="X", **changed):
    row = {
        "product_id": product_id,
        "product_category": category,
        "product_type": type_,
        "department": "GROCERY",
    }
    return {**row, **changed}


PRODUCTS = [
    a_product(MILK, "MILK"),
    a_product(FUEL, "COUPON/MISC ITEMS", "GASOLINE-REG UNLEADED"),
    a_product(UNNAMED, None),
]


def a_line(basket_id, product_id=MILK, **changed):
    line = {
        "household_id": basket_id % 7 + 1,
        "store_id": 300,
        "basket_id": basket_id,
        "product_id": product_id,
        "quantity": 1,
        "sales_value": 2.29,
        "retail_disc": 0.3,
        "coupon_disc": 0.0,
        "coupon_match_disc": 0.0,
        "transaction_timestamp": NOON,
    }
    return {**line, **changed}


@pytest.fixture
def deliver_day(deliver):
    def deliver_day(lines, day=DAY, products=None):
        if products:
            deliver("products", day, products)
        deliver("redemptions", day, [])
        return deliver("transactions", day, lines)

    return deliver_day


def pseudonym_of(household):
    """HMAC-SHA256 with the demo's key: the first 63 bits."""
    digest = hmac.new(DEMO_KEY.encode(), str(household).encode(), "sha256").hexdigest()
    return int(digest[:16], 16) // 2


def state_of(settings):
    """Everything that an ingest could change."""
    names = [*CORE_TABLES, QUARANTINE_TRANSACTIONS.name]
    warehouse.create_tables(settings, [])
    with warehouse.open_warehouse(settings) as connection:
        rows = {
            name: connection.scalar(sa.select(sa.func.count()).select_from(table))
            for name, table in tables.METADATA.tables.items()
            if name not in ("ops__check_log", "ops__run_costs")  # say why a day was refused, and what that cost
        }
    files = {name: tuple(lake.files_of(settings.lake, name)) for name in names}
    return rows, {name: lake.version_of(settings.lake, name) for name in names}, files


def log_of(settings, table):
    columns = ("business_date", "rows_in", "rows_kept", "rows_quarantined", "rows_duplicate")
    log = tables.INGEST_LOG.c
    query = sa.select(*(log[name] for name in columns)).where(log.table_name == table).order_by(log.ingest_id)
    with warehouse.open_warehouse(settings) as connection:
        return [tuple(row) for row in connection.execute(query)]


def test_a_line_is_kept_with_exact_amounts_and_its_instant(settings, deliver_day, read_table):
    deliver_day([a_line(1, sales_value=0.1 + 0.2, retail_disc=1234567.89)], products=PRODUCTS)

    report = ingest(settings, DAY, DAY, "r1")

    assert read_table(settings, "core__transactions").to_pylist() == [
        {
            "business_date": DAY,
            "household_id": pseudonym_of(2),
            "store_id": 300,
            "basket_id": 1,
            "product_id": MILK,
            "item_qty": 1,
            "sales_usd": Decimal("0.30"),
            "retail_discount_usd": Decimal("1234567.89"),
            "coupon_discount_usd": Decimal("0.00"),
            "coupon_match_discount_usd": Decimal("0.00"),
            "transacted_at": NOON.replace(tzinfo=UTC),
        }
    ]
    assert (report.days, report.rows_in, report.rows_kept, report.rows_quarantined) == (1, 1, 1, 0)


FAULTS = {
    "household_id_not_null": a_line(1001, household_id=None),
    "product_id_not_null": a_line(1002, None),
    "transaction_timestamp_not_null": a_line(1003, transaction_timestamp=None),
    "sales_value_not_null": a_line(1004, sales_value=float("nan")),
    "sales_value_not_negative": a_line(1005, sales_value=-0.01),
    "retail_disc_not_negative": a_line(1006, retail_disc=float("inf")),
    "quantity_not_negative": a_line(1007, quantity=-1),
    "quantity_not_above_limit": a_line(1008, quantity=101),
    "local_date_is_business_date": a_line(1009, transaction_timestamp=utc(2017, 5, 7, 4)),
}


def test_exactly_the_bad_lines_are_quarantined_with_their_rule(settings, deliver_day, read_table):
    good = [a_line(number) for number in range(300)]
    good += [
        a_line(400, FUEL, quantity=89_638),
        a_line(401, quantity=100),
        a_line(402, sales_value=0.0, quantity=0),
        a_line(403, transaction_timestamp=utc(2017, 5, 6, 4)),  # midnight in New York
        a_line(404, transaction_timestamp=utc(2017, 5, 7, 3, 59, 59)),
        a_line(405, UNKNOWN),
        a_line(406, UNNAMED),
    ]
    twice = [a_line(1100), a_line(1100, sales_value=3.0)]
    torn = [a_line(1200, household_id=1), a_line(1200, FUEL, household_id=2)]
    bad = [*FAULTS.values(), *twice, *torn]
    deliver_day([*good[:100], *bad, *good[100:]], products=PRODUCTS)

    report = ingest(settings, DAY, DAY, "r1")

    quarantined = read_table(settings, "quarantine__transactions").to_pylist()
    rules = [*FAULTS, "line_unique", "line_unique", "basket_consistent", "basket_consistent"]
    assert [(row["source_line"], row["rule_id"]) for row in quarantined] == list(enumerate(rules, start=100))
    assert {row["source_file"] for row in quarantined} == {"transactions/date=2017-05-06/part-0.parquet"}
    kept = read_table(settings, "core__transactions").column("basket_id").to_pylist()
    assert sorted(kept) == sorted(line["basket_id"] for line in good)
    assert (report.rows_in, report.rows_kept, report.rows_quarantined) == (320, 307, 13)
    assert log_of(settings, "core__transactions") == [(DAY, 320, 307, 13, 0)]


def test_a_quarantined_line_is_stored_as_delivered_and_with_every_reason(settings, deliver_day, read_table):
    deliver_day([a_line(1), a_line(2, quantity=-5, sales_value=float("inf"), retail_disc=None)], products=PRODUCTS)

    ingest(settings, DAY, DAY, "r1")

    (row,) = read_table(settings, "quarantine__transactions").to_pylist()
    stored = json.loads(row["row_json"], parse_constant=pytest.fail)
    assert stored == {
        "household_id": pseudonym_of(3),
        "store_id": 300,
        "basket_id": 2,
        "product_id": MILK,
        "quantity": -5,
        "sales_value": "inf",
        "retail_disc": None,
        "coupon_disc": 0.0,
        "coupon_match_disc": 0.0,
        "transaction_timestamp": "2017-05-06 16:00:00",
    }
    assert row["rule_id"] == "retail_disc_not_null"
    assert all(word in row["reason"] for word in ("retail_disc", "sales_value", "quantity"))


def test_whether_a_product_is_fuel_is_asked_of_the_snapshot_known_that_day(settings, deliver_day, read_table):
    later = DAY + timedelta(days=1)
    deliver_day([a_line(1), a_line(2, FUEL, quantity=5000)], products=PRODUCTS)
    no_fuel = [a_product(MILK, "MILK"), a_product(FUEL, "CORN")]
    next_day = {"transaction_timestamp": NOON + timedelta(days=1)}
    deliver_day([a_line(1, **next_day), a_line(3, FUEL, quantity=5000, **next_day)], later, no_fuel)

    ingest(settings, DAY, later, "r1")

    assert read_table(settings, "quarantine__transactions").column("business_date").to_pylist() == [later]


def a_day_of(lines, *odd):
    return [*(a_line(number) for number in range(lines - len(odd))), *odd]


@pytest.mark.parametrize(
    ("rule", "lines"),
    [
        ("quarantined_share", a_day_of(200, *(a_line(1000 + n, quantity=-1) for n in range(11)))),
        ("kept_lines", [a_line(1, quantity=-1)]),
        ("orphan_share", a_day_of(500, *(a_line(1000 + n, UNKNOWN) for n in range(11)))),
        ("uncategorised_share", a_day_of(500, *(a_line(1000 + n, UNNAMED) for n in range(8)))),
        ("zero_sales_share", a_day_of(500, *(a_line(1000 + n, sales_value=0.0) for n in range(26)))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_implausible_day_is_refused_whole(settings, deliver_day, rule, lines):
    deliver_day([a_line(1)], products=PRODUCTS)
    ingest(settings, DAY, DAY, "r1")
    before = state_of(settings)
    deliver_day(lines)

    with pytest.raises(ChecksFailed) as caught:
        ingest(settings, DAY, DAY, "r2")

    assert str(caught.value.expected).startswith(f"{rule}: ")
    assert str(DAY) in str(caught.value.found)
    if rule == "quarantined_share":
        assert "quantity_not_negative 11, such as transactions/date=2017-05-06/part-0.parquet, row 189" in str(
            caught.value
        )
    assert state_of(settings) == before


def test_a_plausible_day_just_within_the_limits_passes(settings, deliver_day):
    odd = [a_line(1000 + n, UNKNOWN) for n in range(10)] + [a_line(2000 + n, quantity=-1) for n in range(25)]
    deliver_day(a_day_of(500, *odd), products=PRODUCTS)

    assert ingest(settings, DAY, DAY, "r1").rows_kept == 475


def without(folder):
    for path in folder.iterdir():
        path.unlink()


def truncate(file):
    file.write_bytes(file.read_bytes()[:700])


def rewrite(folder, deliver, change):
    deliver(
        "transactions",
        DAY + timedelta(days=1),
        change((folder / "part-0.parquet").read_table()),
    )


BAD_INPUT = {
    "missing drop": (MissingDrop, lambda folder, deliver: without(folder)),
    "missing manifest": (MissingManifest, lambda folder, deliver: (folder / "manifest.json").unlink()),
    "wrong manifest": (WrongManifest, lambda folder, deliver: (folder / "manifest.json").write_text("{}")),
    "unreadable file": (UnreadableFile, lambda folder, deliver: truncate(folder / "part-0.parquet")),
    "missing column": (
        MissingColumn,
        lambda folder, deliver: rewrite(folder, deliver, lambda t: t.drop(["store_id"])),
    ),
    "wrong type": (
        WrongType,
        lambda folder, deliver: rewrite(
            folder, deliver, lambda t: t.set_column(5, "sales_value", pa.array(["2.29"] * t.num_rows))
        ),
    ),
    "empty day": (EmptyDay, lambda folder, deliver: rewrite(folder, deliver, lambda t: t.slice(0, 0))),
}


@pytest.mark.parametrize("fault", BAD_INPUT)
def test_bad_input_on_any_day_of_a_range_changes_nothing(settings, deliver, deliver_day, fault):
    later = DAY + timedelta(days=1)
    deliver_day([a_line(1)], products=PRODUCTS)
    folder = deliver_day([a_line(2, transaction_timestamp=NOON + timedelta(days=1))], later)
    settings = settings.model_copy(update={"ingest_chunk_days": 1})
    ingest(settings, DAY, later, "r1")
    before = state_of(settings)
    deliver_day([a_line(1, quantity=2)])  # good news that must wait
    error, break_ = BAD_INPUT[fault]
    break_(folder, deliver)

    with pytest.raises(error) as caught:
        ingest(settings, DAY, later, "r2")

    assert str(folder) in caught.value.where
    assert str(later) in caught.value.remedy
    assert state_of(settings) == before


def test_a_page_damaged_before_the_hash_was_taken_is_an_unreadable_file(settings, deliver, deliver_day):
    folder = deliver_day([a_line(number) for number in range(5000)], products=PRODUCTS)
    file = folder / "part-0.parquet"
    content = bytearray(file.read_bytes())
    content[40:400] = bytes(360)
    before = state_of(settings)
    deliver("transactions", DAY, file.read_table())
    file.write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][0] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(UnreadableFile):
        ingest(settings, DAY, DAY, "r1")

    assert state_of(settings) == before


def test_transactions_need_a_snapshot_of_products(settings, deliver_day):
    deliver_day([a_line(1)])
    before = state_of(settings)

    with pytest.raises(MissingDrop, match="products"):
        ingest(settings, DAY, DAY, "r1")

    assert state_of(settings) == before


def test_a_reversed_range_is_refused(settings):
    with pytest.raises(DateOutsideData):
        ingest(settings, DAY, DAY - timedelta(days=1), "r1")


def test_copies_in_a_reference_drop_are_dropped_and_counted(settings, deliver, deliver_day, read_table):
    coupon = {"coupon_upc": 5, "product_id": MILK, "campaign_id": 1}
    deliver("coupons", DAY, [coupon, {**coupon, "product_id": FUEL}, coupon, coupon])
    deliver_day([a_line(1)], products=PRODUCTS)

    ingest(settings, DAY, DAY, "r1")

    assert read_table(settings, "core__coupons").to_pylist() == [
        {"business_date": DAY, **coupon},
        {"business_date": DAY, **coupon, "product_id": FUEL},
    ]
    assert log_of(settings, "core__coupons") == [(DAY, 4, 2, 0, 2)]


@pytest.mark.parametrize(
    ("check", "products"),
    [
        ("key_unique", [*PRODUCTS, a_product(MILK, "CREAM")]),
        ("key_given", [*PRODUCTS, a_product(None, "CREAM")]),
    ],
)
def test_a_reference_drop_whose_key_is_no_key_is_refused(settings, deliver_day, check, products):
    deliver_day([a_line(1)], products=products)
    before = state_of(settings)

    with pytest.raises(ChecksFailed, match=check):
        ingest(settings, DAY, DAY, "r1")

    assert state_of(settings) == before


def test_a_closed_day_leaves_no_partition_and_a_log_row(settings, deliver, deliver_day, read_table):
    closed = DAY + timedelta(days=1)
    deliver_day([a_line(1)], products=PRODUCTS)
    for name in ("transactions", "redemptions"):
        deliver(name, closed, [], is_closed=True, files=())

    ingest(settings, DAY, closed, "r1")
    alone = ingest(settings, closed, closed, "r2")

    assert lake.dates_of(settings.lake, "core__transactions") == [DAY]
    assert log_of(settings, "core__transactions") == [
        (DAY, 1, 1, 0, 0),
        (closed, 0, 0, 0, 0),
        (closed, 0, 0, 0, 0),
    ]
    assert (alone.days, alone.rows_in) == (1, 0)


def test_a_corrected_delivery_replaces_lines_and_quarantine_and_adds_to_the_log(settings, deliver_day, read_table):
    deliver_day([a_line(1), a_line(2, quantity=-1)], products=PRODUCTS)
    ingest(settings, DAY, DAY, "r1")
    deliver_day([a_line(1), a_line(2, quantity=3)])
    ingest(settings, DAY, DAY, "r2")

    assert read_table(settings, "core__transactions").column("item_qty").to_pylist() == [1, 3]
    assert read_table(settings, "quarantine__transactions").num_rows == 0
    assert log_of(settings, "core__transactions") == [(DAY, 2, 1, 1, 0), (DAY, 2, 2, 0, 0)]


def hashes_of(settings, read_table):
    return {
        (table, day): lake.content_hash(read_table(settings, table, day))
        for table in CORE_TABLES
        for day in lake.dates_of(settings.lake, table)
    }


def test_every_partition_is_the_same_alone_twice_out_of_order_and_in_a_range(tmp_path, storage, read_table):
    first, last = date(2017, 2, 27), date(2017, 3, 3)  # a Monday, with promotions; a campaign's start
    days = [first + timedelta(days=n) for n in range(5)]
    orders = {
        "in order": days,
        "out of order, some twice": [days[n] for n in (2, 0, 4, 2, 3, 1, 0)],
    }

    shared = {"landing_uri": str(tmp_path / "landing"), "lake_uri": str(tmp_path / "lakes"), **storage}
    land(Settings(home=tmp_path, **shared), first, last)

    def home_of(name, **chosen):
        return Settings(home=tmp_path / name, **shared | {"lake_uri": f"{shared['lake_uri']}/{name}"} | chosen)

    hashes = {}
    for name, order in orders.items():
        home = home_of(name)
        for day in order:
            ingest(home, day, day, name)
        hashes[name] = hashes_of(home, read_table)
    for chunk_days in (2, 31):
        home = home_of(f"chunks of {chunk_days}", ingest_chunk_days=chunk_days)
        ingest(home, first, last, "range")
        hashes[f"chunks of {chunk_days}"] = hashes_of(home, read_table)

    reference = hashes.pop("in order")
    assert {table for table, _ in reference} == set(CORE_TABLES)
    assert [day for table, day in reference if table == "core__transactions"] == days
    for name, found in hashes.items():
        assert found == reference, name


def test_a_partition_is_stored_in_the_order_of_its_key(settings, deliver_day):
    deliver_day([a_line(number) for number in range(9, 0, -1)], products=PRODUCTS)

    ingest(settings, DAY, DAY, "r1")

    (file,) = lake.files_of(settings.lake, "core__transactions", first=DAY, last=DAY)
    assert pq.read_table(file, partitioning=None)["basket_id"].to_pylist() == list(range(1, 10))
