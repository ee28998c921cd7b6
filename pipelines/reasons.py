"""Reasons: why an item is on a list, in words, from what the model itself made of the features."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.engine import open_engine
from pipelines.model import Contributions
from pipelines.settings import Settings
from pipelines.use_case import UseCase

REASONS = ("reason_1", "reason_2", "reason_3")


def add_reasons(settings: Settings, use_case: UseCase, rows: pa.Table, found: Contributions) -> pa.Table:
    """Keys and the three reasons of each of the rows, which have every feature as a column."""
    words = _words(settings, use_case, rows)
    sums = group_sums(use_case, found)
    told: list[list[str | None]] = [[], [], []]
    for row, order in enumerate(strongest(sums)):
        chosen = [_told(words[group][row], sums[row, group]) for group in order]
        for place, texts in enumerate(told):
            texts.append(chosen[place] if place < len(chosen) else None)
    table = rows.select(list(use_case.keys))
    for name, texts in zip(REASONS, told, strict=True):
        table = table.append_column(name, pa.array(texts, pa.string()))
    return table


def group_sums(use_case: UseCase, found: Contributions) -> NDArray[np.float64]:
    """What each group of features adds to a row's log-odds: rows × groups, in the order of the use case's reasons."""
    places = {name: place for place, name in enumerate(use_case.features)}
    sums = [found.features[:, [places[name] for name in one.features]].sum(axis=1) for one in use_case.reasons]
    return np.stack(sums, axis=1) if sums else np.zeros((len(found.features), 0))


def strongest(sums: NDArray[np.float64]) -> NDArray[np.int64]:
    """Each row's three strongest groups: those that speak for it, then those against, each the largest first."""
    size = np.abs(sums)
    return np.argsort(np.where(sums > 0, -size - size.max(initial=0) - 1, -size), axis=1, kind="stable")[:, :3]


def _told(words: str | None, contribution: float) -> str | None:
    return words if contribution > 0 or not words else f"although {words}"


def _words(settings: Settings, use_case: UseCase, rows: pa.Table) -> list[list[str | None]]:
    if not use_case.reasons:
        return []
    columns = ", ".join(f"({one.words})::VARCHAR AS words_{place}" for place, one in enumerate(use_case.reasons))
    with open_engine(settings) as connection:
        connection.register("featured", rows)
        told = connection.sql(f"SELECT {columns} FROM featured").to_arrow_table()
    return [column.to_pylist() for column in told.columns]
