"""Entities, views and the feature service of category propensity."""

from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float32

from pipelines.settings import load_settings
from pipelines.use_case import FeatureTable
from pipelines.use_cases.category_propensity import USE_CASE
from pipelines.use_cases.category_propensity.features import CATEGORY, HOUSEHOLD, PAIR

LAKE = load_settings().lake

household = Entity(name="household", join_keys=["household_id"], value_type=ValueType.INT64)
category = Entity(name="category", join_keys=["product_category"], value_type=ValueType.STRING)


def _view(table: FeatureTable, entities: list[Entity], *, is_online: bool) -> FeatureView:
    return FeatureView(
        name=table.name,
        entities=entities,
        schema=[Field(name=feature, dtype=Float32) for feature in table.features],
        source=FileSource(
            name=table.name,
            path=f"{LAKE}/{table.name}/*/*.parquet",
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
        ttl=timedelta(days=1),  # a snapshot serves its own date only: a missing one gives nulls, not old values
        online=is_online,
    )


household_category_view = _view(PAIR, [household, category], is_online=False)
household_view = _view(HOUSEHOLD, [household], is_online=True)
category_view = _view(CATEGORY, [category], is_online=True)

service = FeatureService(
    name=USE_CASE.name, features=[household_category_view, household_view, category_view], owner=USE_CASE.owner
)
