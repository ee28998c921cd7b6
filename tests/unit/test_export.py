"""Exports: a file that is whole, that holds what the warehouse holds, and in which no text is a formula."""

import csv
import threading
from datetime import date

import duckdb
import pyarrow.parquet as pq
import pytest
from corner_shop import DAY, day, publish, rows_of
from typer.testing import CliRunner

from pipelines import export as exports
from pipelines import tables, warehouse
from pipelines.cli import app
from pipelines.errors import BadInput, EngineFailure, FileExists, NotPublished
from pipelines.export import export
from pipelines.use_cases import load_use_cases

EVIL = {
    "=cmd|'/c calc'!A1": "'=cmd|'/c calc'!A1",
    "+1+cmd|' /C calc'!A0": "'+1+cmd|' /C calc'!A0",
    "-2+3": "'-2+3",
    "@SUM(1+1)*cmd|' /C calc'!A0": "'@SUM(1+1)*cmd|' /C calc'!A0",
    "\t=1+1": "'\t=1+1",
    "\r=1+1": "'\r=1+1",
    "  =1+1": "'  =1+1",
    "＝1+1": "'＝1+1",
    "MILK;=1+1": "MILK;'=1+1",  # a spreadsheet whose cells are parted by ";"
    "MILK\n=1+1": "MILK\n'=1+1",
    'MILK",=1+1': 'MILK",=1+1',  # the quotes hold: it stays one cell
}
HARMLESS = ["MILK", "TEA & CO.", 'SO-CALLED "BREAD"', "A=B", "CRÈME, 5-PACK", "it's"]


@pytest.fixture
def use_case(settings, database):
    found = load_use_cases(settings)["category_propensity"]
    warehouse.create_tables(settings, [found])
    return found


@pytest.fixture
def published(settings, use_case):
    """Two dates: on the first, one household with all these categories; on the second, two with one."""
    publish(settings, 0, {7: [*EVIL, *HARMLESS]}, use_case=use_case)
    publish(settings, 1, {7: ["MILK"], 8: ["BEER"]}, use_case=use_case)
    return use_case.scores_table


