"""What ingest does with copies, corrections and late lines."""

import pyarrow.parquet as pq
import pytest
from deliveries import (
    DAY,
    PRODUCTS,
    a_line,
    after,
    baskets,
    core,
    put,
    put_day,
    quarantined,
    reconciliation,
    redeem_nothing,
    require_sound,
    rows_of,
    tables_of,
)

from pipelines import lake, transactions
from pipelines.errors import ChecksFailed
from pipelines.ingest import ingest


def days(settings, *numbers, run="r"):
    return [ingest(settings, after(number), after(number), f"{run}{number}") for number in numbers]


def parts_of(settings, file):
    """Kept, quarantined, duplicate and late rows of a file's newest version."""
    found = [row for (name, _), row in reconciliation(settings).items() if name == f"transactions/{file}"]
    return [[row[f"rows_{part}"] for part in ("kept", "quarantined", "duplicate", "late")] for row in found]


@pytest.mark.fault("F6")
def test_a_file_delivered_again_unchanged_changes_nothing(settings):
    put_day(settings, DAY, a_line(1), a_line(2, quantity=-1))
    days(settings, 0)
    before, version = tables_of(settings), lake.version_of(settings.lake, "core__transactions")
    put_day(settings, DAY, a_line(1), a_line(2, quantity=-1))

    days(settings, 0)

    assert tables_of(settings) == before
    assert lake.version_of(settings.lake, "core__transactions") == version
    require_sound(settings)


@pytest.mark.fault("F6")
def test_a_copy_under_another_name_is_skipped_and_counted(settings):
    lines = [a_line(1), a_line(2)]
    redeem_nothing(settings, DAY)
    put(settings, DAY, {"part-0.parquet": lines, "part-1.parquet": lines})

    days(settings, 0)

    assert baskets(settings) == [1, 2]
    assert parts_of(settings, "date=2017-05-10/part-0.parquet") == [[2, 0, 0, 0]]
    assert parts_of(settings, "date=2017-05-10/part-1.parquet") == [[0, 0, 2, 0]]
    require_sound(settings)


@pytest.mark.fault("F6")
def test_a_copy_under_the_next_date_is_skipped_and_counted(settings):
    put_day(settings, DAY, a_line(1), a_line(2))
    redeem_nothing(settings, after(1))
    put(settings, after(1), {"again.parquet": [a_line(1), a_line(2)], "part-0.parquet": [a_line(3, after(1))]})

    reports = days(settings, 0, 1)

    assert baskets(settings) == [1, 2, 3]
    assert parts_of(settings, "date=2017-05-11/again.parquet") == [[0, 0, 2, 0]]
    assert reports[1].affected == (after(1),)
    require_sound(settings)


@pytest.mark.fault("F6")
def test_a_day_that_brings_nothing_but_a_copy_is_no_empty_day(settings):
    put_day(settings, DAY, a_line(1), a_line(2))
    put_day(settings, after(1), a_line(1), a_line(2))
    days(settings, 0)
    before = tables_of(settings)

    with pytest.raises(ChecksFailed, match="kept_lines"):
        days(settings, 1)

    assert tables_of(settings) == before


@pytest.mark.fault("F6")
@pytest.mark.parametrize("order", [(0, 10), (10, 0), (10, 0, 10)], ids=str)
def test_a_copy_that_comes_days_later_is_the_copy_whatever_came_in_first(settings, order):
    put_day(settings, DAY, a_line(1))
    redeem_nothing(settings, after(10))
    put(settings, after(10), {"again.parquet": [a_line(1)], "part-0.parquet": [a_line(3, after(10))]})

    days(settings, *order)

    assert (baskets(settings), quarantined(settings)) == ([1, 3], [])
    assert parts_of(settings, "date=2017-05-20/again.parquet") == [[0, 0, 1, 0]]
    require_sound(settings)


@pytest.mark.fault("F6")
def test_the_same_rows_in_a_file_of_another_form_count_once(settings):
    redeem_nothing(settings, DAY)
    put(settings, DAY, {"a.csv": [a_line(1), a_line(2)], "b.parquet": [a_line(2), a_line(1), a_line(3)]})

    days(settings, 0)

    assert baskets(settings) == [1, 2, 3]
    assert parts_of(settings, "date=2017-05-10/b.parquet") == [[1, 0, 2, 0]]
    require_sound(settings)


