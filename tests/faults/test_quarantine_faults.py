"""The way back from quarantine: exactly the rows that were meant, once, and the same as a new ingest would give."""

import json
import shutil
from pathlib import Path

import pytest
import sqlalchemy as sa
from deliveries import (
    DAY,
    FUEL,
    MILK,
    PRODUCTS,
    a_line,
    after,
    baskets,
    copy_of,
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
from typer.testing import CliRunner

from expectations import transactions
from pipelines import lake, quarantine, tables, warehouse
from pipelines.cli import app
from pipelines.errors import NothingQuarantined
from pipelines.ingest import ingest

pytestmark = pytest.mark.fault("F11")
LIMIT = "quantity_not_above_limit"


def a_day(settings, *more):
    """Two good lines, two above the limit of 100, one negative; and what is given."""
    lines = [a_line(1), a_line(2, quantity=150), a_line(3), a_line(4, quantity=160), a_line(5, quantity=-1)]
    put_day(settings, DAY, *lines, *more)
    ingest(settings, DAY, DAY, "r")


def counts(settings):
    """Delivered, kept, quarantined, dropped of the only file."""
    (row,) = reconciliation(settings).values()
    return tuple(row[f"rows_{part}"] for part in ("delivered", "kept", "quarantined", "dropped"))


def test_replay_after_a_fix_moves_the_rows_that_pass_and_ends_like_a_new_ingest(settings, tmp_path, monkeypatch):
    a_day(settings)
    put_day(settings, after(1), a_line(9, after(1)))
    ingest(settings, after(1), after(1), "r1")
    assert counts_of_day(settings) == (5, 2, 3, 0)
    anew = copy_of(settings, tmp_path / "anew")
    monkeypatch.setattr(transactions, "MAX_QUANTITY", 200)
    ingest(anew, DAY, DAY, "anew")
    shutil.rmtree(settings.landing.folder)

    report = quarantine.replay(settings, DAY, None, "replay")

    assert (report.rows_judged, report.rows_kept, report.rows_left) == (3, 2, 1)
    assert report.affected == (DAY, after(1))
    assert baskets(settings, DAY) == [1, 2, 3, 4]
    assert quarantined(settings) == [(5, "quantity_not_negative")]
    assert tables_of(settings) == tables_of(anew)
    (file,) = lake.files_of(settings.lake, "core__transactions", first=DAY, last=DAY)
    (other,) = lake.files_of(anew.lake, "core__transactions", first=DAY, last=DAY)
    assert Path(file).read_bytes() == Path(other).read_bytes()


def counts_of_day(settings):
    found = {name: row for (name, _), row in reconciliation(settings).items() if str(DAY) in name}
    (row,) = found.values()
    return tuple(row[f"rows_{part}"] for part in ("delivered", "kept", "quarantined", "dropped"))


def test_replay_of_a_rule_leaves_the_rows_of_others_alone(settings, monkeypatch):
    a_day(settings)
    monkeypatch.setattr(transactions, "MAX_QUANTITY", 200)

    assert quarantine.replay(settings, DAY, "quantity_not_negative", "r").rows_kept == 0
    assert quarantine.replay(settings, DAY, LIMIT, "r").rows_kept == 2

    assert counts(settings) == (5, 4, 1, 0)
    require_sound(settings)


def test_a_replay_without_a_fix_changes_nothing(settings):
    a_day(settings)
    before = tables_of(settings)
    versions = [lake.version_of(settings.lake, f"{name}__transactions") for name in ("core", "quarantine")]

    report = quarantine.replay(settings, DAY, None, "r")

    assert (report.rows_judged, report.rows_kept, report.affected) == (3, 0, ())
    assert tables_of(settings) == before
    assert [lake.version_of(settings.lake, f"{name}__transactions") for name in ("core", "quarantine")] == versions


def test_a_second_replay_finds_nothing_and_a_new_ingest_of_the_day_changes_nothing(settings, monkeypatch):
    a_day(settings)
    monkeypatch.setattr(transactions, "MAX_QUANTITY", 200)
    quarantine.replay(settings, DAY, LIMIT, "r")
    before = tables_of(settings)

    with pytest.raises(NothingQuarantined, match=LIMIT):
        quarantine.replay(settings, DAY, LIMIT, "r")
    put_day(settings, after(1), a_line(9, after(1)))
    report = ingest(settings, after(1), after(1), "next night")

    assert tables_of(settings)["core__transactions"][:-1] == before["core__transactions"]
    assert rows_of(settings, "quarantine__transactions") == before["quarantine__transactions"]
    assert report.affected == (after(1),)
    require_sound(settings)


def test_contradicting_lines_do_not_pass_until_one_of_them_is_dropped(settings, monkeypatch):
    a_day(settings, a_line(7, quantity=1), a_line(7, quantity=-2))

    assert quarantine.replay(settings, DAY, "line_unique", "r").rows_kept == 0
    monkeypatch.setattr(transactions, "MAX_QUANTITY", 200)
    assert quarantine.replay(settings, DAY, None, "r").rows_kept == 2

    assert baskets(settings) == [1, 2, 3, 4]
    require_sound(settings)


def test_a_row_whose_key_core_holds_with_other_values_stays_in_quarantine(settings):
    put_day(settings, DAY, a_line(1, quantity=1))
    put_day(settings, after(1), a_line(2, after(1)), a_line(1, quantity=7))
    ingest(settings, DAY, after(1), "r")

    assert quarantine.replay(settings, DAY, None, "r").rows_kept == 0

    assert [(row["basket_id"], row["item_qty"]) for row in core(settings)] == [(1, 1), (2, 1)]
    assert quarantined(settings) == [(1, "line_unique")]
    require_sound(settings)


def test_late_and_unreadable_rows_do_not_slip_in_by_a_replay(settings):
    redeem_nothing(settings, DAY)
    lines = [a_line(1), a_line(2, after(-9)), a_line(3, household_id="none"), a_line(4, quantity="many")]
    put(settings, DAY, {"part-0.csv": lines})
    ingest(settings, DAY, DAY, "r")

    assert quarantine.replay(settings, DAY, None, "r").rows_kept == 0

    assert baskets(settings) == [1]
    require_sound(settings)


def test_what_is_fuel_is_asked_of_the_products_known_on_that_date(settings, monkeypatch):
    dear = {"quantity": 5000, "sales_value": 150.0}
    put(settings, DAY, {"part-0.parquet": PRODUCTS}, name="products")
    put_day(settings, DAY, a_line(1), a_line(2, product_id=FUEL, **dear), a_line(3, **dear))
    changed = [{"product_id": FUEL, "product_category": "MILK"}, {"product_id": MILK, "product_category": "FUEL"}]
    put(settings, after(1), {"part-0.parquet": changed}, name="products")
    put_day(settings, after(1), a_line(9, after(1)))
    with monkeypatch.context() as strict:
        strict.setattr(transactions, "MAX_AMOUNT_USD", 100)
        ingest(settings, DAY, after(1), "r")
    assert baskets(settings, DAY) == [1]

    quarantine.replay(settings, DAY, None, "r")

    assert baskets(settings, DAY) == [1, 2]
    require_sound(settings)


def test_dropped_rows_are_gone_for_good_and_the_reason_is_kept(settings):
    a_day(settings)

    report = quarantine.drop(settings, DAY, LIMIT, "a till was tested", "drop")

    assert report.rows_dropped == 2
    assert quarantined(settings) == [(5, "quantity_not_negative")]
    assert counts(settings) == (5, 2, 1, 2)
    require_sound(settings)
    with warehouse.open_warehouse(settings) as connection:
        kept = warehouse.read_rows(connection, sa.select(tables.QUARANTINE_DROPS))
    assert [(row["source_line"], row["rule_id"], row["reason"], row["run_id"]) for row in kept] == [
        (1, LIMIT, "a till was tested", "drop"),
        (3, LIMIT, "a till was tested", "drop"),
    ]
    before = tables_of(settings)
    ingest(settings, DAY, DAY, "again")
    assert tables_of(settings) == before
    with pytest.raises(NothingQuarantined):
        quarantine.drop(settings, DAY, LIMIT, "again", "drop")


def test_a_corrected_file_is_judged_anew_whatever_was_dropped_before(settings):
    a_day(settings)
    quarantine.drop(settings, DAY, LIMIT, "test", "drop")
    put_day(settings, DAY, a_line(1), a_line(2, quantity=15), a_line(4, quantity=160))

    ingest(settings, DAY, DAY, "corrected")

    assert (baskets(settings), quarantined(settings)) == ([1, 2], [(4, LIMIT)])
    require_sound(settings)


def test_what_is_left_of_contradicting_lines_after_a_drop_passes_as_a_new_ingest_would_let_it(settings, tmp_path):
    put_day(settings, DAY, a_line(1), a_line(7), a_line(7, store_id=None))
    ingest(settings, DAY, DAY, "r")
    assert sorted(quarantined(settings)) == [(7, "line_unique"), (7, "store_id_not_null")]
    quarantine.drop(settings, DAY, "store_id_not_null", "half a line", "r")
    anew = copy_of(settings, tmp_path / "anew")
    ingest(anew, DAY, DAY, "anew")

    assert quarantine.replay(settings, DAY, None, "r").rows_kept == 1

    assert tables_of(settings) == tables_of(anew)
    require_sound(settings)


def test_the_commands_list_show_replay_and_drop(settings, monkeypatch):
    a_day(settings)
    monkeypatch.setenv("NIGHTJAR_HOME", str(settings.home))
    monkeypatch.setenv("COLUMNS", "200")
    run = CliRunner().invoke

    listed = run(app, ["quarantine", "list", "--from", "2017-05-01"]).output
    shown = run(app, ["quarantine", "show", "--date", "2017-05-10", "--rule", LIMIT]).output
    monkeypatch.setattr(transactions, "MAX_QUANTITY", 155)
    replayed = run(app, ["quarantine", "replay", "--date", "2017-05-10"]).output
    dropped = run(app, ["quarantine", "drop", "--date", "2017-05-10", "--rule", LIMIT, "--reason", "test"]).stdout
    nothing = run(app, ["quarantine", "list", "--rule", LIMIT])

    assert [line.split("│")[3:5] for line in listed.splitlines() if "│" in line] == [
        [f" {LIMIT} ", " 2    "],
        [" quantity_not_negative    ", " 1    "],
    ]
    assert "transactions/date=2017-05-10/part-0.parquet, row 1: " in shown
    assert [json.loads(line)["quantity"] for line in shown.splitlines() if line.startswith("  {")] == [150, 160]
    assert "3 rows judged, 1 now in core, 2 left" in replayed
    assert "nightjar score --date 2017-05-10" in replayed
    assert dropped.splitlines()[-1] == "1 rows dropped"
    assert isinstance(nothing.exception, NothingQuarantined)
    assert quarantined(settings) == [(5, "quantity_not_negative")]


def test_no_row_in_quarantine_names_a_household_by_its_own_id(settings):
    redeem_nothing(settings, DAY)
    odd = [a_line(2, household_id=987654321, quantity=-1), a_line(3, household_id="hh-987654321")]
    put(settings, DAY, {"part-0.csv": [a_line(1), *odd]})
    ingest(settings, DAY, DAY, "r")

    assert len(quarantined(settings)) == 2
    for path in settings.home.rglob("*"):
        if path.is_file() and not path.is_relative_to(settings.landing.folder):
            assert b"987654321" not in path.read_bytes(), path
