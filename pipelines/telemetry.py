"""Figures of the nights for Prometheus: read from the warehouse, in one short transaction, whenever it asks."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import sqlalchemy as sa
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

from pipelines import tables, warehouse
from pipelines.errors import EngineFailure
from pipelines.logs import open_log
from pipelines.settings import Settings
from pipelines.use_case import UseCase

UP = "nightjar_up"
GAUGES = {
    UP: "1: the warehouse answers; 0: it does not, and nothing else is known",
    "nightjar_step_end_timestamp_seconds": "When the newest run of the step ended",
    "nightjar_step_is_success": "Whether it ended well",
    "nightjar_step_failures": "Runs of the step that failed, ever",
    "nightjar_step_wall_seconds": "Elapsed time of the newest run",
    "nightjar_step_cpu_seconds": "Processor time of the newest run",
    "nightjar_step_peak_memory_bytes": "Highest resident memory during the newest run",
    "nightjar_step_rows": "Rows that the newest run wrote",
    "nightjar_step_euros": "Price of the newest run",
    "nightjar_ingested_timestamp_seconds": "End of the newest business date that was ingested",
    "nightjar_ingested_rows": "Rows of that date by what became of them",
    "nightjar_quarantine_share": "Share of its rows that went to quarantine",
    "nightjar_incidents_open": "Open incidents",
    "nightjar_publications": "Attempts to publish by what became of them, ever: published, forced, refused, erased",
    "nightjar_scores_timestamp_seconds": "End of the newest business date that readers see scores of",
    "nightjar_scores_rows": "Rows that they see of it, by source: champion, or what stood in for it",
    "nightjar_scores_fallback_share": "Share of its lists that were not made by the champion; cold starts are apart",
    "nightjar_scores_quantile": "Quantiles of its scores",
    "nightjar_scores_euros_per_million": "Price of a million scores of it: features, scores, audit and publication",
}
_QUANTILES = (0.05, 0.5, 0.95)
_NIGHT = ("features__", "scores__", "publish__", "materialise__")
Sample = tuple[str, float, dict[str, str]]


def open_registry(settings: Settings, use_cases: Sequence[UseCase]) -> CollectorRegistry:
    """A registry of `prometheus_client` whose every collection reads the warehouse anew."""
    registry, nights = CollectorRegistry(), _Nights(settings, use_cases)
    reader = PrometheusMetricReader(registry=registry, disable_target_info=True, scope_info_enabled=False)
    meter = MeterProvider(metric_readers=[reader]).get_meter("nightjar")
    for name, description in GAUGES.items():  # they are asked in this order, one collection at a time
        meter.create_observable_gauge(name, [nights.observing(name)], description=description)
    return registry


class _Nights:
    """The newest reading; what was computed of a publication is kept until there is another one."""

    def __init__(self, settings: Settings, use_cases: Sequence[UseCase]) -> None:
        self._settings, self._use_cases = settings, use_cases
        self._samples: list[Sample] = []
        self._published: dict[str, tuple[object, list[Sample]]] = {}

    def observing(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            if name == UP:
                self._read()
            return [Observation(value, labels) for found, value, labels in self._samples if found == name]

        return observe

    def _read(self) -> None:
        try:
            with warehouse.open_warehouse(self._settings, only_reads=True) as connection:
                known = [*_steps(connection), *self._ingested(connection), *_incidents(connection)]
                made = [one for one in self._use_cases if sa.inspect(connection).has_table(one.scores_table)]
                known += [each for use_case in made for each in self._scores(connection, use_case)]
            self._samples = [(UP, 1, {}), *known]
        except EngineFailure as error:
            open_log(self._settings).warning(error.what, where=error.where, found=str(error.found))
            self._samples = [(UP, 0, {})]

    def _ingested(self, connection: sa.Connection) -> Iterator[Sample]:
        log = tables.INGEST_LOG.c
        of_lines = log.table_name == "core__transactions"
        newest = sa.select(sa.func.max(log.business_date)).where(of_lines).scalar_subquery()
        last = sa.select(sa.func.max(log.attempt)).where(of_lines, log.business_date == newest).scalar_subquery()
        names = ("rows_in", "rows_kept", "rows_quarantined", "rows_duplicate", "rows_late")
        sums = (sa.func.coalesce(sa.func.sum(log[name]), 0) for name in names)
        chosen = sa.select(sa.func.max(log.business_date), *sums).where(
            of_lines, log.business_date == newest, log.attempt == last
        )
        day, *rows = connection.execute(chosen).one()
        if day:
            yield "nightjar_ingested_timestamp_seconds", self._end_of(day), {}
            for name, number in zip(names[1:], rows[1:], strict=True):
                yield "nightjar_ingested_rows", number, {"became": name.removeprefix("rows_")}
            yield "nightjar_quarantine_share", rows[2] / rows[0] if rows[0] else 0.0, {}

    def _scores(self, connection: sa.Connection, use_case: UseCase) -> Iterator[Sample]:
        log, name = tables.PUBLISH_LOG.c, use_case.name
        publication = connection.scalar(sa.select(sa.func.max(log.publish_id)).where(log.use_case == name))
        tried = sa.select(log.status, sa.func.count()).where(log.use_case == name).group_by(log.status)
        for status, number in connection.execute(tried):
            yield "nightjar_publications", number, {"use_case": name, "status": status}
        day = connection.scalar(sa.select(sa.func.max(tables.scores_table(use_case).c.score_date)))
        if day is None:
            return
        if self._published.get(name, (None,))[0] != (publication, day):
            self._published[name] = (publication, day), list(_published_scores(connection, use_case, day))
        yield "nightjar_scores_timestamp_seconds", self._end_of(day), {"use_case": name}
        for found, value, labels in (*self._published[name][1], *_price(connection, use_case, day)):
            yield found, value, labels | {"use_case": name}

    def _end_of(self, day: date) -> float:
        return datetime.combine(day + timedelta(days=1), time.min, self._settings.zone).timestamp()


def _published_scores(connection: sa.Connection, use_case: UseCase, day: date) -> Iterator[Sample]:
    scores = tables.scores_table(use_case).c
    counted = sa.select(scores.score_source, sa.func.count()).where(scores.score_date == day)
    rows: dict[str, int] = dict(connection.execute(counted.group_by(scores.score_source)).all())
    for source, number in rows.items():
        yield "nightjar_scores_rows", number, {"source": source}
    place, total = sa.func.row_number().over(order_by=scores.score), sum(rows.values())
    known = total - rows.get("cold_start", 0)
    yield "nightjar_scores_fallback_share", (known - rows.get("champion", 0)) / max(known, 1), {}
    ordered = sa.select(scores.score, place.label("place")).where(scores.score_date == day).subquery()
    for share in _QUANTILES:
        nth = sa.select(ordered.c.score).where(ordered.c.place == max(round(share * total), 1))
        yield "nightjar_scores_quantile", connection.scalars(nth).one(), {"share": str(share)}


def _steps(connection: sa.Connection) -> Iterator[Sample]:
    costs = tables.RUN_COSTS
    failed = sa.func.sum(sa.case((costs.c.is_success, 0), else_=1)).label("failures")
    newest = sa.select(sa.func.max(costs.c.cost_id).label("newest"), failed).group_by(costs.c.step).subquery()
    joined = sa.select(costs, newest.c.failures).join(newest, costs.c.cost_id == newest.c.newest)
    for row in warehouse.read_rows(connection, joined):
        kind, _, use_case = row["step"].partition("__")
        label = {"step": kind, "use_case": use_case}
        yield "nightjar_step_end_timestamp_seconds", _as_utc(row["recorded_at"]), label
        yield "nightjar_step_is_success", int(row["is_success"]), label
        yield "nightjar_step_failures", row["failures"], label
        yield "nightjar_step_wall_seconds", row["wall_s"], label
        yield "nightjar_step_cpu_seconds", row["cpu_s"], label
        yield "nightjar_step_peak_memory_bytes", row["peak_memory_mib"] * 2**20, label
        yield "nightjar_step_euros", row["euros"], label
        if row["rows"] is not None:
            yield "nightjar_step_rows", row["rows"], label


def _incidents(connection: sa.Connection) -> Iterator[Sample]:
    table = tables.INCIDENTS.c
    is_open = sa.func.sum(sa.case((table.resolved_date.is_(None), 1), else_=0))
    query = sa.select(table.use_case, table.kind, is_open).group_by(table.use_case, table.kind)
    for use_case, kind, number in connection.execute(query):
        yield "nightjar_incidents_open", number, {"use_case": use_case, "kind": kind}


def _price(connection: sa.Connection, use_case: UseCase, day: date) -> Iterator[Sample]:
    costs = tables.RUN_COSTS.c
    steps = [f"{kind}{use_case.name}" for kind in _NIGHT]
    scored = sa.func.max(sa.case((costs.step == use_case.scores_table, costs.rows)))
    chosen = sa.select(sa.func.sum(costs.euros), scored).where(costs.partition_key == str(day), costs.step.in_(steps))
    price, rows = connection.execute(chosen).one()
    if price and rows:
        yield "nightjar_scores_euros_per_million", price / rows * 1_000_000, {}


def _as_utc(moment: Any) -> float:
    """Seconds since 1970 of what the database wrote down; SQLite gives UTC without saying so."""
    return float((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
