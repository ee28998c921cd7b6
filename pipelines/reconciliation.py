"""The view that balances delivered rows: what became of each row of each delivered file."""

import sqlalchemy as sa
from sqlalchemy import Boolean, Column, Integer, MetaData, String, Table

# One row per delivered file; a date's last attempt counts. Rows of a date that was not yet ingested are nowhere.
RECONCILIATION = """
SELECT table_name, source_file, source_sha256, max(rows_delivered) AS rows_delivered,
    sum(rows_kept) AS rows_kept, sum(rows_quarantined) AS rows_quarantined, sum(rows_duplicate) AS rows_duplicate,
    sum(rows_erased) AS rows_erased, sum(rows_late) AS rows_late, sum(rows_dropped) AS rows_dropped,
    max(rows_delivered) = sum(rows_kept + rows_quarantined + rows_duplicate + rows_erased + rows_late + rows_dropped)
        AS is_balanced
FROM ops__ingest_log NATURAL JOIN (
    SELECT table_name, business_date, max(attempt) AS attempt FROM ops__ingest_log GROUP BY table_name, business_date
) AS newest WHERE source_file IS NOT NULL GROUP BY table_name, source_file, source_sha256"""
RECONCILIATION_VIEW = Table(
    "ops__reconciliation",
    MetaData(),
    Column("table_name", String(64), primary_key=True, comment="Lake table"),
    Column("source_file", String(512), primary_key=True, comment="Delivered file, below landing"),
    Column("source_sha256", String(64), primary_key=True, comment="SHA-256 of that file"),
    Column("rows_delivered", Integer, nullable=False, comment="Rows of the whole file, by its manifest"),
    *(
        Column(f"rows_{name}", sa.BigInteger, nullable=False, comment=f"Of these: {what}")
        for name, what in (
            ("kept", "in the lake table"),
            ("quarantined", "in quarantine"),
            ("duplicate", "exact copies of a row delivered before"),
            ("erased", "of households that were erased"),
            ("late", "delivered after the late window"),
            ("dropped", "dropped from quarantine by somebody"),
        )
    ),
    Column("is_balanced", Boolean, nullable=False, comment="Whether the parts add up to rows_delivered"),
)
