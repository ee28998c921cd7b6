"""What is known of a model's health: rows of the warehouse, each list of them with the SQL that gives it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from pipelines import schema, tables, warehouse
from pipelines.health_queries import Queries
from pipelines.measurements import ALERT, INFO, OK, WARN
from pipelines.settings import Settings
from pipelines.use_case import UseCase

ESTIMATED, _SUBJECT = "estimated_", "@subject@"
_HARMLESS = ("none", "inform")  # actions of findings that ask nobody for anything
_PLAIN = {"postgresql": postgresql.dialect, "sqlite": sqlite.dialect}
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """Rows of one query, and the SQL, with its values in it, that gives them."""

    sql: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class ModelHealth:
    """Everything that the page of one use case shows; `expected` is the date that readers must have.

    Charts hold the newest date of each of the last 26 weeks; lists hold the newest entries.
    """

    use_case: UseCase
    as_of: date
    expected: date
    glance: Panel
    incidents: Panel
    findings: Panel
    quality: Mapping[str, Panel]
    signals: Panel
    kpis: Panel
    kpi_weeks: Mapping[str, Panel]
    served: Panel
    promotions: Panel
    decisions: Panel

    @property
    def now(self) -> Row:
        """The figures at a glance."""
        return self.glance.rows[0]

    @property
    def is_late(self) -> bool:
        """Whether readers lack the date that they must have."""
        published = self.now["published_date"]
        return bool(published is None or published < self.expected)

    @property
    def status(self) -> str:
        """alert: somebody must act; warn: somebody should look; info: nothing was measured yet; else ok."""
        if not (self.now["published_date"] or self.quality or self.signals.rows or self.kpis.rows):
            return INFO
        acts = any(row["action"] not in _HARMLESS for row in self.findings.rows if self._is_new(row))
        counted = ("open_incidents", "quality_alerts", "kpi_alerts")
        if self.is_late or acts or any(self.now[name] for name in counted):
            return ALERT
        return WARN if self.now["new_findings"] else OK

    def _is_new(self, finding: Row) -> bool:
        measured = self.now["signals_date"]  # a night that was refused has findings and no signals
        return bool(measured is None or finding["finding_date"] >= measured)


def read_health(settings: Settings, use_case: UseCase, as_of: date, expected: date | None = None) -> ModelHealth | None:
    """What the warehouse knows at the end of a date, in one transaction; none where it has no tables yet.

    Without `expected` readers must have `as_of`. The log of promotions has no business dates, and is shown as it is.

    Raises:
        OutdatedSchema, WarehouseDown, EngineFailure: the warehouse cannot be read.
    """
    with warehouse.open_warehouse(settings, only_reads=True) as connection:
        if schema.revision(connection) is None:
            return None
        show = _Reader(connection)
        asked = Queries(use_case.name, _known_by(connection, use_case, as_of))
        days: dict[str, set[date]] = {}
        for row in connection.execute(asked.measured()):
            days.setdefault(row.clock, set()).add(row.score_date)
        newest = {clock: max(found) for clock, found in days.items()}
        return ModelHealth(
            use_case=use_case,
            as_of=asked.as_of,
            expected=expected or as_of,
            glance=show.rows(asked.glance(newest)),
            incidents=show.rows(asked.incidents()),
            findings=show.rows(asked.findings()),
            quality=show.by(tables.METRICS.c.metric, asked.quality(days)),
            signals=show.rows(asked.signals(newest)),
            kpis=show.rows(asked.newest_kpis()),
            kpi_weeks=show.by(tables.KPI_WEEKLY.c.kpi, asked.kpi_weeks()),
            served=show.rows(asked.served()),
            promotions=show.rows(asked.promotions()),
            decisions=show.rows(asked.decisions()),
        )


def _known_by(connection: sa.Connection, use_case: UseCase, as_of: date) -> date:
    """The newest date up to `as_of` that was ingested or published; `as_of` where there is none."""
    found = connection.execute(Queries(use_case.name, as_of).newest()).one()
    return max(filter(None, found), default=as_of)


class _Reader:
    """Asks a database, and notes what it was asked."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._plain = _PLAIN[connection.dialect.name](paramstyle="named")

    def rows(self, query: sa.Select[Any]) -> Panel:
        """The query's rows."""
        return Panel(self._told(query), tuple(warehouse.read_rows(self._connection, query)))

    def by(self, column: sa.Column[Any], query: sa.Select[Any]) -> dict[str, Panel]:
        """One panel for each value of a column, with a query of its own, of one round to the database.

        What estimates a figure is on the figure's panel.
        """
        rows = warehouse.read_rows(self._connection, query)
        names = dict.fromkeys(row[column.name] for row in rows)
        subjects: dict[str, list[str]] = {}
        for name in names:
            known = name.removeprefix(ESTIMATED)
            subjects.setdefault(known if known in names else name, []).append(name)
        told = self._told(query.where(column.in_([_SUBJECT])))  # to put each into words takes milliseconds
        return {
            subject: Panel(
                told.replace(f"'{_SUBJECT}'", ", ".join(self._told(sa.literal(name)) for name in about)),
                tuple(row for row in rows if row[column.name] in about),
            )
            for subject, about in subjects.items()
        }

    def _told(self, query: sa.ClauseElement) -> str:
        """The query as somebody can run it: its values are literals, quoted by the database's own rules."""
        return str(query.compile(dialect=self._plain, compile_kwargs={"literal_binds": True}))