@pytest.mark.fault("F7")
def test_a_corrected_file_makes_a_new_version_and_the_old_one_can_be_read(settings):
    for number in range(-5, 6):
        put_day(settings, after(number), a_line(100 + number, after(number)))
    ingest(settings, after(-5), after(5), "history")
    others = {day: core(settings, after(day)) for day in range(-5, 6) if day}
    old = lake.version_of(settings.lake, "core__transactions")
    put_day(settings, DAY, a_line(100, sales_value=9.99), a_line(200))

    report = ingest(settings, DAY, DAY, "correction")

    assert [(row["basket_id"], float(row["sales_usd"])) for row in core(settings, DAY)] == [(100, 9.99), (200, 2.29)]
    assert {day: core(settings, after(day)) for day in others} == others
    assert report.affected == tuple(after(number) for number in range(4))
    assert report.table_version == str(int(old) + 1)
    (file,) = lake.files_of(settings.lake, "core__transactions", first=DAY, last=DAY, version=int(old))
    assert pq.read_table(file, partitioning=None)["basket_id"].to_pylist() == [100]
    require_sound(settings)


@pytest.mark.fault("F7")
def test_a_correction_of_yesterday_arrives_with_the_night_of_today(settings):
    put_day(settings, DAY, a_line(1))
    days(settings, 0)
    put_day(settings, DAY, a_line(1), a_line(2))
    put_day(settings, after(1), a_line(3, after(1)))

    (report,) = days(settings, 1)

    assert baskets(settings) == [1, 2, 3]
    assert report.affected == (DAY, after(1))
    require_sound(settings)


@pytest.mark.fault("F7")
def test_a_correction_that_fails_its_checks_does_not_hold_up_the_nights_after_it(settings):
    put_day(settings, DAY, a_line(1))
    put_day(settings, after(-1), a_line(5, after(-1)))
    ingest(settings, after(-1), DAY, "history")
    put_day(settings, DAY, *(a_line(number, quantity=-1) for number in range(40)))
    put_day(settings, after(1), a_line(3, after(1)), a_line(6, after(-1)))

    (report,) = days(settings, 1)

    assert baskets(settings) == [1, 3, 5, 6]
    assert (report.unsettled, report.affected) == ((DAY,), (after(-1), DAY, after(1)))
    with pytest.raises(ChecksFailed):
        days(settings, 0)


@pytest.mark.fault("F7")
def test_a_neighbour_that_can_no_longer_be_read_loses_no_line(settings):
    put_day(settings, DAY, a_line(1))
    folder = put_day(settings, after(1), a_line(2, after(1)), a_line(3, DAY))
    ingest(settings, DAY, after(1), "history")
    (folder / "part-0.parquet").write_bytes(b"PAR1")
    put_day(settings, after(2), a_line(4, after(2)))

    (report,) = days(settings, 2)

    assert baskets(settings) == [1, 2, 3, 4]
    assert report.unsettled == (DAY, after(1))
    with pytest.raises(Exception, match=str(folder)):
        days(settings, 0)
    assert baskets(settings) == [1, 2, 3, 4]


@pytest.mark.fault("F8")
@pytest.mark.parametrize("late", [1, 3])
def test_lines_that_come_within_the_window_reach_their_date(settings, late):
    for number in range(late):
        put_day(settings, after(number), a_line(number, after(number)))
    ingest(settings, DAY, after(late - 1), "history")
    put_day(settings, after(late), a_line(late, after(late)), a_line(50, DAY))

    (report,) = days(settings, late)

    assert baskets(settings, DAY) == [0, 50]
    assert report.affected == tuple(after(number) for number in range(late + 1))
    require_sound(settings)


@pytest.mark.fault("F8")
@pytest.mark.parametrize("late", [4, 30])
def test_lines_that_come_later_are_kept_in_quarantine_and_change_nothing(settings, late):
    put_day(settings, DAY, a_line(1))
    put_day(settings, after(late), a_line(2, after(late)), a_line(50, DAY))

    reports = days(settings, 0, late)

    assert baskets(settings, DAY) == [1]
    assert quarantined(settings, after(late)) == [(50, "late")]
    assert reports[-1].affected == (after(late),)
    require_sound(settings)


