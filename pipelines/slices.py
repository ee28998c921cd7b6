"""Slices: the groups of candidates that a use case names, by conditions over features and by dimensions of entities."""

from datetime import date

import numpy as np
import pyarrow as pa

from pipelines.engine import open_core, open_engine
from pipelines.model import Flags
from pipelines.settings import Settings
from pipelines.use_case import UseCase


def slices_of(settings: Settings, use_case: UseCase, as_of: date, featured: pa.Table) -> dict[str, Flags]:
    """Which candidates of a date belong to each slice, in the order of `featured`: their entity and features."""
    found: dict[str, Flags] = {}
    if use_case.slices:
        conditions = ", ".join(f'coalesce({sql}, false) AS "{name}"' for name, sql in use_case.slices.items())
        with open_engine(settings) as connection:
            connection.register("featured", featured)
            found |= connection.sql(f"SELECT {conditions} FROM featured").fetchnumpy()
    if use_case.segments_sql:
        with open_core(settings, up_to=as_of) as connection:
            segments = connection.sql(use_case.segments_sql, params={"as_of": as_of}).df()
        of_rows = segments.set_index(use_case.entity).reindex(featured.column(use_case.entity).to_numpy())
        found |= {
            f"{dimension} {value}": (of_rows[dimension] == value).to_numpy()
            for dimension in of_rows.columns
            for value in sorted(of_rows[dimension].dropna().unique())
        }
    return {name: np.asarray(flags, np.bool_) for name, flags in found.items()}
