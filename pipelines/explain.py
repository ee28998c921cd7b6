"""The full account of a published row: what each feature added to its score, and what the entity bought before."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from rich.table import Table

from pipelines import tables, warehouse
from pipelines.champion import RULE_PREFIX, load_version
from pipelines.engine import open_core
from pipelines.errors import NotPublished, SnapshotRefused
from pipelines.fallback import COLD_START
from pipelines.features import feature_version
from pipelines.reasons import group_sums
from pipelines.scoring import candidate_features
from pipelines.settings import Settings
from pipelines.use_case import UseCase

_WEEKS = 12
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Explanation:
    """A published row, and how its score's log-odds come about: `base`, which has the rest of the list, and what each
    feature adds.

    `features` has value and contribution by name, the largest first; `groups` the sums by group of reasons. For rows
    that no model scored there are none of these. `history` has the worth of each of the past 12 weeks' purchases, US$,
    by the week's last day.
    """

    row: Mapping[str, Any]
    log_odds: float | None
    base: float | None
    features: Mapping[str, tuple[float | None, float]]
    groups: Mapping[str, float]
    history: Mapping[date, float]


def explain(settings: Settings, use_case: UseCase, score_date: date, entity: int, item: str) -> Explanation:
    """The account of a published row, by the very version and features that it names.

    Raises:
        NotPublished: readers see no such row.
        SnapshotRefused: the features have changed since.
        ArtifactRefused, EngineFailure: the version cannot be had.
    """
    row = _published(settings, use_case, score_date, entity, item)
    history = _history(settings, use_case, score_date, entity, item)
    if row["score_source"] == COLD_START or row["model_version"].startswith(RULE_PREFIX):
        return Explanation(row, None, None, {}, {}, history)
    where = f"{use_case.feature_tables[0].name}, as_of={score_date}"
    _require(where, row["feature_version"], feature_version(settings, use_case, score_date))
    features, place = _list_of(settings, use_case, score_date, entity, item)
    model = load_version(settings, use_case, row["model_version"])
    found = model.contributions(model.look_at(features, settings.threads), np.array([place]), settings.threads)
    log_odds = float(np.log(row["score"]) - np.log1p(-row["score"]))
    total = float(found.base[0] + found.features[0].sum())
    if abs(total - log_odds) > _TOLERANCE:
        _require(where, f"log-odds {log_odds}", f"log-odds {total}")
    values = {name: features.column(name)[place].as_py() for name in use_case.features}
    added = dict(zip(use_case.features, map(float, found.features[0]), strict=True))
    order = sorted(added, key=lambda name: -abs(added[name]))
    sums = map(float, group_sums(use_case, found)[0])
    return Explanation(
        row,
        log_odds,
        float(found.base[0]),
        {name: (values[name], added[name]) for name in order},
        dict(zip((one.name for one in use_case.reasons), sums, strict=True)),
        history,
    )


def as_tables(use_case: UseCase, found: Explanation) -> Iterator[Table]:
    """The account for people."""
    row = found.row
    title = f"{use_case.entity} {row[use_case.entity]}, {row[use_case.item]}, as of the end of {row['score_date']}"
    shown = {name: value for name, value in row.items() if name not in (*use_case.keys, "score_date")}
    if found.log_odds is not None:
        shown |= {"log-odds of the score": f"{found.log_odds:.4f}", "of which base": f"{found.base:.4f}"}
    yield _table(title, ("", ""), shown.items())
    if found.groups:
        yield _table("Sums by group", ("group", "adds"), ((name, f"{one:+.4f}") for name, one in found.groups.items()))
        told = (
            (name, "–" if value is None else f"{value:.4g}", f"{one:+.4f}")
            for name, (value, one) in found.features.items()
        )
        yield _table("Every feature, the strongest first", ("feature", "value", "adds"), told)
    weeks = ((day, f"{usd:.2f} $" if usd else "–") for day, usd in found.history.items())
    yield _table("What happened before", ("week until", "worth"), weeks)


def _table(title: str, columns: tuple[str, ...], rows: Any) -> Table:
    table = Table(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _published(settings: Settings, use_case: UseCase, score_date: date, entity: int, item: str) -> Mapping[str, Any]:
    table = tables.scores_table(use_case)
    wanted = {"score_date": score_date, use_case.entity: entity, use_case.item: item}
    query = sa.select(table).where(*(table.c[name] == value for name, value in wanted.items()))
    with warehouse.open_warehouse(settings) as connection:
        found = warehouse.read_rows(connection, query)
    if not found:
        raise NotPublished(
            "readers see no such row",
            where=table.name,
            expected=", ".join(f"{name} {value}" for name, value in wanted.items()),
            found="no row",
            remedy=f"ask for a row as it stands in {table.name}",
        )
    return found[0]


def _list_of(settings: Settings, use_case: UseCase, score_date: date, entity: int, item: str) -> tuple[pa.Table, int]:
    """The entity's candidates with their features, and the place of the item among them."""
    rows = candidate_features(settings, use_case, score_date, f"{use_case.entity} = {entity}")
    return rows, [str(one) for one in rows.column(use_case.item).to_pylist()].index(item)


def _history(settings: Settings, use_case: UseCase, score_date: date, entity: int, item: str) -> dict[date, float]:
    """Worth of the positives by week; weeks without one have 0."""
    query = f"""
        SELECT coalesce(sum(value_usd), 0)::DOUBLE FROM ({use_case.positives_sql})
        WHERE {use_case.entity} = $entity AND {use_case.item}::VARCHAR = $item
    """
    found = {}
    with open_core(settings, up_to=score_date) as connection:
        for back in range(_WEEKS):
            last = score_date - timedelta(days=7 * back)
            given = {"entity": entity, "item": item, "first_date": last - timedelta(days=6), "last_date": last}
            found[last] = float(connection.execute(query, given).fetchall()[0][0])
    return found


def _require(where: str, expected: str, found: str) -> None:
    if expected != found:
        raise SnapshotRefused(
            "the features are not those that were scored",
            where=where,
            expected=expected,
            found=found,
            remedy="score and publish the date again; its rows then rest on today's features",
        )
