"""Feast: the registry of feature definitions, point-in-time joins, and the online store."""

import fcntl
import importlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipelines import online_store
from pipelines.crash_points import crash_point
from pipelines.errors import EngineFailure, InvalidUseCase, MissingPartition
from pipelines.features import end_of_day, feature_version
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.storage import replacing
from pipelines.use_case import UseCase

if TYPE_CHECKING:
    from feast import FeatureStore, RepoConfig


@dataclass(frozen=True)
class MaterialiseReport:
    """Entities whose features went into the online store."""

    as_of: date
    rows: int


def open_store(settings: Settings, use_case: UseCase) -> "FeatureStore":
    """Feast with the use case's definitions applied; what other use cases and versions applied stays."""
    config = _config(settings)
    from feast import FeatureService, FeatureStore

    wanted = importlib.import_module(use_case.feature_module).definitions(settings.lake.folder)
    names = {thing.name for thing in wanted if isinstance(thing, FeatureService)}
    if use_case.name not in names:
        raise InvalidUseCase(
            "the Feast definitions lack the use case's feature service",
            where=f"module {use_case.feature_module}",
            expected=f"a FeatureService named {use_case.name}",
            found=sorted(names),
            remedy="define it with the views that the model reads",
        )
    with _alone(Path(config.registry.path)):
        store = FeatureStore(config=config)
        store.apply(wanted)
    return store


def open_online(settings: Settings) -> "FeatureStore":
    """Feast as the nights have left it, for look-ups: nothing is applied, and nobody waits long for the store."""
    config = _config(settings, online_store.READ_PATIENCE_S)
    from feast import FeatureStore

    return FeatureStore(config=config)


def read_online(
    store: "FeatureStore", feature: str, keys: Sequence[Mapping[str, object]], since: datetime
) -> list[float | None]:
    """A feature (view:name) of each key in the online store; null where it has none that is of `since` or later.

    Raises:
        EngineFailure: the store does not answer, or does not know the feature.
    """
    try:
        found = store.get_online_features(features=[feature], entity_rows=[dict(key) for key in keys])
        columns = found.to_dict(include_event_timestamps=True)
    except Exception as error:  # Feast and each of its stores have their own
        raise EngineFailure(
            "the online store does not give a feature",
            where=feature,
            found=f"{type(error).__name__}: {error}",
            remedy="see whether materialise_features of the last night ended well and the store answers",
        ) from error
    name = feature.partition(":")[2]
    values = zip(columns[name], columns[f"{name}__ts"], strict=True)
    return [value if at >= since.timestamp() else None for value, at in values]


def join_features(settings: Settings, use_case: UseCase, store: "FeatureStore", entities: pa.Table) -> pa.Table:
    """Each row of `entities` (keys, event_timestamp) with every feature as it was known at that instant.

    Raises:
        MissingPartition: a row found no features: its snapshot is missing.
    """
    with _alone(store):
        job = store.get_historical_features(
            entity_df=entities.to_pandas(),
            features=store.get_feature_service(use_case.name),
            filter_by_created_timestamp=True,
        )
    joined = job.to_arrow()
    _require_joined(use_case, joined, entities.num_rows)
    return joined.select([*entities.column_names, *use_case.features])


def freeze_service(store: "FeatureStore", use_case: UseCase, model_version: str) -> str:
    """Name of a new feature service that keeps the views a model version was trained on."""
    from feast import FeatureService

    name = f"{use_case.name}__v{model_version}"
    with _alone(store):
        store.refresh_registry()  # another process may have changed it since
        current = store.get_feature_service(use_case.name)
        views = [store.get_feature_view(projection.name) for projection in current.feature_view_projections]
        store.apply([FeatureService(name=name, features=views, owner=use_case.owner)])
    return name


