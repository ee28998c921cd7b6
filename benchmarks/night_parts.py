"""One part of a night, in this process: a step, what no night can do without, or a way that people use instead.

`python -m benchmarks.night_parts PART DATE RUN_ID` measures it as a step of that name; libraries are imported before.
"""

import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import deltalake
import great_expectations  # noqa: F401  # else the features would pay for its import
import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from feast import FeatureStore, RepoConfig

from pipelines import lake, tables, warehouse
from pipelines.champion import choose_model
from pipelines.engine import NEWEST, open_engine
from pipelines.feature_sql import FeatureSql, keep
from pipelines.feature_store import join_features, open_store
from pipelines.features import build_features, end_of_day, feature_version, ranges_of
from pipelines.labels import mature_on
from pipelines.model import BINARY, within_and_level
from pipelines.monitoring import compute_kpis, measure_drift, measure_quality, record_outcomes
from pipelines.partitions import WHOLE, scratch_folder
from pipelines.publishing import Force, publish
from pipelines.scoring import candidates_query, score, scored_versions
from pipelines.settings import Settings, load_settings
from pipelines.steps import measured
from pipelines.storage import sql_list
from pipelines.training_set import load_snapshot, to_matrix
from pipelines.use_case import UseCase
from pipelines.use_cases import get_use_case

_BATCH_ROWS = 1_000_000
_WINDOWS, _DECAYS, _LONG = (7, 14, 28, 56, 84, 168), (14, 30, 90, 180), 168
Part = Callable[[Settings, UseCase, date, str], object]


