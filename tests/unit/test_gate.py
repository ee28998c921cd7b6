"""The gate: a good challenger passes, and each check stops one that was made to fail it."""

from dataclasses import replace
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from corner_shop import SHOP

from pipelines.evaluation import Evidence, holdout_dates
from pipelines.gate import (
    champion_checks,
    list_checks,
    quality_checks,
    sanity_checks,
    score_shift,
    slice_checks,
    slice_figures,
)
from pipelines.metrics import Interval, paired_interval, quality

USE_CASE = SHOP.model_copy(
    update={
        "gate": SHOP.gate.model_copy(
            update={"min_training_rows": 1000, "min_slice_positives": 20, "max_item_share_rise": 0.3}
        )
    }
)
NAMES = ("challenger", "champion", "frequency")
GATE, DAY, HOUSEHOLDS, ITEMS = USE_CASE.gate, date(2017, 5, 1), 300, 5
CHANCE = np.tile([0.6, 0.4, 0.2, 0.1, 0.05], HOUSEHOLDS)  # of the five categories, for each household
POSITIVE = np.random.default_rng(1).random(len(CHANCE)) < CHANCE
NOISE = np.random.default_rng(2).normal(0, 1, len(CHANCE))
RULE = CHANCE + 0.12 * NOISE


def rows_with(scores):
    return pa.table(
        {
            "as_of": pa.array([DAY] * len(CHANCE), pa.date32()),
            "household_id": np.repeat(np.arange(HOUSEHOLDS), ITEMS),
            "product_category": np.tile([f"C{item}" for item in range(ITEMS)], HOUSEHOLDS),
            "is_candidate": np.ones(len(CHANCE), bool),
            "is_positive": POSITIVE,
            "value_usd": POSITIVE.astype(float),
            "score": scores,
        }
    )


def evidence_of(challenger=CHANCE, champion=CHANCE, **changes):
    """A challenger that knows the true chances, a champion that does too, and a rule that guesses at them."""
    figures = {
        "training_rows": 5000.0,
        "training_positive_share": 0.3,
        "training_features_missing": 0.0,
        "training_cpu_s": 10.0,
    }
    told = Evidence(
        dates=(DAY,),
        learnt_until=DAY,
        best_rule="frequency",
        champion_version="3",
        problem="",
        can_champion_score=True,
        scored={"challenger": rows_with(challenger), "champion": rows_with(champion), "frequency": rows_with(RULE)},
        probabilities={"challenger": challenger, "champion": champion},
        positive=POSITIVE,
        slices={"first": np.arange(len(CHANCE)) < len(CHANCE) / 2, "few": np.arange(len(CHANCE)) < 10},
        figures={"challenger": figures, "champion": figures},
        scoring_cpu_s={"challenger": 1.0, "champion": 1.0},
    )
    return replace(told, **changes)


def judged(evidence, in_shadow=None):
    """Every check by its name."""
    named = {
        name: quality(USE_CASE, evidence.scored[name], is_probability=name in evidence.probabilities)
        for name in evidence.scored
    }
    gains = {
        name: paired_interval(USE_CASE, evidence.scored["challenger"], evidence.scored[name])
        for name in evidence.scored
        if name != "challenger"
    }
    checks = [
        *sanity_checks(GATE, evidence),
        *quality_checks(GATE, evidence, named, gains),
        *slice_checks(GATE, evidence, slice_figures(USE_CASE, evidence)),
        *list_checks(USE_CASE, evidence),
        *champion_checks(GATE, evidence, in_shadow),
    ]
    return {check.name: check for check in checks}


def failed(checks):
    return {name for name, check in checks.items() if not check.success}


def test_a_challenger_that_knows_the_chances_passes_every_check():
    checks = judged(evidence_of(), Interval(0.0, -0.001, 0.001))

    assert failed(checks) == set()
    assert len(checks) == 19
    assert {name for name, check in checks.items() if not check.is_blocking} == {"slice few"}


@pytest.mark.fault("F29")
@pytest.mark.parametrize(
    ("figure", "value", "name"),
    [
        ("training_rows", 999.0, "sanity: training rows"),
        ("training_positive_share", 0.0, "sanity: positives in training"),
        ("training_positive_share", 1.0, "sanity: positives in training"),
        ("training_features_missing", 1.0, "sanity: features without values"),
    ],
)
def test_a_training_set_that_is_tiny_one_sided_or_has_holes_is_refused(figure, value, name):
    good = evidence_of()
    bad = replace(good, figures={**good.figures, "challenger": {**good.figures["challenger"], figure: value}})

    assert failed(judged(bad)) == {name}


@pytest.mark.fault("F29")
@pytest.mark.parametrize(
    ("scores", "name"),
    [
        (np.where(np.arange(len(CHANCE)) == 7, np.nan, CHANCE), "sanity: scores that are no number"),
        (np.full(len(CHANCE), 0.27), "sanity: different scores"),
    ],
)
def test_scores_that_are_no_numbers_or_all_the_same_are_refused(scores, name):
    evidence = replace(evidence_of(), probabilities={"challenger": scores})
    assert failed({check.name: check for check in sanity_checks(GATE, evidence)}) == {name}


def test_without_later_labels_there_is_nothing_to_judge():
    evidence = replace(evidence_of(), positive=np.zeros(0, bool))
    names = failed({check.name: check for check in sanity_checks(GATE, evidence)})
    assert names == {"sanity: later rows with labels"}