def materialise(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> MaterialiseReport:
    """Bring the snapshot of `as_of` into the online store, for every view that is marked online.

    The interval is that one day, stated explicitly, and never reaches beyond the end of `as_of`. A view that holds a
    later snapshot stays as it is: the online store never goes back in time.

    Raises:
        MissingPartition: there is no snapshot of that date.
    """
    with measured(settings, f"materialise__{use_case.name}", str(as_of), run_id) as cost:
        feature_version(settings, use_case, as_of)
        store = open_store(settings, use_case)
        start, end = end_of_day(settings, as_of - timedelta(days=1)), end_of_day(settings, as_of)
        with _alone(store):
            store.refresh_registry()
            views = {
                view.name: view.batch_source.name
                for view in _online_views(store, use_case)
                if not _later_ends(settings, view.batch_source.name, as_of)
                & {to for _, to in view.materialization_intervals}
            }
            if views:
                with online_store.named_errors(settings):
                    store.materialize(start, end, feature_views=list(views), disable_event_timestamp=False)
                crash_point("feature_store.after_materialise")
        tables = set(views.values())
        cost.rows = sum(_rows_of(settings, table, as_of) for table in tables)
    return MaterialiseReport(as_of, cost.rows)


def _config(settings: Settings, patience_s: float = online_store.WRITE_PATIENCE_S) -> "RepoConfig":
    os.environ.setdefault("FEAST_USAGE", "False")
    from feast import RepoConfig

    return RepoConfig(
        project=online_store.PROJECT_NAME,
        provider="local",
        registry=str(settings.feast_home / "registry.db"),
        offline_store={"type": "duckdb"},
        online_store=online_store.config(settings, patience_s),
        entity_key_serialization_version=3,
        repo_path=settings.feast_home,
    )


@contextmanager
def _alone(registry: "FeatureStore | Path") -> Iterator[None]:
    """Nobody else on this machine changes the registry meanwhile.

    Feast overwrites the file in place. One that a killed process has torn is replaced by the last whole one.
    """
    from feast.protos.feast.core.Registry_pb2 import Registry
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    registry = registry if isinstance(registry, Path) else Path(registry.config.registry.path)
    registry.parent.mkdir(parents=True, exist_ok=True)
    kept = registry.with_suffix(".kept")
    with registry.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            is_whole = registry.exists() and Registry.FromString(registry.read_bytes()).ByteSize() > 0
        except DecodeError:
            is_whole = False
        if not is_whole:
            registry.unlink(missing_ok=True)
            if kept.exists():
                shutil.copyfile(kept, registry)
        yield
        crash_point("feature_store.before_kept")
        with replacing(kept) as unfinished:
            shutil.copyfile(registry, unfinished)


def _online_views(store: "FeatureStore", use_case: UseCase) -> list[Any]:
    """The online views whose source is one of the use case's feature tables."""
    tables = {table.name for table in use_case.feature_tables}
    return [view for view in store.list_feature_views() if view.online and view.batch_source.name in tables]


def _later_ends(settings: Settings, table: str, as_of: date) -> set[datetime]:
    """The ends of the later dates that have a snapshot; other ends are no business date's and count for nothing."""
    names = settings.lake.names(f"{table}/as_of=")
    dates = {date.fromisoformat(name.split("/")[1].removeprefix("as_of=")) for name in names}
    return {end_of_day(settings, day) for day in dates if day > as_of}


def _rows_of(settings: Settings, table: str, as_of: date) -> int:
    import pyarrow.parquet as pq

    from pipelines import lake

    return int(pq.read_metadata(lake.require_snapshot(settings.lake, table, as_of)[0]).num_rows)


def _require_joined(use_case: UseCase, joined: pa.Table, expected: int) -> None:
    always_known = next(iter(use_case.feature_tables[0].features))
    found = joined.num_rows - joined.column(always_known).null_count
    if found != expected:
        raise MissingPartition(
            "feature snapshots are missing for a part of the rows",
            where=f"{use_case.feature_tables[0].name}, feature {always_known}",
            expected=f"{expected} rows with features",
            found=f"{found}",
            remedy="nightjar features --date … for every snapshot date of the training set",
        )
