"""How good predictions were: of probabilities, of rankings, and of one ranking against another."""

from dataclasses import asdict, dataclass

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from pipelines.use_case import UseCase

ECE_BINS = 10
Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Quality:
    """Quality of one ranking; the three of probabilities are null for scores that are none."""

    auc: float | None
    log_loss: float | None
    ece: float | None
    precision_at_n: float
    recall_at_n: float
    ndcg_at_n: float
    hit_at_n: float
    value_captured_at_n: float

    def named(self, top_n: int) -> dict[str, float]:
        """The figures that exist, by their usual names, such as `ndcg_at_10`."""
        return {
            name.replace("_at_n", f"_at_{top_n}"): value
            for name, value in asdict(self).items()
            if value is not None and np.isfinite(value)
        }


def expected_calibration_error(is_positive: NDArray[np.bool_], probability: Vector) -> float:
    """Mean distance of predicted and observed rate over ten bins of equal width, weighted by rows.

    Guo et al. 2017, On Calibration of Modern Neural Networks, eq. 3, for the positive class.
    """
    bins = np.minimum((probability * ECE_BINS).astype(int), ECE_BINS - 1)
    predicted = np.bincount(bins, weights=probability, minlength=ECE_BINS)
    observed = np.bincount(bins, weights=is_positive, minlength=ECE_BINS)
    return float(np.abs(predicted - observed).sum()) / len(bins)


def lists_of(use_case: UseCase, scored: pa.Table) -> pd.DataFrame:
    """Quality of each entity's list: one row per as_of and entity with a positive.

    `scored` has as_of, keys, is_candidate, is_positive, value_usd and score (null for what was no candidate).
    Recall and the ideal of NDCG count every positive, also those that were no candidates (Järvelin and
    Kekäläinen 2002, binary gain, log2 discount). Ties are broken by the item's name.
    """
    n, entity, item = use_case.top_n, use_case.entity, use_case.item
    ideal = f"list_sum(list_transform(range(1, least(positives, {n}) + 1), lambda i: 1 / log2(i + 1)))"
    query = f"""
        SELECT as_of, {entity}, hits / {n} AS precision_at_n, hits / positives AS recall_at_n,
               dcg / {ideal} AS ndcg_at_n, (hits > 0)::DOUBLE AS hit_at_n, value_captured_usd, value_usd
        FROM (
            SELECT as_of, {entity}, count(*) FILTER (is_positive) AS positives,
                   count(*) FILTER (is_positive AND position <= {n}) AS hits,
                   coalesce(sum(1 / log2(position + 1)) FILTER (is_positive AND position <= {n}), 0) AS dcg,
                   coalesce(sum(value_usd) FILTER (position <= {n}), 0)::DOUBLE AS value_captured_usd,
                   sum(value_usd)::DOUBLE AS value_usd
            FROM (
                SELECT *, CASE WHEN is_candidate THEN row_number() OVER (
                    PARTITION BY as_of, {entity} ORDER BY is_candidate DESC, score DESC, {item}) END AS position
                FROM scored
            ) GROUP BY ALL
        ) WHERE positives > 0 ORDER BY as_of, {entity}
    """
    with duckdb.connect() as connection:
        connection.register("scored", scored)
        return connection.sql(query).df()


def quality(use_case: UseCase, scored: pa.Table, *, is_probability: bool) -> Quality:
    """All figures of one ranking; ranking figures are means over entity-dates with a positive."""
    lists = lists_of(use_case, scored)
    candidates = scored.filter(scored.column("is_candidate"))
    positive = candidates.column("is_positive").to_numpy()
    score = candidates.column("score").to_numpy().astype(np.float64)
    has_both = 0 < positive.sum() < len(positive)
    means = lists[["precision_at_n", "recall_at_n", "ndcg_at_n", "hit_at_n"]].mean()
    value = lists["value_usd"].sum()
    return Quality(
        auc=float(roc_auc_score(positive, score)) if has_both else None,
        log_loss=float(log_loss(positive, score, labels=[False, True])) if is_probability else None,
        ece=expected_calibration_error(positive, score) if is_probability else None,
        value_captured_at_n=float(lists["value_captured_usd"].sum() / value) if value else 0.0,
        **{str(name): float(mean) for name, mean in means.items()},
    )


@dataclass(frozen=True)
class Interval:
    """A paired difference of means with its 95 % interval."""

    difference: float
    low: float
    high: float


def paired_interval(
    use_case: UseCase, ours: pa.Table, theirs: pa.Table, *, figure: str = "ndcg_at_n", seed: int = 0
) -> Interval:
    """Difference of one figure on the same lists, with a bootstrap over entities (1,000 draws).

    Whole entities are drawn, with all their dates, since an entity's weeks resemble each other.
    """
    index = ["as_of", use_case.entity]
    pair = lists_of(use_case, ours).merge(lists_of(use_case, theirs), on=index, suffixes=("_ours", "_theirs"))
    gain = (pair[f"{figure}_ours"] - pair[f"{figure}_theirs"]).groupby(pair[use_case.entity]).agg(["sum", "count"])
    if gain.empty:
        return Interval(float("nan"), float("nan"), float("nan"))
    sums, counts = gain["sum"].to_numpy(), gain["count"].to_numpy()
    draws = np.random.default_rng(seed).integers(0, len(gain), size=(1000, len(gain)))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))
