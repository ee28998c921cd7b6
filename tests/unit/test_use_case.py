"""Use cases whose definition contradicts itself are refused."""

import pytest
from pydantic import ValidationError

from pipelines.use_case import FeatureTable, TrainingPlan, UseCase
from pipelines.use_cases.category_propensity import EXCLUDED, USE_CASE


def _changed(**changes):
    return UseCase(**{name: getattr(USE_CASE, name) for name in UseCase.model_fields} | changes)


PAIR = USE_CASE.feature_tables[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"horizon_days": 0}, "greater than or equal to 1"),
        ({"horizon_days": "7"}, "valid integer"),
        ({"surprise": 1}, "Extra inputs"),
        ({"feature_tables": (PAIR, PAIR)}, "more than one table"),
        ({"feature_tables": USE_CASE.feature_tables[1:]}, "grain"),
        ({"rules": ()}, "at least 1 item"),
        ({"training": TrainingPlan(snapshots=3, folds=3)}, "folds"),
        (
            {
                "feature_tables": (
                    PAIR,
                    FeatureTable(name="features__x", keys=("y",), source="t", aggregates={"f": "1"}),
                )
            },
            "part of",
        ),
    ],
)
def test_a_wrong_definition_is_refused_with_a_clear_message(changes, message):
    with pytest.raises(ValidationError, match=message):
        _changed(**changes)


def test_a_use_case_cannot_be_changed():
    with pytest.raises(ValidationError):
        USE_CASE.top_n = 3


def test_intermediate_expressions_are_no_features():
    assert not [name for name in USE_CASE.features if name.startswith("_")]
    assert 40 <= len(USE_CASE.features) <= 80


def test_features_leave_out_what_the_use_case_excludes():
    assert all(f"'{item}'" in USE_CASE.base_tables[1].sql for item in EXCLUDED)