def read_csv(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.mark.attack("S19")
def test_no_text_of_an_exported_csv_is_a_formula_to_a_spreadsheet(settings, published, tmp_path):
    target = tmp_path / "scores.csv"
    assert export(settings, published, target, day=day(0)).rows == len(EVIL) + len(HARMLESS)
    header, *rows = read_csv(target)
    place = header.index("product_category")
    assert [row[place] for row in rows] == [*EVIL.values(), *HARMLESS]
    for row in rows:
        assert len(row) == len(header), "each text is one cell, whatever it holds"
        texts = [cell for name, cell in zip(header, row, strict=True) if name != "score"]
        assert not [text for text in texts if text.lstrip().startswith(("=", "+", "@", "-", "＝"))]


@pytest.mark.attack("S19")
def test_numbers_below_zero_are_not_texts_and_stay_as_they_are(settings, use_case, tmp_path):
    row = dict.fromkeys((column.name for column in tables.KPI_DAILY.columns), None)
    row |= {"use_case": "=u", "kpi_date": DAY, "kpi": "loss", "value": -1.5, "status": "ok", "unit": "usd"}
    row |= {"owner": "@shop", "meaning": "-"}
    with warehouse.open_warehouse(settings) as connection:
        warehouse.append_rows(connection, tables.KPI_DAILY, [row])
    export(settings, "kpi__daily", tmp_path / "kpis.csv")
    header, cells = read_csv(tmp_path / "kpis.csv")
    told = {name: cell for name, cell in zip(header, cells, strict=True) if cell}
    assert told == {
        "use_case": "'=u",
        "kpi_date": str(DAY),
        "kpi": "loss",
        "value": "-1.5",
        "status": "ok",
        "unit": "usd",
        "owner": "'@shop",
        "meaning": "'-",
    }


def test_parquet_and_a_reader_that_we_did_not_write_give_back_what_the_warehouse_holds(settings, published, tmp_path):
    report = export(settings, published, tmp_path / "scores.parquet")
    use_case = load_use_cases(settings)["category_propensity"]
    expected = rows_of(settings, tables.scores_table(use_case))
    assert pq.read_table(tmp_path / "scores.parquet").to_pylist() == expected
    assert (report.rows, len(expected)) == (len(EVIL) + len(HARMLESS) + 2,) * 2
    export(settings, published, tmp_path / "scores.csv", day=day(1))
    found = duckdb.sql(f"SELECT * FROM read_csv('{tmp_path}/scores.csv')").fetchall()
    assert [row[:5] for row in found] == [(day(1), 7, 1, "MILK", 0.9), (day(1), 8, 1, "BEER", 0.9)]


def test_any_table_or_view_that_analysts_read_can_be_exported_and_no_other(settings, published, tmp_path):
    assert export(settings, f"{published}_latest", tmp_path / "latest.csv").rows == 2
    assert export(settings, "ops__reconciliation", tmp_path / "balance.csv").rows == 0
    assert read_csv(tmp_path / "balance.csv")[0][0] == "table_name"
    for name in ("ops__tombstones", "sqlite_master", "scores; DROP TABLE x"):
        with pytest.raises(BadInput, match="analysts read no such table"):
            export(settings, name, tmp_path / "no.csv")
    assert not (tmp_path / "no.csv").exists()


def test_a_missing_date_is_named_with_those_that_are_there_and_no_file_is_left(settings, published, tmp_path):
    with pytest.raises(NotPublished) as refused:
        export(settings, published, tmp_path / "scores.csv", day=day(9))
    assert refused.value.expected == f"a date from {day(0)} to {day(1)}"
    assert "nightjar score --date 2017-05-10" in refused.value.remedy
    with pytest.raises(BadInput, match="no dates"):
        export(settings, "ops__reconciliation", tmp_path / "scores.csv", day=day(0))
    with pytest.raises(BadInput, match=r"csv or \.parquet"):
        export(settings, published, tmp_path / "scores.xlsx")
    assert not list(tmp_path.glob("*.*"))


def test_an_existing_file_is_replaced_by_force_only(settings, published, tmp_path):
    target = tmp_path / "scores.csv"
    target.write_text("mine")
    with pytest.raises(FileExists, match="--force"):
        export(settings, published, target)
    assert target.read_text() == "mine"
    with pytest.raises(NotPublished):
        export(settings, published, target, day=date(2020, 1, 1), force=True)
    assert target.read_text() == "mine"
    export(settings, published, target, force=True)
    assert len(read_csv(target)) > 10


def test_excel_gets_the_mark_by_which_it_knows_utf_8(settings, published, tmp_path):
    export(settings, published, tmp_path / "scores.csv", bom=True)
    assert (tmp_path / "scores.csv").read_bytes().startswith(b'\xef\xbb\xbf"score_date"')
    assert "CRÈME" in (tmp_path / "scores.csv").read_text(encoding="utf-8-sig")


def test_an_export_keeps_no_writer_waiting_and_sees_one_state_of_the_table(settings, published, tmp_path, monkeypatch):
    """A night that is published while rows are still being read neither waits nor shows in the file."""
    monkeypatch.setattr(warehouse, "_CHUNK", 1)
    write_batch = exports.harmless
    done = threading.Event()

    def slowly(batch):
        if not done.is_set():
            publish(settings, 1, {9: ["BEER"]}, use_case=load_use_cases(settings)["category_propensity"])
            done.set()
        return write_batch(batch)

    monkeypatch.setattr(exports, "harmless", slowly)
    report = export(settings, published, tmp_path / "scores.csv")
    assert done.is_set()
    assert report.rows == len(EVIL) + len(HARMLESS) + 2
    assert {row[1] for row in read_csv(tmp_path / "scores.csv")[1:]} == {"7", "8"}


def test_the_command_says_what_it_wrote_and_a_warehouse_without_tables_is_an_error(
    settings, published, tmp_path, monkeypatch
):
    monkeypatch.setenv("NIGHTJAR_HOME", str(settings.home))
    shown = CliRunner().invoke(app, ["export", "--date", str(day(1)), "--to", str(tmp_path / "scores.csv")])
    assert (shown.exit_code, shown.output) == (0, f"2 rows of {published} in {tmp_path}/scores.csv\n")
    monkeypatch.setenv("NIGHTJAR_HOME", str(tmp_path / "empty"))
    shown = CliRunner().invoke(app, ["export", "--to", str(tmp_path / "more.csv")])
    assert isinstance(shown.exception, EngineFailure)
    assert not (tmp_path / "more.csv").exists()
