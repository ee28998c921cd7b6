"""Entities, views and feature services of category propensity."""

from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float32

from pipelines.use_case import FeatureTable
from pipelines.use_cases.category_propensity import USE_CASE
from pipelines.use_cases.category_propensity.features import CATEGORY, HOUSEHOLD, PAIR

household = Entity(name="household", join_keys=["household_id"], value_type=ValueType.INT64)
category = Entity(name="category", join_keys=["product_category"], value_type=ValueType.STRING)

# What a shop front needs to rank a household's categories by the best simple rule between two nights.
ONLINE_PAIR_FEATURES = ("purchase_days_decayed_180d", "days_since_purchase")


def definitions(lake: Path) -> list[Entity | FeatureView | FeatureService]:
    """Views over the snapshots in the lake, the service that training reads and the one for online look-ups."""
    pair_source = _source(lake, PAIR)
    pairs = _view(PAIR.name, [household, category], pair_source, PAIR.features, is_online=False)
    households = _view(HOUSEHOLD.name, [household], _source(lake, HOUSEHOLD), HOUSEHOLD.features, is_online=True)
    categories = _view(CATEGORY.name, [category], _source(lake, CATEGORY), CATEGORY.features, is_online=True)
    online_pairs = _view(
        "household_category_online", [household, category], pair_source, ONLINE_PAIR_FEATURES, is_online=True
    )
    training = FeatureService(name=USE_CASE.name, features=[pairs, households, categories], owner=USE_CASE.owner)
    online = FeatureService(
        name=f"{USE_CASE.name}__online", features=[online_pairs, households, categories], owner=USE_CASE.owner
    )
    return [household, category, pairs, households, categories, online_pairs, training, online]


def _source(lake: Path, table: FeatureTable) -> FileSource:
    return FileSource(
        name=table.name,
        path=f"{lake}/{table.name}/*/*.parquet",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )


def _view(
    name: str, entities: list[Entity], source: FileSource, features: tuple[str, ...], *, is_online: bool
) -> FeatureView:
    return FeatureView(
        name=name,
        entities=entities,
        schema=[Field(name=feature, dtype=Float32) for feature in features],
        source=source,
        ttl=timedelta(days=1),  # a snapshot serves its own date only: a missing one gives nulls, not old values
        online=is_online,
    )
