"""What becomes of files and rows that are not as agreed."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pytest
from deliveries import (
    DAY,
    FUEL,
    PRODUCTS,
    SQL,
    a_line,
    after,
    as_csv,
    as_parquet,
    at,
    baskets,
    put,
    put_day,
    redeem_nothing,
    require_sound,
    rows_of,
    tables_of,
)

from pipelines.contracts import DROPS
from pipelines.errors import (
    BadInput,
    ChecksFailed,
    MissingColumn,
    MissingDrop,
    UnreadableFile,
    WrongManifest,
    WrongType,
)
from pipelines.ingest import ingest

NAMES = DROPS["transactions"].schema.names
GOOD = [a_line(number) for number in range(1, 31)]
PARQUET, CSV = as_parquet(GOOD), as_csv(GOOD)
PACKED = gzip.compress(CSV, mtime=0)
TAIL = PARQUET[-8:]


def of(content, at_, new):
    return content[:at_] + new + content[at_ + len(new) :]


DAMAGED = {
    "truncated.parquet": PARQUET[: len(PARQUET) // 2],
    "empty.parquet": b"",
    "header_only.parquet": PARQUET[:4],
    "wrong_footer.parquet": PARQUET[:-8] + b"\xff\xff\xff\x7fPAR1",
    "footer_of_another.parquet": PARQUET[:-4] + b"PARE",
    "text.parquet": CSV,
    "empty.csv": b"",
    "truncated.csv.gz": PACKED[: len(PACKED) // 2],
    "empty.csv.gz": b"",
    "not_packed.csv.gz": CSV,
    "flipped.csv.gz": of(PACKED, len(PACKED) - 8, b"\x00\x00\x00\x00"),  # its checksum
    "bom.csv": b"\xef\xbb\xbf" + CSV,
    "latin_1.csv": CSV.replace(b"\n", b"\xe9\n", 2),
    "torn_quote.csv": CSV.replace(b"2.29", b'"2.29', 1),
}


@pytest.mark.fault("F9")
@pytest.mark.parametrize("file", DAMAGED)
def test_a_damaged_file_is_refused_by_name_and_the_day_stays_as_it_was(settings, file):
    put_day(settings, DAY, a_line(1))
    ingest(settings, DAY, DAY, "before")
    before = tables_of(settings)
    folder = put(settings, DAY, {"good.parquet": GOOD, file: DAMAGED[file]}, rows={"good.parquet": 30, file: 30})

    with pytest.raises(BadInput, match=str(folder / file)) as caught:
        ingest(settings, DAY, DAY, "damaged")

    assert isinstance(caught.value, UnreadableFile | MissingColumn | WrongManifest | ChecksFailed), caught.value
    assert tables_of(settings) == before
    put(settings, DAY, {"good.parquet": GOOD})
    ingest(settings, DAY, DAY, "mended")
    assert baskets(settings) == list(range(1, 31))
    require_sound(settings)


@pytest.mark.fault("F9")
def test_a_wrong_checksum_at_the_end_of_a_long_packed_file_is_found(settings):
    header, line, _ = as_csv([a_line(1)]).split(b"\n")
    packed = gzip.compress(header + b"\n" + 80_000 * (line + b"\n"), mtime=0)
    redeem_nothing(settings, DAY)
    put(settings, DAY, {"a.csv.gz": of(packed, len(packed) - 8, bytes(4))}, rows={"a.csv.gz": 80_000})

    with pytest.raises(UnreadableFile, match=r"a\.csv\.gz"):
        ingest(settings, DAY, DAY, "r")


@pytest.mark.fault("F9")
def test_a_file_with_a_header_alone_is_a_file_without_rows(settings):
    redeem_nothing(settings, DAY)
    put(settings, DAY, {"header.csv": as_csv([]), "none.parquet": as_parquet([]), "good.csv": [a_line(1)]},
        rows={"header.csv": 0, "none.parquet": 0, "good.csv": 1})  # fmt: skip

    ingest(settings, DAY, DAY, "r")

    assert baskets(settings) == [1]
    require_sound(settings)


@pytest.mark.fault("F9")
@pytest.mark.parametrize("packed", [False, True], ids=["csv", "csv.gz"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
def test_text_in_the_declared_encoding_is_read_right(settings, encoding, packed):
    products = io.StringIO()
    writer = csv.DictWriter(products, DROPS["products"].schema.names)
    writer.writeheader()
    writer.writerows([*PRODUCTS, {"product_id": 30, "product_category": 'CRÈME, "BRÛLÉE"'}])
    content = products.getvalue().encode(encoding)
    file = "p.csv.gz" if packed else "p.csv"
    put(settings, DAY, {file: gzip.compress(content, mtime=0) if packed else content}, name="products",
        rows={file: 3}, encoding=encoding)  # fmt: skip
    put_day(settings, DAY, a_line(1), a_line(2, product_id=FUEL, quantity=5000))

    ingest(settings, DAY, DAY, "r")

    found = {row["product_id"]: row["product_category"] for row in rows_of(settings, "core__products")}
    assert found == {10: "MILK", 20: "FUEL", 30: 'CRÈME, "BRÛLÉE"'}
    assert baskets(settings) == [1, 2]
    require_sound(settings)


def a_table(**changed):
    """Thirty good lines as an Arrow table with some columns exchanged, or left out with None."""
    table = pa.Table.from_pylist(GOOD, DROPS["transactions"].schema)
    columns = {name: table.column(name) for name in NAMES} | changed
    return pa.table({name: column for name, column in columns.items() if column is not None})


TEXT = pa.array(["2.29"] * 30)
DRIFTS = {
    "missing": (MissingColumn, "store_id", a_table(store_id=None), [name for name in NAMES if name != "store_id"]),
    "renamed": (MissingColumn, "store_id", a_table(store_id=None, shop_id=pa.array([300] * 30)),
                [name.replace("store_id", "shop_id") for name in NAMES]),
    "of another type": (WrongType, "sales_value", a_table(sales_value=TEXT), None),
}  # fmt: skip


@pytest.mark.fault("F10")
@pytest.mark.parametrize(
    ("drift", "form"),
    [
        (drift, form)
        for drift, (*_, header) in DRIFTS.items()
        for form in ("parquet", "csv")
        if form == "parquet" or header
    ],
)
def test_a_column_that_drifts_is_named_and_nothing_changes(settings, drift, form):
    """A CSV file has no types: its values are judged row by row."""
    error, column, table, header = DRIFTS[drift]
    put_day(settings, DAY, a_line(1))
    ingest(settings, DAY, DAY, "before")
    before = tables_of(settings)
    content = as_parquet(table) if form == "parquet" else as_csv([{}] * 30, columns=header)
    put(settings, DAY, {f"part-0.{form}": content}, rows={f"part-0.{form}": 30})

    with pytest.raises(error, match=column):
        ingest(settings, DAY, DAY, "drifted")

    assert tables_of(settings) == before


@pytest.mark.fault("F10")
@pytest.mark.parametrize("form", ["parquet", "csv"])
@pytest.mark.parametrize("change", ["added", "reordered"])
def test_a_further_column_and_another_order_change_nothing(settings, change, form):
    order = [*NAMES, "till"] if change == "added" else NAMES[::-1]
    lines = [{name: {**line, "till": 7}[name] for name in order} for line in GOOD[:3]]
    content = as_parquet(pa.Table.from_pylist(lines)) if form == "parquet" else as_csv(lines, columns=order)
    table = pa.Table.from_pylist(lines)
    if form == "parquet":
        content = as_parquet(
            table.cast(
                pa.schema([*DROPS["transactions"].columns, ("till", pa.int64())])
                if change == "added"
                else pa.schema(list(DROPS["transactions"].columns)[::-1])
            )
        )
    redeem_nothing(settings, DAY)
    put(settings, DAY, {f"a.{form}": content, "b.parquet": GOOD[3:]}, rows={f"a.{form}": 3, "b.parquet": 27})

    ingest(settings, DAY, DAY, "r")
    odd = tables_of(settings)["core__transactions"]
    put(settings, DAY, {"part-0.parquet": GOOD})
    ingest(settings, DAY, DAY, "as agreed")

    assert tables_of(settings)["core__transactions"] == odd
    assert len(odd) == 30
    require_sound(settings)


POISON = [
    ("household_id_not_null", a_line(1001, household_id=None)),
    ("basket_id_not_null", a_line(1002) | {"basket_id": None}),
    ("product_id_not_null", a_line(1003, product_id=None)),
    ("sales_value_not_negative", a_line(1004, sales_value=-1.0)),
    ("quantity_not_above_limit", a_line(1005, quantity=10**9)),
    ("local_date_is_business_date", a_line(1006, after(400))),
    ("sales_value_not_null", a_line(1007, sales_value=float("nan"))),
    ("retail_disc_not_negative", a_line(1008, retail_disc=float("inf"))),
    ("line_unique", a_line(1009, quantity=2)),
    ("line_unique", a_line(1009, quantity=3)),
    ("transaction_timestamp_not_null", a_line(1010, transaction_timestamp=None)),
    ("quantity_not_negative", a_line(1011, quantity=-(2**60))),
]
TEXT_POISON = [
    *POISON,
    ("values_readable", a_line(2001, quantity="one")),
    ("values_readable", a_line(2002, sales_value="1.2.3")),
    ("values_readable", a_line(2003, quantity="3.7")),
    ("values_readable", a_line(2013, quantity="1\x00")),
    ("values_readable", a_line(2004, sales_value="two\nlines, \"quoted\"")),
    ("values_readable", a_line(2005, store_id="x" * 1_000_000)),
    ("values_readable", a_line(2006, store_id=SQL)),
    ("values_readable", a_line(2007, household_id="=cmd|' /C calc'!A0")),
    ("values_readable", a_line(2008, household_id=SQL)),
    ("values_readable", a_line(2009, quantity=10**30)),
    ("values_readable", a_line(2010, transaction_timestamp="2017-02-30 12:00:00")),
    ("quantity_not_negative", a_line(2011, quantity="-5")),
]  # fmt: skip


@pytest.mark.fault("F11")
@pytest.mark.parametrize(("form", "poison"), [("parquet", POISON), ("csv", TEXT_POISON), ("csv.gz", TEXT_POISON)],
                         ids=["parquet", "csv", "csv.gz"])  # fmt: skip
def test_exactly_the_poisoned_rows_of_ten_thousand_are_quarantined_with_their_rule(settings, form, poison):
    good = [a_line(number) for number in range(10_000, 20_000)]
    bad = [line for _, line in poison]
    redeem_nothing(settings, DAY)
    put(settings, DAY, {f"part-0.{form}": [*good[:5000], *bad, *good[5000:]]},
        rows={f"part-0.{form}": len(good) + len(bad)})  # fmt: skip

    report = ingest(settings, DAY, DAY, "r")

    rows = sorted(rows_of(settings, "quarantine__transactions"), key=lambda row: row["source_line"])
    assert [(row["source_line"], row["rule_id"]) for row in rows] == [
        (number, rule) for number, (rule, _) in enumerate(poison, start=5000)
    ]
    assert baskets(settings) == [line["basket_id"] for line in good]
    assert (report.rows_kept, report.rows_quarantined) == (10_000, len(poison))
    stored = [json.loads(row["row_json"]) for row in rows]
    for (_, line), kept in zip(poison, stored, strict=True):
        assert {name: str(value) for name, value in kept.items() if value is not None and name != "household_id"} == {
            name: str(value) for name, value in line.items() if value is not None and name != "household_id"
        }
    require_sound(settings)


@pytest.mark.fault("F11")
def test_too_many_poisoned_rows_stop_the_day_and_say_which(settings):
    put_day(
        settings, DAY, *(a_line(number) for number in range(100)), *(a_line(500 + n, quantity=-1) for n in range(11))
    )

    with pytest.raises(ChecksFailed, match=r"quantity_not_negative 11, such as .*part-0.parquet, row 100"):
        ingest(settings, DAY, DAY, "r")

    assert rows_of(settings, "core__transactions") == []


@pytest.mark.fault("F13")
def test_a_day_without_rows_is_refused_unless_it_was_closed(settings):
    put_day(settings, DAY, a_line(1))
    put_day(settings, after(1))

    with pytest.raises(BadInput, match="have no rows"):
        ingest(settings, DAY, after(1), "r")

    assert rows_of(settings, "core__transactions") == []
    for name in ("transactions", "redemptions"):
        put(settings, after(1), {}, name=name, is_closed=True)
    ingest(settings, after(1), after(1), "alone")
    ingest(settings, DAY, after(1), "both")
    assert baskets(settings) == [1]
    require_sound(settings)


@pytest.mark.fault("F14")
def test_a_day_that_was_not_delivered_is_named_and_nothing_is_scored_over_the_hole(settings):
    from pipelines.coverage import require_ingested
    from pipelines.errors import DatesNotIngested, MissingPartition
    from pipelines.features import build_features
    from pipelines.use_cases import get_use_case

    put_day(settings, DAY, a_line(1))
    put_day(settings, after(2), a_line(2, after(2)))
    ingest(settings, DAY, DAY, "r")
    ingest(settings, after(2), after(2), "r2")

    with pytest.raises(MissingDrop, match="transactions of 2017-05-11 were not delivered"):
        ingest(settings, after(1), after(1), "r1")
    with pytest.raises(DatesNotIngested, match="2017-05-11"):  # another run may bring it in: tried again
        require_ingested(settings, first=DAY, last=after(2))
    with pytest.raises(DatesNotIngested, match="2017-05-11"):  # another run may bring it in: tried again
        build_features(settings, get_use_case("category_propensity", settings), after(2), "r")
    with pytest.raises(MissingPartition, match="2017-05-13") as caught:
        build_features(settings, get_use_case("category_propensity", settings), after(3), "r")
    assert type(caught.value) is MissingPartition


@pytest.mark.fault("F11")
def test_a_csv_value_of_another_notation_is_read_as_the_number_it_is(settings):
    redeem_nothing(settings, DAY)
    odd = a_line(7, household_id="007", quantity="+1", sales_value="2.290", retail_disc="3e-1", transaction_timestamp=
                 at(DAY).isoformat())  # fmt: skip
    put(settings, DAY, {"part-0.csv": [odd]})
    ingest(settings, DAY, DAY, "text")
    as_text = tables_of(settings)["core__transactions"]
    put(settings, DAY, {"part-0.parquet": [a_line(7, household_id=7)]})

    ingest(settings, DAY, DAY, "numbers")

    assert tables_of(settings)["core__transactions"] == as_text
