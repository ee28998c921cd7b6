"""Entities, views and the feature service of the toy."""

from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Float32

from toy import HOUSEHOLD, PAIR, USE_CASE


def definitions(lake: Path) -> list[Entity | FeatureView | FeatureService]:
    """One view for each feature table and the service that training reads."""
    household = Entity(name="household", join_keys=["household_id"], value_type=ValueType.INT64)
    store = Entity(name="store", join_keys=["store_id"], value_type=ValueType.STRING)
    views = [
        FeatureView(
            name=table.name,
            entities=entities,
            schema=[Field(name=feature, dtype=Float32) for feature in table.features],
            source=FileSource(
                name=table.name,
                path=f"{lake}/{table.name}/*/*.parquet",
                timestamp_field="event_timestamp",
                created_timestamp_column="created_timestamp",
            ),
            ttl=timedelta(days=1),
            online=True,
        )
        for table, entities in ((PAIR, [household, store]), (HOUSEHOLD, [household]))
    ]
    return [household, store, *views, FeatureService(name=USE_CASE.name, features=views, owner=USE_CASE.owner)]