@pytest.mark.fault("F29")
def test_a_challenger_that_ranks_no_better_than_the_rule_is_refused():
    same = np.clip(RULE, 0, 1)
    checks = judged(evidence_of(challenger=same, champion=same, scored=dict.fromkeys(NAMES, rows_with(same))))

    assert "NDCG over the rule frequency" in failed(checks)
    assert checks["NDCG over the rule frequency"].observed == "+0.0000 [+0.0000, +0.0000]"


@pytest.mark.fault("F29")
def test_a_challenger_that_ranks_worse_than_the_champion_is_refused():
    worse = np.clip(CHANCE + 0.15 * NOISE, 0.01, 0.99)
    assert "NDCG over the champion" in failed(judged(evidence_of(challenger=worse)))


def test_scores_that_promise_too_much_are_refused_overall_and_in_the_slice():
    checks = failed(judged(evidence_of(challenger=np.minimum(CHANCE * 1.5, 0.99))))

    assert checks == {
        "calibration error",
        "calibration error against the champion",
        "mean score over observed rate",
        "slice first: mean score less observed rate",
        "shift of the scores (PSI)",
    }


def test_a_slice_that_ranks_worse_than_before_is_refused_by_its_name():
    first = np.arange(len(CHANCE)) < len(CHANCE) / 2
    others = np.random.default_rng(3).permutation(CHANCE[first])
    checks = failed(judged(evidence_of(challenger=np.where(first, np.concatenate([others, others]), CHANCE))))

    assert "slice first: AUC" in checks


@pytest.mark.attack("S6")
def test_an_item_that_gets_onto_many_more_lists_is_told_by_its_name():
    pushed = np.where(np.tile([0, 0, 0, 0, 1], HOUSEHOLDS) == 1, 0.9, CHANCE)
    check = judged(evidence_of(challenger=pushed))["item that gains most lists"]

    assert not check.success
    assert check.observed == "C4: +1.000 of all lists over the champion"


@pytest.mark.parametrize("what", ["training", "scoring"])
def test_a_challenger_that_costs_six_times_as_much_is_refused(what):
    good = evidence_of()
    figures = {**good.figures, "challenger": {**good.figures["challenger"], "training_cpu_s": 60.0}}
    costly = {
        "training": replace(good, figures=figures),
        "scoring": replace(good, scoring_cpu_s={"challenger": 6.0, "champion": 1.0}),
    }[what]

    assert failed(judged(costly)) == {f"cost of {what}"}


def test_nights_in_the_shadow_that_were_worse_count_against_the_challenger():
    checks = judged(evidence_of(), Interval(-0.004, -0.005, -0.003))
    assert failed(checks) == {"NDCG over the champion, nights in the shadow"}


def test_a_champion_that_has_seen_all_later_labels_stays_until_there_are_others():
    good = evidence_of()
    seen = replace(
        good,
        problem="it has learnt from labels up to 2017-05-08",
        scored={name: rows for name, rows in good.scored.items() if name != "champion"},
        probabilities={"challenger": CHANCE},
    )

    assert failed(judged(seen)) == {"champion"}
    assert judged(seen)["champion"].is_blocking


def test_a_champion_that_cannot_score_any_more_does_not_stand_in_the_way():
    good = evidence_of()
    lost = replace(
        good,
        problem="the model has another feature_definition",
        can_champion_score=False,
        scored={name: rows for name, rows in good.scored.items() if name != "champion"},
        probabilities={"challenger": CHANCE},
    )

    assert failed(judged(lost)) == set()


def test_the_first_model_is_measured_against_the_rule_alone():
    good = evidence_of()
    first = replace(
        good,
        champion_version=None,
        scored={name: rows for name, rows in good.scored.items() if name != "champion"},
        probabilities={"challenger": CHANCE},
    )

    assert failed(judged(first)) == set()


def test_figures_of_a_slice_are_those_of_its_rows():
    figures = slice_figures(USE_CASE, evidence_of())["first"]
    half = slice(0, len(CHANCE) // 2)

    assert (figures["rows"], figures["positives"]) == (len(CHANCE) / 2, POSITIVE[half].sum())
    assert figures["mean_score"] == pytest.approx(CHANCE[half].mean())
    assert figures["observed_rate"] == pytest.approx(POSITIVE[half].mean())


def test_equal_scores_have_not_shifted_and_moved_ones_have():
    assert score_shift(CHANCE, CHANCE) == 0
    # Half of the mass moves from one of two equal bins to the other: (1 − .5)·ln(1/.5) + (1e-4 − .5)·ln(1e-4/.5)
    two, one = np.repeat([0.0, 1.0], 100), np.ones(200)
    assert score_shift(two, one) == pytest.approx(0.5 * np.log(2) + (1e-4 - 0.5) * np.log(1e-4 / 0.5), rel=1e-3)


def test_rows_for_the_judgement_begin_where_the_last_label_of_both_ended():
    class Facts:
        def __init__(self, last):
            self.last_label_date = last

    known = date(2017, 5, 31)  # labels of 2 days: the newest snapshot with labels is 29 May, weeks before it 22, 15 …
    assert holdout_dates(USE_CASE, known, [Facts(date(2017, 5, 22))]) == [date(2017, 5, 22), date(2017, 5, 29)]
    assert holdout_dates(USE_CASE, known, [Facts(date(2017, 5, 1)), Facts(date(2017, 5, 23))]) == [date(2017, 5, 29)]
    assert holdout_dates(USE_CASE, known, [Facts(date(2017, 5, 30))]) == []
