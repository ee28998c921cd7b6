"""The cause of what moved, and what follows from it: a table of cases."""

from dataclasses import replace

import pytest
from corner_shop import day

from pipelines.causes import (
    BLOCK,
    CONCEPT_SHIFT,
    COVARIATE_SHIFT,
    DATA_FAULT,
    INFORM,
    PIPELINE_CHANGE,
    RETRAIN,
    SEASON,
    Changes,
    Moved,
    classify,
)
from pipelines.measurements import DATA, LABEL, PREDICTION

PRICE = Moved("paid_price", "all", DATA, 1.2, 1.0, 1.1, day(0), is_raw=True)
FEATURES = Moved("drift_share", "all", DATA, 0.5, None, 0.25, day(0))
SCORES = Moved("drift_season_ks", "score", PREDICTION, 0.3, 0.05, 0.1, day(0))
QUALITY = Moved("rate_ratio", "all", LABEL, 0.8, 1.0, 0.9, day(0))
CENTS = replace(PRICE, value=100.0, is_fault=True, source="core__transactions of 2017-05-01: a.parquet")
CALM = Changes()


def causes(*moved, changes=CALM):
    return [one.cause for one in classify(moved, changes)]


def test_nothing_moved_is_no_finding():
    assert classify([], CALM) == []


@pytest.mark.parametrize("moved", [PRICE, FEATURES, SCORES])
def test_inputs_that_moved_are_a_covariate_shift_which_a_new_model_may_learn(moved):
    (found,) = classify([moved], CALM)
    assert (found.cause, found.action) == (COVARIATE_SHIFT, RETRAIN)


def test_labels_that_moved_while_the_data_are_quiet_are_a_concept_shift():
    (found,) = classify([QUALITY], CALM)
    assert (found.cause, found.action) == (CONCEPT_SHIFT, RETRAIN)


def test_labels_that_moved_with_the_data_follow_them():
    assert causes(PRICE, QUALITY) == [COVARIATE_SHIFT, COVARIATE_SHIFT]


def test_what_a_season_explains_informs_and_does_not_excuse_the_labels():
    season = replace(PRICE, is_season=True)
    assert causes(season, QUALITY) == [SEASON, CONCEPT_SHIFT]
    assert classify([season], CALM)[0].action == INFORM


def test_a_fault_of_the_data_explains_all_the_rest_blocks_and_names_the_drop():
    found = classify([FEATURES, SCORES, QUALITY, CENTS], CALM)
    assert {(one.cause, one.action) for one in found} == {(DATA_FAULT, BLOCK)}
    assert {one.source for one in found} == {"core__transactions of 2017-05-01: a.parquet"}


def test_a_fault_in_a_season_is_a_fault():
    assert causes(replace(PRICE, is_season=True), replace(CENTS, is_season=True)) == [SEASON, DATA_FAULT]


def test_a_new_model_moves_scores_and_lists_but_no_data_and_no_labels():
    changes = Changes(scoring=["version 1 gave way to 2"])
    found = classify([PRICE, FEATURES, SCORES], changes)
    assert [one.cause for one in found] == [COVARIATE_SHIFT, COVARIATE_SHIFT, PIPELINE_CHANGE]
    assert (found[2].action, found[2].source) == (INFORM, "version 1 gave way to 2")
    assert causes(QUALITY, changes=changes) == [CONCEPT_SHIFT]


def test_features_that_are_made_in_another_way_move_all_but_the_lines():
    changes = Changes(features=["features made in another way since 2017-05-01"])
    assert causes(PRICE, changes=changes) == [COVARIATE_SHIFT]
    assert causes(FEATURES, SCORES, QUALITY, changes=changes) == [PIPELINE_CHANGE] * 3


def test_a_finding_says_what_moved_from_where_to_where():
    (found,) = classify([replace(CENTS, slice="BEEF", subject="Prices paid")], CALM)
    assert found.told == (
        "data fault: paid_price of BEEF is 100, usually 1 (limit 1.1): Prices paid; "
        "see core__transactions of 2017-05-01: a.parquet"
    )
