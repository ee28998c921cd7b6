"""Models on a few hundred made-up rows: calibration, doubts, contributions, candidates, and the search."""

from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pytest
from corner_shop import SHOP

from pipelines.cross_validation import cross_validate, fit_components, models_of
from pipelines.errors import ArtifactRefused
from pipelines.model import Calibration, Model, Reliability
from pipelines.search import search
from pipelines.training_set import Snapshot, snapshot_dates
from pipelines.use_case import TrainingPlan

PLAN = TrainingPlan(snapshots=4, folds=2, boosting_rounds=10, min_rows_in_leaf=5, learning_rate=0.3, l2=0.1)
USE_CASE = SHOP.model_copy(update={"training": PLAN})
HOUSEHOLDS, ITEMS = 60, 5


def snapshot(number):
    """Households buy what they bought often before; spending tells nothing."""
    draw = np.random.default_rng(number)
    purchases = draw.integers(0, 10, HOUSEHOLDS * ITEMS).astype(np.float32)
    matrix = np.stack([purchases, draw.random(len(purchases)).astype(np.float32)], axis=1)
    as_of = date(2017, 5, 1) + timedelta(days=7 * number)
    rows = pa.table(
        {
            "as_of": pa.array([as_of] * len(matrix), pa.date32()),
            "household_id": np.repeat(np.arange(HOUSEHOLDS), ITEMS),
            "product_category": [f"C{item}" for item in range(ITEMS)] * HOUSEHOLDS,
            "is_candidate": np.ones(len(matrix), bool),
            "is_positive": draw.random(len(matrix)) < purchases / 12,
            "value_usd": np.ones(len(matrix)),
            "weight": np.ones(len(matrix)),
            "is_sampled": np.ones(len(matrix), bool),
            "frequency": matrix[:, 0].astype(float),
            "thrift": -matrix[:, 1].astype(float),
        }
    )
    return Snapshot(as_of, rows, matrix, "household_id")


@pytest.fixture(scope="module")
def snapshots():
    return [snapshot(number) for number in range(4)]


@pytest.fixture(scope="module")
def validation(snapshots):
    missed = [one.rows.slice(0, 0) for one in snapshots[-2:]]
    return cross_validate(USE_CASE, snapshots, missed, threads=1)


@pytest.fixture(scope="module")
def model(snapshots, validation):
    components = fit_components(USE_CASE, models_of(PLAN)["blend"], snapshots, 1)
    return Model(components, validation.calibration, validation.reliability, USE_CASE.features, "household_id")


def features(snapshot):
    columns = {name: snapshot.matrix[:, place] for place, name in enumerate(USE_CASE.features)}
    return pa.table({"household_id": snapshot.entities, **columns})


def test_calibration_gives_the_rate_that_was_observed():
    # On lists of level 0, of the rows one below the mean a quarter is positive, of those one above three quarters.
    # On lists of level 1 it is a tenth and, with the same odds ratio of 9, a half.
    within, level = np.repeat([-1.0, 1.0, -1.0, 1.0], 20), np.repeat([0.0, 1.0], 40)
    positive = np.concatenate([np.arange(20) < positives for positives in (5, 15, 2, 10)])
    found = Calibration.fit(np.stack([within, level], axis=1), positive)
    assert found.apply(np.array([[-1.0, 0.0], [1.0, 0.0], [-1, 1], [1, 1]])) == pytest.approx(
        [0.25, 0.75, 0.1, 0.5], abs=1e-3
    )


def test_calibration_on_one_class_changes_nothing():
    assert Calibration.fit(np.zeros((3, 2)), np.ones(3, bool)) == Calibration(1.0, 1.0, 0.0)


def test_a_probability_is_doubted_where_validation_saw_another_rate_or_too_few_rows():
    promised = np.repeat([0.12, 0.52, 0.92], [1000, 1000, 199])
    happened = np.concatenate([np.arange(1000) < 120, np.arange(1000) < 480, np.arange(199) < 183])
    doubts = Reliability.fit(promised, happened).doubts(np.array([0.12, 0.52, 0.92, 1.0]))
    assert doubts.tolist() == [False, True, True, True]


def test_contributions_add_up_to_the_log_odds_of_the_score(snapshots, model):
    rows = features(snapshots[0])
    picked = np.array([0, 7, 8, 299])
    probability, found = model.predict(rows, 1)[picked], model.contributions(model.look_at(rows, 1), picked, 1)

    assert found.features.shape == (4, 2)
    told = found.base + found.features.sum(axis=1)
    assert np.abs(told - np.log(probability / (1 - probability))).max() < 1e-6
    found = model.contributions(model.look_at(rows, 1), np.arange(rows.num_rows), 1)
    assert np.abs(found.features[:, 0]).mean() > np.abs(found.features[:, 1]).mean()


def test_features_are_taken_by_name(snapshots, model):
    rows = features(snapshots[0])
    turned = rows.select(list(reversed(rows.column_names)))
    assert (model.predict(turned, 1) == model.predict(rows, 1)).all()


@pytest.mark.fault("F25")
@pytest.mark.parametrize("wrong", ["missing", "text"])
def test_rows_without_a_feature_or_with_words_in_it_are_refused_by_its_name(snapshots, model, wrong):
    rows = features(snapshots[0]).drop_columns("spend_usd")
    if wrong == "text":
        rows = rows.append_column("spend_usd", pa.array(["1"] * rows.num_rows))
    with pytest.raises(ArtifactRefused, match="missing, or no numbers: spend_usd"):
        model.predict(rows, 1)


def test_all_candidates_compete_on_the_same_rows_and_the_best_is_chosen(validation):
    assert set(validation.overall) == {"binary", "ranker", "blend", "frequency", "thrift"}
    models = {name: validation.overall[name].ndcg_at_n for name in ("binary", "ranker", "blend")}
    assert validation.overall[validation.chosen].ndcg_at_n == max(models.values())
    assert validation.best_rule == "frequency"
    assert len(validation.per_fold) == 2
    assert sum(map(len, validation.probabilities)) == len(validation.positive) == 2 * HOUSEHOLDS * ITEMS


def test_equal_input_gives_equal_trees(snapshots):
    texts = [
        [part.booster.model_to_string() for part in fit_components(USE_CASE, ("binary", "ranker"), snapshots, 1)]
        for _ in range(2)
    ]
    assert texts[0] == texts[1]


def test_the_newest_snapshots_with_labels_are_kept_from_training():
    # Labels take two days: on 31 May the newest with labels is 29 May; the gate keeps it and 22 May to itself.
    days = snapshot_dates(USE_CASE, date(2017, 5, 31))
    assert [str(day) for day in days] == ["2017-04-24", "2017-05-01", "2017-05-08", "2017-05-15"]


def test_a_search_finds_a_plan_that_ranks_at_least_as_well_on_the_folds(snapshots, validation):
    coarse = {"boosting_rounds": 20, "learning_rate": 0.02, "leaves": 7, "min_rows_in_leaf": 100}
    bad = USE_CASE.model_copy(update={"training": PLAN.model_copy(update=coarse)})
    missed = [one.rows.slice(0, 0) for one in snapshots[-2:]]
    tried = []
    plan = search(bad, snapshots, missed, 1, 0.03, lambda _, done, __: tried.append(done))

    before, after = (
        cross_validate(bad.model_copy(update={"training": one}), snapshots, missed, 1) for one in (bad.training, plan)
    )
    assert tried == list(range(1, len(tried) + 1))
    assert after.overall["blend"].ndcg_at_n >= before.overall["blend"].ndcg_at_n
    assert plan.snapshots == PLAN.snapshots
