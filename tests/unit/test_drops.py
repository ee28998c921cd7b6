import io
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.contracts import REFERENCE_DROPS, TRANSACTIONS_DROP
from pipelines.drop_files import check_files
from pipelines.drops import find_drops, newest_drop
from pipelines.errors import (
    DateOutsideData,
    EmptyDay,
    MissingColumn,
    MissingDrop,
    MissingManifest,
    UnreadableFile,
    WrongManifest,
    WrongType,
)

DAY = date(2017, 5, 6)
PRODUCTS = REFERENCE_DROPS[0]
LINE = {
    "household_id": 1,
    "store_id": 2,
    "basket_id": 3,
    "product_id": 4,
    "quantity": 1,
    "sales_value": 2.29,
    "retail_disc": 0.0,
    "coupon_disc": 0.0,
    "coupon_match_disc": 0.0,
    "transaction_timestamp": datetime(2017, 5, 6, 16, tzinfo=UTC).replace(tzinfo=None),
}


@pytest.fixture(params=["folders", "s3"])
def storage(request):
    return request.getfixturevalue(request.param)


def find_and_check(settings):
    drops = find_drops(settings.landing, TRANSACTIONS_DROP, DAY, DAY)
    for drop in drops:
        check_files(drop)
    return drops


def a_table(**changed):
    columns = {name: pa.array([LINE[name]], type_) for name, type_ in TRANSACTIONS_DROP.columns}
    return pa.table({name: column for name, column in {**columns, **changed}.items() if column is not None})


def test_a_good_drop_is_found_with_its_facts(settings, deliver):
    deliver("transactions", DAY, [LINE, {**LINE, "product_id": 5}])

    (drop,) = find_and_check(settings)

    assert (drop.business_date, drop.rows, len(drop.manifest.files)) == (DAY, 2, 1)
    assert drop.name_of(drop.manifest.files[0]) == "transactions/date=2017-05-06/part-0.parquet"


def test_a_further_column_and_another_order_are_accepted(settings, deliver):
    table = a_table(till=pa.array(["7"]))
    deliver("transactions", DAY, table.select(list(reversed(table.column_names))))

    assert find_and_check(settings)[0].rows == 1


def test_a_daily_drop_that_is_absent_is_missing(settings):
    with pytest.raises(MissingDrop, match="transactions of 2017-05-06"):
        find_and_check(settings)


def test_a_drop_that_is_not_daily_may_be_absent(settings):
    assert find_drops(settings.landing, PRODUCTS, DAY, DAY) == []


def test_a_folder_without_manifest_is_an_unfinished_delivery(settings, deliver):
    (deliver("transactions", DAY, [LINE]) / "manifest.json").unlink()

    with pytest.raises(MissingManifest) as caught:
        find_and_check(settings)

    assert caught.value.found == "part-0.parquet"
    assert "nightjar land --from 2017-05-06 --to 2017-05-06" in caught.value.remedy


@pytest.mark.parametrize(
    "facts",
    [
        {"drop": "redemptions"},
        {"business_date": date(2017, 5, 7)},
        {"schema_version": 2},
        {"is_closed": True},
    ],
    ids=lambda facts: next(iter(facts)),
)
def test_a_manifest_that_contradicts_its_place_or_itself_is_wrong(settings, deliver, facts):
    deliver("transactions", DAY, [LINE], **facts)

    with pytest.raises(WrongManifest):
        find_and_check(settings)


@pytest.mark.parametrize(
    ("fact", "value"),
    [("rows", 2), ("bytes", 10), ("sha256", "0" * 64), ("name", "part-1.parquet")],
)
def test_a_manifest_that_contradicts_its_file_is_wrong(settings, deliver, fact, value):
    folder = deliver("transactions", DAY, [LINE])
    (entry,) = find_drops(settings.landing, TRANSACTIONS_DROP, DAY, DAY)[0].manifest.files
    deliver("transactions", DAY, [LINE], files=[{**entry.model_dump(), fact: value}])

    with pytest.raises(WrongManifest) as caught:
        find_and_check(settings)

    assert str(folder) in caught.value.where
    assert str(value) in str(caught.value.expected)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"drop": "transactions"}'])
def test_a_manifest_that_cannot_be_read_is_wrong(settings, deliver, text):
    (deliver("transactions", DAY, [LINE]) / "manifest.json").write_text(text)

    with pytest.raises(WrongManifest):
        find_and_check(settings)


def test_a_manifest_cannot_name_a_file_outside_its_folder(settings, deliver):
    folder = deliver("transactions", DAY, [LINE])
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("part-0.parquet", "../date=2017-05-05/part-0.parquet"))

    with pytest.raises(WrongManifest):
        find_and_check(settings)


@pytest.mark.parametrize("cut", [0, 1, 500], ids=["empty", "one byte", "truncated"])
def test_a_file_that_is_not_whole_is_unreadable(settings, deliver, cut):
    file = deliver("transactions", DAY, [LINE]) / "part-0.parquet"
    file.write_bytes(file.read_bytes()[:cut])

    with pytest.raises(UnreadableFile) as caught:
        find_and_check(settings)

    assert caught.value.where == str(file)


def test_a_file_changed_after_its_manifest_is_refused(settings, deliver):
    file = deliver("transactions", DAY, [LINE]) / "part-0.parquet"
    sink = io.BytesIO()
    pq.write_table(a_table(quantity=pa.array([2])), sink)
    file.write_bytes(sink.getvalue())

    with pytest.raises(WrongManifest):
        find_and_check(settings)


def test_a_missing_column_is_named(settings, deliver):
    deliver("transactions", DAY, a_table(basket_id=None))

    with pytest.raises(MissingColumn, match="basket_id"):
        find_and_check(settings)


def test_a_column_of_another_type_is_named(settings, deliver):
    deliver("transactions", DAY, a_table(quantity=pa.array(["1"])))

    with pytest.raises(WrongType) as caught:
        find_and_check(settings)

    assert (caught.value.expected, caught.value.found) == ("quantity (int64)", "quantity (string)")


def test_an_empty_day_must_be_marked_closed(settings, deliver):
    deliver("transactions", DAY, [])
    with pytest.raises(EmptyDay):
        find_and_check(settings)

    deliver("transactions", DAY, [], is_closed=True)
    assert find_and_check(settings)[0].rows == 0


def test_a_day_without_redemptions_is_an_ordinary_day(settings, deliver):
    deliver("redemptions", DAY, [])

    redemptions = next(contract for contract in REFERENCE_DROPS if contract.name == "redemptions")
    assert find_drops(settings.landing, redemptions, DAY, DAY)[0].rows == 0


def test_the_newest_drop_is_never_later_than_asked(settings, deliver):
    for day in (1, 5, 9):
        deliver("products", date(2017, 5, day), [{"product_id": day}])

    found = {day: newest_drop(settings.landing, PRODUCTS, date(2017, 5, day)).business_date.day for day in (1, 8, 9)}
    assert found == {1: 1, 8: 5, 9: 9}
    with pytest.raises(MissingDrop):
        newest_drop(settings.landing, PRODUCTS, date(2017, 4, 30))


def test_a_reversed_range_is_refused(settings):
    with pytest.raises(DateOutsideData):
        find_drops(settings.landing, TRANSACTIONS_DROP, DAY, date(2017, 5, 5))