def sql(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> None:
    """The feature SQL, its rows looked at by nobody."""
    feature_sql = FeatureSql(use_case, as_of, end_of_day(settings, as_of), NEWEST)
    with measured(settings, "sql", str(as_of), run_id) as cost, scratch_folder(settings) as folder:
        ranges = ranges_of(settings, feature_sql)
        if ranges == [WHOLE]:
            cost.rows = sum(rows.num_rows for rows in feature_sql.whole(settings, WHOLE))
            return
        cost.rows, kept = 0, folder / "kept.duckdb"
        for condition in ranges:
            made, base_tables = feature_sql.of_entities(settings, condition)
            keep(settings, kept, base_tables)
            cost.rows += sum(rows.num_rows for rows in made)
        cost.rows += sum(rows.num_rows for rows in feature_sql.of_kept(settings, kept))


def predict(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> None:
    """`Booster.predict` of the champion's components, a million rows at a time; to read these is not measured."""
    model = _champion(settings, use_case)
    with open_engine(settings) as connection:
        for batch in connection.sql(candidates_query(settings, use_case, as_of)).to_arrow_reader(_BATCH_ROWS):
            matrix = to_matrix(pa.Table.from_batches([batch]), model.features)
            with measured(settings, "predict", str(as_of), run_id) as cost:
                for part in model.components:
                    part.raw(matrix, settings.threads)
                cost.rows = len(matrix)


def publish_anew(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> None:
    """The publication, also where the date is published already."""
    publish(settings, use_case, as_of, run_id, force=Force("bench", "measured again"))


def outcomes(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> None:
    """Labels and outcomes of the night, when they are final."""
    record_outcomes(settings, use_case, mature_on(use_case, as_of), run_id)


def quality(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> None:
    """What the night's scores were worth."""
    measure_quality(settings, use_case, mature_on(use_case, as_of), run_id)


def kpis(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> None:
    """The figures of the day on which the night's labels became final."""
    compute_kpis(settings, use_case, mature_on(use_case, as_of), run_id)


def snapshot(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> None:
    """The date as a training has it: labels, features and rules of all candidates that it looks at."""
    store = open_store(settings, use_case)
    with measured(settings, "snapshot", str(as_of), run_id) as cost:
        cost.rows = load_snapshot(settings, use_case, store, as_of, only_sampled=False).rows.num_rows


def features_by_dask(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> None:
    """The features, held against those that one process made."""
    before = feature_version(settings, use_case, as_of)
    if build_features(settings, use_case, as_of, run_id).feature_version != before:
        sys.exit("the features of the workers are not ours")


def scores_by_dask(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> None:
    """The scores, held against those that one process made."""
    before = _scores(settings, use_case, as_of)
    score(settings, use_case, as_of, run_id)
    if _scores(settings, use_case, as_of) != before:
        sys.exit("the scores of the workers are not ours")


def _scores(settings: Settings, use_case: UseCase, as_of: date) -> object:
    """Sums over the scores of a date that no two sets of rows share by chance."""
    table, files = use_case.scores_table, []
    for day, version in scored_versions(settings, use_case):
        files += lake.files_where(settings.lake, table, lake.scored_by(day, version)) if day == as_of else []
    with open_engine(settings) as connection:
        columns = f"{', '.join(use_case.keys)}, score, rank, reason_1, score_source"
        query = f"SELECT count(*), sum(hash({columns})::HUGEINT) FROM read_parquet({sql_list(files)})"
        return connection.sql(query).fetchall()


def by_pandas(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> None:
    """A third of the features of pairs as data frames make them, held against our own."""
    with measured(settings, "naive_pandas", str(as_of), run_id) as cost:
        found = _pandas_features(settings, use_case, as_of)
        cost.rows = len(found)
    path, _ = lake.require_snapshot(settings.lake, use_case.feature_tables[0].name, as_of)
    ours = pd.read_parquet(path, columns=[*use_case.keys, *found.columns]).set_index(list(use_case.keys))
    if not found.index.equals(ours.index) or not np.allclose(found, ours, rtol=1e-4, atol=1e-4):
        sys.exit("the features of pandas are not ours")


def _pandas_features(settings: Settings, use_case: UseCase, as_of: date) -> pd.DataFrame:
    names = ["business_date", "household_id", "product_id", "item_qty", "sales_usd"]
    sold = deltalake.DeltaTable(settings.lake.uri_of("core__transactions")).to_pyarrow_table(columns=names)
    usd = names.index("sales_usd")
    frame = sold.set_column(usd, "usd", sold.column(usd).cast("float64")).to_pandas(date_as_object=False)
    frame = frame[frame["business_date"] <= pd.Timestamp(as_of)]
    products = deltalake.DeltaTable(settings.lake.uri_of("core__products")).to_pandas()
    products = products[products["business_date"] == products["business_date"].max()]
    lines = frame.merge(products[["product_id", "product_category"]], on="product_id")
    lines = lines[lines["product_category"].notna() & ~lines["product_category"].isin(use_case.excluded_items)]
    lines["age"] = (pd.Timestamp(as_of) - lines["business_date"]).dt.days
    keys = list(use_case.keys)
    days = lines.groupby([*keys, "age"], as_index=False).agg(
        lines=("usd", "size"), qty=("item_qty", "sum"), usd=("usd", "sum")
    )
    pairs = days.groupby(keys)["age"].min().clip(upper=_LONG).rename("days_since_purchase").to_frame()
    for length in _WINDOWS:
        recent = days[days["age"] < length].groupby(keys)
        pairs[f"purchase_days_{length}d"] = recent.size()
        if length in (28, 84):
            pairs[f"spend_usd_sum_{length}d"] = recent["usd"].sum()
            pairs[f"item_qty_sum_{length}d"] = recent["qty"].sum()
    for length in _DECAYS:
        weighed = days.assign(weight=np.exp(-days["age"] / length))
        pairs[f"purchase_days_decayed_{length}d"] = weighed.groupby(keys)["weight"].sum()
    return pairs.fillna(0)


def by_pyfunc(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> None:
    """The lists from one frame of all candidates through `mlflow.pyfunc`, held against our own; without reasons."""
    champion = _champion(settings, use_case)
    with TemporaryDirectory() as folder:
        for part in champion.components:
            mlflow.lightgbm.save_model(part.booster, f"{folder}/{part.name}", pip_requirements=[])
        with measured(settings, "naive_pyfunc", str(as_of), run_id) as cost:
            frame = _frame(settings, use_case, as_of)
            raw = {}
            for part in champion.components:
                told = mlflow.pyfunc.load_model(f"{folder}/{part.name}").predict(frame[list(champion.features)])
                raw[part.name] = np.log(told / (1 - told)) if part.name == BINARY else told
            entities = frame[use_case.entity].to_numpy()
            frame["score"] = champion.calibration.apply(within_and_level(raw, champion.weights, entities))
            first = [True, False, True]
            ordered = frame.sort_values([use_case.entity, "score", use_case.item], ascending=first)
            lists = ordered.groupby(use_case.entity).head(use_case.top_n)
            cost.rows = len(frame)
    _require_same_lists(settings, use_case, as_of, lists)


def join(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> None:
    """The features of all candidates at their instant: Feast's join by DuckDB."""
    store = open_store(settings, use_case)
    entities = _entities(settings, use_case, as_of)
    with measured(settings, "join", str(as_of), run_id) as cost:
        cost.rows = join_features(settings, use_case, store, entities).num_rows


def by_feast_dask(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> None:
    """The same by the store that Feast takes for files unless it is told otherwise, held against ours."""
    ours = open_store(settings, use_case)
    config = RepoConfig(
        project=ours.project,
        provider="local",
        registry=ours.config.registry.path,
        offline_store={"type": "dask"},
        entity_key_serialization_version=3,
        repo_path=settings.feast_home,
    )
    entities = _entities(settings, use_case, as_of)
    with measured(settings, "naive_feast", str(as_of), run_id) as cost:
        found = join_features(settings, use_case, FeatureStore(config=config), entities)
        cost.rows = found.num_rows
    order = [(name, "ascending") for name in use_case.keys]
    expected = join_features(settings, use_case, ours, entities).sort_by(order).drop(["event_timestamp"])
    if not found.sort_by(order).drop(["event_timestamp"]).cast(expected.schema).equals(expected):
        sys.exit("the features of Feast's dask store are not ours")


def _entities(settings: Settings, use_case: UseCase, as_of: date) -> pa.Table:
    """The keys of all candidates with the instant at which their features are wanted."""
    with open_engine(settings) as connection:
        query = f"SELECT {', '.join(use_case.keys)} FROM ({candidates_query(settings, use_case, as_of)})"
        keys = connection.sql(query).to_arrow_table()
    instant = pa.scalar(end_of_day(settings, as_of), pa.timestamp("us", tz="UTC"))
    return keys.append_column("event_timestamp", pa.repeat(instant, keys.num_rows))


def _frame(settings: Settings, use_case: UseCase, as_of: date) -> pd.DataFrame:
    frames = [
        pd.read_parquet(lake.require_snapshot(settings.lake, table.name, as_of)[0]).drop(
            columns=["event_timestamp", "created_timestamp"]
        )
        for table in use_case.feature_tables
    ]
    found = frames[0][~frames[0][use_case.item].isin(use_case.excluded_items)]
    for table, more in zip(use_case.feature_tables[1:], frames[1:], strict=True):
        found = found.merge(more, how="left", on=list(table.keys))
    return found


def _require_same_lists(settings: Settings, use_case: UseCase, as_of: date, lists: pd.DataFrame) -> None:
    table, keys = tables.scores_table(use_case), list(use_case.keys)
    query = sa.select(table.c[use_case.entity], table.c[use_case.item], table.c.score).where(
        table.c.score_date == as_of, table.c.score_source != "cold_start"
    )
    with warehouse.open_warehouse(settings) as connection:
        ours = pd.DataFrame(connection.execute(query).all(), columns=[*keys, "score"])
    both = lists.merge(ours, on=keys)
    if not len(both) == len(lists) == len(ours) or np.abs(both["score_x"] - both["score_y"]).max() > 1e-9:
        sys.exit("the lists of pyfunc are not ours")


def by_to_sql(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> None:
    """The published rows into an empty SQLite by pandas, without staging, audit or swap."""
    table = tables.scores_table(use_case)
    with warehouse.open_warehouse(settings) as connection:
        found = connection.execute(sa.select(table).where(table.c.score_date == as_of))
        frame = pd.DataFrame(found.all(), columns=list(found.keys()))
    with TemporaryDirectory() as folder, measured(settings, "naive_to_sql", str(as_of), run_id) as cost:
        cost.rows = frame.to_sql(table.name, sa.create_engine(f"sqlite:///{Path(folder) / 'rows.db'}"), index=False)
    if cost.rows != len(frame):
        sys.exit("to_sql has not written all rows")


def _champion(settings: Settings, use_case: UseCase) -> Any:
    model = choose_model(settings, use_case).model
    return model or sys.exit("there is no champion")


PARTS: dict[str, Part] = {
    "sql": sql,
    "features": build_features,
    "predict": predict,
    "join": join,
    "scores": score,
    "publish": publish_anew,
    "outcomes": outcomes,
    "quality": quality,
    "drift": measure_drift,
    "kpis": kpis,
    "snapshot": snapshot,
    "dask_features": features_by_dask,
    "dask_scores": scores_by_dask,
    "naive_pandas": by_pandas,
    "naive_pyfunc": by_pyfunc,
    "naive_to_sql": by_to_sql,
    "naive_feast": by_feast_dask,
}

if __name__ == "__main__":
    here = load_settings()
    PARTS[sys.argv[1]](here, get_use_case("category_propensity", here), date.fromisoformat(sys.argv[2]), sys.argv[3])
