"""How long the page on a model's health waits for its data, in a warehouse of three years, on both databases."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from benchmarks.databases import on_each
from pipelines import tables, warehouse
from pipelines.contracts import CORE_TRANSACTIONS
from pipelines.model_health import read_health
from pipelines.settings import Settings
from pipelines.use_case import UseCase

NIGHTS, FIRST, LIMIT_MS, TIMES = 1100, date(2015, 1, 1), 200, 9
LAST = FIRST + timedelta(days=NIGHTS - 1)
_FEATURES, _SLICES, _FIGURES = 60, 8, ("auc", "log_loss", "ece", "ndcg_at_10", "hit_at_10", "value_captured_at_10")
_KPIS, _LABELS_DAYS, _VERSION_NIGHTS = 15, 10, 90
_Rows = list[dict[str, object]]


@dataclass(frozen=True)
class Wait:
    """Milliseconds for the data of the page: the median of some calls, and the first."""

    database: str
    metrics: int
    median_ms: float
    first_ms: float

    @property
    def is_over(self) -> bool:
        """Whether it takes longer than it may."""
        return self.median_ms > LIMIT_MS

    def __str__(self) -> str:
        told = f"data of the page on model health, {NIGHTS:,} nights, {self.metrics:,} metrics in {self.database}: "
        return told + f"{self.median_ms:.0f} ms, the first time {self.first_ms:.0f} ms (limit {LIMIT_MS} ms)"


def waits(home: Path, use_case: UseCase) -> Iterator[Wait]:
    """One on SQLite, and one on PostgreSQL where its server is installed."""
    for database, settings in on_each(home):
        yield _wait(settings, use_case, database)


def fill(settings: Settings, use_case: UseCase) -> None:
    """Put three years of nights into an empty warehouse."""
    chance = np.random.default_rng(7)
    filled: dict[sa.Table, _Rows] = {table: [] for table in (tables.METRICS, tables.KPI_DAILY, tables.KPI_WEEKLY)}
    for night in range(NIGHTS):
        day = FIRST + timedelta(days=night)
        filled[tables.METRICS] += _metrics(use_case, day, str(1 + night // _VERSION_NIGHTS), chance)
        kpis = [_kpi(use_case, day, number, chance.normal(100, 5)) for number in range(_KPIS)]
        filled[tables.KPI_DAILY] += kpis
        filled[tables.KPI_WEEKLY] += kpis if day.isoweekday() == 7 else []
    with warehouse.open_warehouse(settings) as connection:
        for table, rows in filled.items():
            warehouse.load_rows(connection, table, pa.Table.from_pylist(rows, warehouse.arrow_schema(table)))
        for table, rows in _logs(use_case).items():
            warehouse.append_rows(connection, table, rows)


def _wait(settings: Settings, use_case: UseCase, database: str) -> Wait:
    if not _count(settings, use_case):
        fill(settings, use_case)
    took = list[float]()
    for _ in range(TIMES):
        began = time.perf_counter()
        read_health(settings, use_case, LAST)
        took.append(1000 * (time.perf_counter() - began))
    return Wait(database, _count(settings, use_case), float(np.median(took)), took[0])


def _count(settings: Settings, use_case: UseCase) -> int:
    warehouse.create_tables(settings, [use_case])
    with warehouse.open_warehouse(settings) as connection:
        return connection.scalar(sa.select(sa.func.count()).select_from(tables.METRICS)) or 0


def _metrics(use_case: UseCase, day: date, version: str, chance: np.random.Generator) -> _Rows:
    """Some 150 of a night: figures of the model and of two rules, of slices, and signals of every feature."""
    whole: dict[str, object] = {"use_case": use_case.name, "score_date": day, "model_version": version, "slice": "all"}
    whole |= dict.fromkeys(("low", "high", "reference", "threshold"))
    mature = day + timedelta(days=_LABELS_DAYS)
    label = {"clock": "label", "known_date": mature}
    found: _Rows = []
    for metric in _FIGURES:
        value = chance.normal(0.8, 0.01)
        told = {"value": value, "low": value - 0.02, "high": value + 0.02, "reference": 0.75, "threshold": 0.78}
        status = "ok" if value > 0.78 else "alert"
        found.append(whole | label | told | {"metric": metric, "status": status})
        parts = [f"segment {number}" for number in range(_SLICES)]
        found += [whole | label | {"metric": metric, "slice": part, "value": value, "status": "ok"} for part in parts]
        rules = [{"model_version": f"rule:{rule}", "value": 0.75} for rule in ("frequency", "recency")]
        found += [whole | label | rule | {"metric": metric, "status": "info"} for rule in rules]
    data = {"clock": "data", "known_date": day}
    for number in range(_FEATURES):
        value = abs(chance.normal(0, 0.02))
        feature, status = f"feature_{number}", "alert" if value > 0.06 else "ok"
        drift = {"metric": "drift_ks", "slice": feature, "value": value, "threshold": 0.06, "status": status}
        least = {"metric": "drift_detectable", "slice": f"drift_ks {feature}", "value": 0.05, "status": "info"}
        found += [whole | data | drift, whole | data | least]
    estimate = {"clock": "prediction", "known_date": day, "metric": "estimated_auc", "value": chance.normal(0.8, 0.005)}
    known = [whole | estimate | {"status": "info"}, *found]
    return known if mature <= LAST else [row for row in known if row["clock"] != "label"]


def _kpi(use_case: UseCase, day: date, number: int, value: float) -> dict[str, object]:
    band: dict[str, object] = {
        "low": value - 4,
        "high": value + 4,
        "reference": 95.0,
        "band_low": 88.0,
        "band_high": 112.0,
    }
    words = {"unit": "USD", "owner": "sales", "meaning": "What the lists were worth"}
    status = "ok" if 88 <= value <= 112 else "alert"
    place = {"use_case": use_case.name, "kpi_date": day, "kpi": f"kpi_{number}"}
    return place | band | words | {"value": value, "status": status}


def _logs(use_case: UseCase) -> dict[sa.Table, _Rows]:
    """What was ingested, published, promoted, found and decided, night by night."""
    mine, done = {"use_case": use_case.name, "run_id": "bench"}, {"feature_version": "f", "actor": "nightjar"}
    counts = {column.name: 0 for column in tables.INGEST_LOG.columns if column.name.startswith("rows_")}
    ingest = {"run_id": "bench", "table_name": CORE_TRANSACTIONS.name, "attempt": 1, "status": "replaced"}
    ingest |= counts | {"table_version": "1", "key_id": "k"}
    rows: dict[sa.Table, _Rows] = {
        table: []
        for table in (
            tables.INGEST_LOG,
            tables.PUBLISH_LOG,
            tables.RETRAIN_DECISIONS,
            tables.FINDINGS,
            tables.PROMOTION_LOG,
        )
    }
    for night in range(NIGHTS):
        day, version = FIRST + timedelta(days=night), 1 + night // _VERSION_NIGHTS
        rows[tables.INGEST_LOG].append(ingest | {"business_date": day})
        published = {"score_date": day, "status": "published", "rows": 10, "content_hash": "c", "audit": "{}"}
        rows[tables.PUBLISH_LOG].append(mine | done | published | {"model_version": str(version), "reason": ""})
        decided = {"decision_date": day, "is_requested": False, "action": "none", "model_version": str(version)}
        decided |= {"reason": "nothing has moved", "evidence": "{}", "evidence_hash": "e"}
        rows[tables.RETRAIN_DECISIONS].append(mine | decided)
        if night % 20 == 0:
            rows[tables.FINDINGS].append(_finding(use_case, day))
        if night % _VERSION_NIGHTS == 0:
            rows[tables.PROMOTION_LOG].append(mine | _promotion(day, version))
    return rows


def _finding(use_case: UseCase, day: date) -> dict[str, object]:
    found: dict[str, object] = {
        "metric": "drift_ks",
        "slice": "feature_1",
        "cause": "season",
        "action": "inform",
        "clock": "data",
    }
    told = {"value": 0.08, "reference": 0.02, "threshold": 0.06, "told": "more was bought", "source": "feature_1"}
    return found | told | {"use_case": use_case.name, "finding_date": day, "first_date": day}


def _promotion(day: date, version: int) -> dict[str, object]:
    before = str(version - 1) if version > 1 else None
    moved = {"action": "promote", "from_version": before, "to_version": str(version), "is_promoted": True}
    told = {"actor": "nightjar", "trainer": None, "reason": "all checks passed", "evidence": "{}"}
    chain = {"previous_hash": f"{version - 1}", "entry_hash": f"{version}"}
    return moved | told | chain | {"recorded_at": datetime.combine(day, datetime.min.time(), UTC)}
