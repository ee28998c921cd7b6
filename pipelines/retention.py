"""Retention: removes what is older than its layer keeps, and what killed steps left behind."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from pipelines import lake, warehouse
from pipelines.contracts import DROPS
from pipelines.coverage import require_ingested
from pipelines.crash_points import crash_point
from pipelines.drops import MANIFEST
from pipelines.errors import InvalidSetting
from pipelines.settings import PREFIX, Settings
from pipelines.steps import measured
from pipelines.tables import PUBLISH_FENCES
from pipelines.use_cases import load_use_cases

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_UNFINISHED = re.compile(r"\..+\.\d+|.+#\d+|_commit_.+\.tmp")  # ours; then those of Delta Lake's writer


@dataclass(frozen=True)
class JanitorReport:
    """What was removed of each layer: rows of tables, files of the others."""

    as_of: date
    removed: Mapping[str, int]


def clean(settings: Settings, as_of: date, run_id: str) -> JanitorReport:
    """Remove what each layer need not keep at a business date; 0 days in the settings keep a layer for ever.

    What has a date is judged by it and `as_of` alone. What has none (old versions of tables, leftovers) is judged by
    the age of its file on the storage's clock: history that was brought in today is new there.

    Raises:
        InvalidSetting: a layer would lose what a step still needs.
        MissingPartition: `as_of` was not ingested, so it does not say what is old.
    """
    _require_enough(settings)
    require_ingested(settings, first=as_of, last=as_of)
    layers: dict[str, Callable[[Settings, date], int]] = {
        "landing": _landing,
        "quarantine": partial(_partitions, prefix="quarantine__", column="business_date"),
        "scores": partial(_partitions, prefix="scores__", column="as_of"),
        "snapshots": _snapshots,
        "published": _published,
        "logs": _logs,
        "pages": _pages,
        "versions": _versions,
        "leftovers": _leftovers,
    }
    removed = {}
    for name, remove in layers.items():
        days = getattr(settings, f"keep_{name}_days", None)
        with measured(settings, f"janitor_{name}", str(as_of), run_id) as cost:
            cost.rows = removed[name] = 0 if days == 0 else remove(settings, as_of - timedelta(days=days or 0))
            crash_point("retention.after_layer")
    return JanitorReport(as_of, removed)


def _require_enough(settings: Settings) -> None:
    """Nothing, when no layer loses what ingest, training or monitoring may still read."""
    for use_case in load_use_cases(settings).values():
        late, plan = use_case.late_window_days, use_case.training
        matured = use_case.horizon_days + 7 + late  # the weekly KPIs look back on a week of matured scores
        window = plan.snapshots * plan.snapshot_every_days + use_case.horizon_days + late
        least = {"landing": late, "quarantine": late, "scores": matured, "snapshots": window, "published": matured}
        for layer, days in least.items():
            if 0 < (found := getattr(settings, f"keep_{layer}_days")) < days:
                raise InvalidSetting(
                    f"{use_case.name} needs what would be removed",
                    where=f"environment variable {PREFIX}KEEP_{layer.upper()}_DAYS",
                    expected=f"{days} days or more, or 0: for ever",
                    found=found,
                    remedy="raise it",
                )


def _landing(settings: Settings, first_kept: date) -> int:
    """Drops by their date, manifests first; of a snapshot the newest stays, however old: it is what is known."""
    removed = 0
    for contract in DROPS.values():
        old = [name for name in settings.landing.names(f"{contract.name}/") if _is_before(name, first_kept)]
        if contract.core_table.is_snapshot and old:
            newest = max(_DATE.findall(name)[-1] for name in old)
            old = [name for name in old if newest not in name]
        for name in sorted(old, key=lambda name: not name.endswith(MANIFEST)):
            settings.landing.delete(name)
        removed += len(old)
    return removed


def _partitions(settings: Settings, first_kept: date, prefix: str, column: str) -> int:
    tables = [table for table in lake.tables(settings.lake) if table.startswith(prefix)]
    return sum(lake.drop_before(settings.lake, table, column, first_kept) for table in tables)


def _snapshots(settings: Settings, first_kept: date) -> int:
    old = [name for name in settings.lake.names("features__") if _is_before(name, first_kept)]
    for name in old:
        settings.lake.delete(name)
    return len(old) + _partitions(settings, first_kept, "labels__", "as_of")


def _published(settings: Settings, first_kept: date) -> int:
    removed = 0
    with warehouse.open_warehouse(settings) as connection:
        for table in warehouse.tables_with(connection, sa.Column("score_date", sa.Date)):
            if table.name.startswith("scores__") and connection.dialect.name == "postgresql":
                months = sa.select(sa.func.drop_partitions(table.name, first_kept))
                removed += connection.execute(months).scalar_one()
            if table.name.startswith(("scores__", "outcomes__")):
                removed += connection.execute(sa.delete(table).where(table.c.score_date < first_kept)).rowcount
    return removed


def _logs(settings: Settings, first_kept: date) -> int:
    files = _files(settings.home / "logs", settings.home / "airflow" / "logs")
    return _unlink(file for file in files if datetime.fromtimestamp(file.lstat().st_mtime, UTC).date() < first_kept)


def _pages(settings: Settings, first_kept: date) -> int:
    files = _files(*(settings.home / name for name in ("data_docs", "profiles", "model_health")))
    return _unlink(file for file in files if _is_before(str(file.relative_to(settings.home)), first_kept))


def _versions(settings: Settings, _: date) -> int:
    hours = settings.keep_versions_days * 24
    return sum(lake.vacuum(settings.lake, table, hours) for table in lake.tables(settings.lake))


def _leftovers(settings: Settings, _: date) -> int:
    """Files that were never finished or that no table refers to, and copies of objects that are gone."""
    hours, places = settings.leftover_hours, (settings.lake, settings.landing)
    removed = sum(lake.vacuum(settings.lake, table, hours, only_orphans=True) for table in lake.tables(settings.lake))
    with TemporaryDirectory(dir=settings.home) as probe:
        newest = Path(probe).stat().st_mtime - hours * 3600
    known = {place.cached / name for place in places if place.is_remote for name in place.names()}
    copies = _files(settings.home / "cache")
    found = {file for file in copies if file not in known}
    found |= set(_files(settings.home / "scratch", settings.landing.cached, *settings.home.glob("rebuild-*")))
    places_ = [settings.home / name for name in ("data_docs", "profiles", "model_cards", "model_health", "receipts")]
    places_ += [place.folder for place in places]
    found |= {file for file in _files(*places_) if _UNFINISHED.fullmatch(file.name)}
    return removed + _staged(settings) + _unlink(file for file in found if file.lstat().st_mtime <= newest)


def _staged(settings: Settings) -> int:
    """Scores that wait for the audit of an attempt that has long ended, by the warehouse's clock."""
    removed, fences = 0, PUBLISH_FENCES.c
    with warehouse.open_warehouse(settings) as connection:
        now = connection.execute(sa.select(sa.func.now(type_=fences.recorded_at.type))).scalar_one()
        at_work = sa.select(fences.score_date).where(
            fences.recorded_at > now - timedelta(hours=settings.leftover_hours)
        )
        for table in warehouse.tables_with(connection, sa.Column("score_date", sa.Date)):
            if table.name.startswith("staging__"):
                removed += connection.execute(sa.delete(table).where(table.c.score_date.not_in(at_work))).rowcount
    return removed


def _is_before(name: str, first_kept: date) -> bool:
    """Whether the last date in a file's name is before the first that is kept; what has none stays."""
    dates = _DATE.findall(name)
    return bool(dates) and dates[-1] < str(first_kept)


def _files(*folders: Path) -> Iterator[Path]:
    return (path for folder in folders for path in folder.rglob("*") if path.is_symlink() or path.is_file())


def _unlink(files: Iterable[Path]) -> int:
    gone = list(files)
    for file in gone:
        file.unlink(missing_ok=True)
    return len(gone)
