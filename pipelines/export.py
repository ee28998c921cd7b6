"""What analysts take out of the warehouse: a table's rows as a file, and proof that nobody has changed them."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pv
import pyarrow.parquet as pq
import sqlalchemy as sa

from pipelines import lake, tables, warehouse
from pipelines.analyst_contract import readable
from pipelines.audit import ERASED, REFUSED
from pipelines.errors import BadInput, FileExists, NotPublished, PublicationAltered
from pipelines.publishing import rows_in
from pipelines.settings import Settings
from pipelines.storage import replacing
from pipelines.use_case import UseCase
from pipelines.use_cases import load_use_cases

# Spreadsheets take a cell for a formula by its first sign; where ";" parts cells for them, also what follows one.
_FORMULA = r"(^|[;\t\r\n])(\s*[=+\-@＝＋－＠])"
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class ExportReport:
    """How many rows of a table are in which file."""

    table: str
    rows: int
    file: str


@dataclass(frozen=True)
class VerifyReport:
    """A date's rows are those that the publish log tells of, and who published them from what."""

    score_date: date
    rows: int
    content_hash: str
    run_id: str
    model_version: str


def export(
    settings: Settings, name: str, target: Path, *, day: date | None = None, force: bool = False, bom: bool = False
) -> ExportReport:
    """Write a table, or its rows of a date, to a CSV or Parquet file, batch by batch; the file appears whole or not.

    In CSV no text is a formula: an apostrophe goes before what a spreadsheet would take for one. `bom` is for Excel.

    Raises:
        BadInput: analysts read no such table, it has no dates, or the file is neither .csv nor .parquet.
        NotPublished: there are no rows of the date.
        FileExists: the file is there, and is not to be replaced by force.
    """
    table = _table(settings, name)
    query = sa.select(table).order_by(*table.primary_key.columns)
    if day is not None:
        query = query.where(_date_column(table) == day)
    if target.exists() and not force:
        raise FileExists("the file exists", where=str(target), remedy="choose another name, or add --force")
    rows, schema = 0, warehouse.arrow_schema(table)
    with warehouse.open_warehouse(settings, only_reads=True) as connection, replacing(target) as unfinished:
        with unfinished.open("wb") as output:
            output.write(_BOM if bom else b"")
            with _writer(target, output, schema) as writer:
                for batch in warehouse.read_batches(connection, query):
                    writer.write_batch(harmless(batch) if target.suffix == ".csv" else batch)
                    rows += batch.num_rows
        if day is not None and not rows:
            raise _nothing(connection, table, day)
    return ExportReport(table.name, rows, str(target))


def harmless(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with an apostrophe before every text that a spreadsheet would take for a formula."""
    columns = [
        pc.replace_substring_regex(pc.replace_substring_regex(column, _FORMULA, r"\1'\2"), r"^([\t\r\n])", r"'\1")
        if pa.types.is_string(column.type)
        else column
        for column in batch.columns
    ]
    return pa.record_batch(columns, schema=batch.schema)


def verify(settings: Settings, use_case: UseCase, score_date: date) -> VerifyReport:
    """Compute the content hash of a published date anew, and compare it with what was logged at its publication.

    Raises:
        NotPublished: nothing is published for the date.
        PublicationAltered: the rows are not those that were published, or not of the run that published them.
    """
    scores, log = tables.scores_table(use_case), tables.PUBLISH_LOG
    mine = (log.c.use_case == use_case.name, log.c.score_date == score_date, log.c.status != REFUSED)
    with warehouse.open_warehouse(settings, only_reads=True) as connection:
        rows = rows_in(connection, use_case, scores, score_date=score_date)
        runs = set(connection.scalars(sa.select(scores.c.run_id).where(scores.c.score_date == score_date).distinct()))
        entries = warehouse.read_rows(connection, sa.select(log).where(*mine).order_by(log.c.publish_id.desc()))
        if not rows.num_rows and not entries:
            raise _nothing(connection, scores, score_date)
    found = lake.content_hash(rows)
    told: dict[str, Any] = entries[0] if entries else {"content_hash": "no publication", "rows": 0}
    run_id = next((entry["run_id"] for entry in entries if entry["status"] != ERASED), "none")
    if (found, runs) != (told["content_hash"], {run_id}):
        raise PublicationAltered(
            "somebody has changed the published rows",
            where=f"{scores.name}, score_date={score_date}",
            expected=f"{told['rows']} rows of run {run_id}: {told['content_hash']}",
            found=f"{rows.num_rows} rows of run {', '.join(sorted(runs))}: {found}",
            remedy="find out who; then put the stored scores back: "
            f"nightjar publish --use-case {use_case.name} --date {score_date} --force --reason …",
        )
    return VerifyReport(score_date, rows.num_rows, found, run_id, told["model_version"])


def _table(settings: Settings, name: str) -> sa.Table:
    known = readable(load_use_cases(settings))
    if name not in known:
        raise BadInput(
            "analysts read no such table", where=name, expected=", ".join(known), remedy="see docs/analysts.md"
        )
    return known[name]


def _date_column(table: sa.Table) -> sa.Column[Any]:
    dated = [column for column in table.columns if isinstance(column.type, sa.Date)]
    if not dated:
        raise BadInput("the table has no dates", where=table.name, remedy="leave out --date")
    return dated[0]


def _nothing(connection: sa.Connection, table: sa.Table, day: date) -> NotPublished:
    dated = _date_column(table)
    first, last = connection.execute(sa.select(sa.func.min(dated), sa.func.max(dated))).one()
    return NotPublished(
        "there are no rows of that date",
        where=f"{table.name}, {day}",
        expected=f"a date from {first} to {last}" if first else "any rows",
        remedy=f"choose another date; what is missing is made by nightjar score --date {day}, or by nightjar monitor",
    )


def _writer(target: Path, output: Any, schema: pa.Schema) -> Any:
    if target.suffix == ".parquet":
        return pq.ParquetWriter(output, schema)
    if target.suffix == ".csv":
        return pv.CSVWriter(output, schema)
    raise BadInput(
        "the form of the file is not known", where=str(target), expected="a name that ends in .csv or .parquet",
        found=target.suffix, remedy="choose such a name",
    )  # fmt: skip