@pytest.mark.fault("F8")
@pytest.mark.parametrize("late", [4, 30])
def test_a_file_for_a_date_before_the_window_is_recorded_and_changes_nothing_until_somebody_asks(settings, late):
    put_day(settings, DAY, a_line(1))
    put_day(settings, after(late), a_line(2, after(late)))
    days(settings, 0)
    put_day(settings, DAY, a_line(1), a_line(3))

    reports = days(settings, late, late)

    assert baskets(settings, DAY) == [1]
    assert sorted(parts_of(settings, "date=2017-05-10/part-0.parquet")) == [[0, 0, 0, 2], [1, 0, 0, 0]]
    assert {report.affected for report in reports} == {(after(late),)}
    require_sound(settings)

    days(settings, 0)

    assert baskets(settings, DAY) == [1, 3]
    assert parts_of(settings, "date=2017-05-10/part-0.parquet") == [[2, 0, 0, 0]]
    require_sound(settings)


@pytest.mark.fault("F8")
def test_late_lines_go_with_the_file_that_brought_them(settings):
    put_day(settings, DAY, a_line(1))
    put_day(settings, after(1), a_line(2, after(1)), a_line(3, DAY))
    days(settings, 0, 1)
    put_day(settings, after(1), a_line(2, after(1)))

    (report,) = days(settings, 1)

    assert baskets(settings) == [1, 2]
    assert report.affected == (DAY, after(1))
    require_sound(settings)


@pytest.mark.fault("F8")
def test_of_contradicting_lines_the_one_delivered_first_counts(settings):
    put_day(settings, DAY, a_line(1, quantity=1))
    put_day(settings, after(1), a_line(2, after(1)), a_line(1, DAY, quantity=7))

    days(settings, 1, 0)

    assert [(row["basket_id"], row["item_qty"]) for row in core(settings)] == [(1, 1), (2, 1)]
    assert quarantined(settings) == [(1, "line_unique")]
    require_sound(settings)


@pytest.mark.fault("F8")
@pytest.mark.parametrize("chunk_days", [1, 31])
@pytest.mark.parametrize("order", [(-1, 0), (0, -1)], ids=str)
def test_a_basket_over_two_dates_is_judged_alike_however_the_dates_are_grouped(settings, chunk_days, order):
    settings = settings.model_copy(update={"ingest_chunk_days": chunk_days})
    put_day(settings, after(-1), a_line(9, after(-1)))
    put_day(settings, DAY, a_line(10), a_line(100), a_line(100, after(-1)))

    days(settings, *order)

    assert (baskets(settings, after(-1)), baskets(settings, DAY)) == ([9, 100], [10, 100])
    require_sound(settings)


@pytest.mark.fault("F8")
def test_products_known_on_a_neighbour_are_known_when_it_is_settled_again(settings):
    put_day(settings, DAY, a_line(1))
    fuel = {"product_id": 21, "product_category": "FUEL"}
    put(settings, after(1), {"part-0.parquet": [*PRODUCTS, fuel]}, name="products")
    put_day(settings, after(1), a_line(2, after(1), product_id=21, quantity=5000))
    days(settings, 0, 1)

    (report,) = days(settings, 0, run="again")

    assert baskets(settings) == [1, 2]
    assert report.affected == (DAY,)
    assert rows_of(settings, "quarantine__transactions") == []


@pytest.mark.fault("F16")
@pytest.mark.parametrize(
    ("before", "reached"),
    [((-1,), ()), ((-1, 2), (2,)), ((), (1,))],
    ids=["its own run", "was there", "nothing before"],
)
def test_what_another_run_ingests_meanwhile_is_left_to_that_run_unless_it_could_do_without_the_date(
    settings, monkeypatch, before, reached
):
    for number in (-1, 0, 1, 2):
        put_day(settings, after(number), a_line(10 + number, after(number)))
    days(settings, *before)
    sort_out = transactions.sort_out

    def meanwhile(*given):
        monkeypatch.setattr(transactions, "sort_out", sort_out)
        days(settings, 1)
        return sort_out(*given)

    monkeypatch.setattr(transactions, "sort_out", meanwhile)

    (report,) = days(settings, 0)

    assert report.affected == (DAY, *map(after, reached))
    assert baskets(settings) == sorted(10 + number for number in {*before, 0, 1})
    require_sound(settings)
