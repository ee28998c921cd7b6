from pathlib import Path

import pytest
from corner_shop import SHOP, day, publish, put_scores, register, rows_of, sell, snapshot

from pipelines import tables
from pipelines.errors import MissingPartition
from pipelines.measurements import Measurement, replace_measurements
from pipelines.outcomes import record_outcomes
from pipelines.quality import hold_floors, measure_quality
from pipelines.quality_rows import scored_by_all
from pipelines.settings import Settings

# Before: household 1 bought MILK twice for 1 $, BREAD for 9 $, BEER for 5 $ once; household 2 BEER.
BEFORE = [(0, 1, 1, "0.50"), (0, 1, 1, "0.50"), (0, 1, 2, "9.00"), (0, 1, 3, "5.00"), (0, 2, 3, "1.00")]
# After: household 1 buys BREAD; household 2 buys MILK, which was no candidate.
AFTER = [(1, 1, 2, "3.00"), (2, 2, 1, "1.00")]
SCORES = [(1, "BREAD", 0.9, "champion"), (1, "BEER", 0.6, "champion"), (1, "MILK", 0.2, "champion")]
SCORES += [(2, "BEER", 0.4, "champion"), (3, "MILK", 0.5, "cold_start")]


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory) -> str:
    home: Path = tmp_path_factory.mktemp("registry")
    facts = {"params": {"best_rule": "frequency"}, "metrics": {"auc": 0.9}, "reference": "{}"}
    return register(home, **facts).mlflow_tracking_uri


@pytest.fixture
def matured(tmp_path: Path, registered: str) -> Settings:
    """The shop at the end of day 2, with scores of day 0 in the lake and outcomes in the warehouse."""
    settings = Settings(home=tmp_path, mlflow_tracking_uri=registered)
    sell(settings, 0, 1, 2, purchases=BEFORE + AFTER)
    snapshot(settings, 0)
    put_scores(settings, 0, SCORES)
    publish(settings, 0, {1: ["BREAD", "BEER"], 2: ["BEER"]})
    record_outcomes(settings, SHOP, day(2), "test")
    return settings


def figures(settings: Settings, version: str) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in rows_of(settings, tables.METRICS) if row["model_version"] == version}


def test_model_and_rules_are_scored_on_the_same_rows(matured: Settings) -> None:
    scored = scored_by_all(matured, SHOP, day(0), "1")

    def column(name: str) -> list[tuple[object, ...]]:
        rows = scored[name].to_pylist()
        return [
            (r["household_id"], r["product_category"], r["is_candidate"], r["is_positive"], r["score"]) for r in rows
        ]

    assert column("1") == [
        (1, "BEER", True, False, 0.6),
        (1, "BREAD", True, True, 0.9),
        (1, "MILK", True, False, 0.2),
        (2, "BEER", True, False, 0.4),
        (2, "MILK", False, True, None),
    ]
    assert [row[:4] for row in column("rule:frequency")] == [row[:4] for row in column("1")]
    assert [row[4] for row in column("rule:frequency")] == [1, 1, 2, 1, None]
    assert [row[4] for row in column("rule:thrift")] == [-5, -9, -1, -1, None]


def test_of_more_candidates_than_are_looked_at_whole_households_are_measured(matured: Settings) -> None:
    def measured(**plan: int) -> list[tuple[int, str, float | None]]:
        use_case = SHOP.model_copy(update={"training": SHOP.training.model_copy(update=plan)})
        rows = scored_by_all(matured, use_case, day(0), "1")["1"].to_pylist()
        return [(row["household_id"], row["product_category"], row["score"]) for row in rows]

    everything = measured()
    found = [measured(most_rows=2, seed=seed) for seed in range(8)]

    for rows in found:
        households = {household for household, *_ in rows}
        assert rows == [row for row in everything if row[0] in households]
    assert {len(rows) for rows in found} > {2, 3}


def test_quality_of_a_matured_date_stands_beside_every_simple_rule(matured: Settings) -> None:
    report = measure_quality(matured, SHOP, day(2), "test")

    model, frequency, thrift = (figures(matured, name) for name in ("1", "rule:frequency", "rule:thrift"))
    assert (model["auc"], model["precision_at_2"], model["recall_at_2"], model["hit_at_2"]) == (
        1,
        0.25,
        0.5,
        0.5,
    )
    assert model["value_captured_at_2"] == 0.75
    assert (frequency["ndcg_at_2"], thrift["ndcg_at_2"]) == (0, 0)  # BREAD comes third by name or by thrift
    assert (frequency["auc"], thrift["auc"]) == (pytest.approx(1 / 3), 0)
    assert "log_loss" in model
    assert "log_loss" not in frequency
    assert report.score_dates == (day(0),)
    assert report.newest == model
    assert report.alerts == ()


def test_the_best_rule_of_the_models_validation_is_its_reference(matured: Settings) -> None:
    measure_quality(matured, SHOP, day(2), "test")

    mine = [row for row in rows_of(matured, tables.METRICS) if row["model_version"] == "1" and row["slice"] == "all"]
    rows = {row["metric"]: row for row in mine}
    assert rows["auc"]["reference"] == pytest.approx(1 / 3)
    assert rows["auc"]["threshold"] == pytest.approx(0.9 - 0.02)
    assert (rows["auc"]["status"], rows["ndcg_at_2"]["status"], rows["ece"]["status"]) == ("ok", "info", "info")


def test_quality_measured_again_leaves_the_same_rows_and_drift_alone(matured: Settings) -> None:
    drift = Measurement("drift_ks", "1", 0.5, slice="purchases")
    replace_measurements(matured, SHOP, day(0), ["drift_ks"], [drift])
    measure_quality(matured, SHOP, day(2), "test")
    once = rows_of(matured, tables.METRICS)

    measure_quality(matured, SHOP, day(2), "again")

    assert rows_of(matured, tables.METRICS) == once
    assert [row["value"] for row in once if row["metric"] == "drift_ks"] == [0.5]


def test_a_date_with_outcomes_is_measured_once_and_caught_up_later(matured: Settings) -> None:
    assert measure_quality(matured, SHOP, day(1), "test").score_dates == ()
    assert measure_quality(matured, SHOP, day(3), "test").score_dates == (day(0),)
    later = measure_quality(matured, SHOP, day(3), "test")
    assert (later.score_dates, later.rows) == ((), 0)
    assert str(day(1)) in later.reason


def test_a_candidate_without_a_score_is_an_error(matured: Settings) -> None:
    put_scores(matured, 0, SCORES[1:])

    with pytest.raises(MissingPartition, match="1 without a score"):
        measure_quality(matured, SHOP, day(2), "test")


def test_every_figure_stands_beside_the_best_rules_with_its_interval(matured: Settings) -> None:
    measure_quality(matured, SHOP, day(2), "test")

    rows = {
        (row["metric"], row["slice"]): row for row in rows_of(matured, tables.METRICS) if row["model_version"] == "1"
    }
    hit, gain = rows["hit_at_2", "all"], rows["ndcg_gain", "all"]
    # One of two households has a hit: the residuals about one half are both 0.5, so that the error is one half.
    assert (hit["value"], hit["reference"]) == (0.5, 0)
    assert (hit["low"], hit["high"]) == (pytest.approx(0.5 - 1.96 * 0.5, abs=1e-3), pytest.approx(1.48, abs=1e-3))
    assert (gain["value"], gain["reference"], gain["threshold"]) == (0.5, 0, 0)
    assert rows["rate_ratio", "all"]["value"] == pytest.approx(1 / (0.9 + 0.6 + 0.2 + 0.4))
    assert {(row["clock"], row["known_date"]) for row in rows.values()} == {("label", day(2))}


def test_slices_have_figures_of_their_own_and_of_lists_where_they_hold_whole_ones(matured: Settings) -> None:
    sliced = SHOP.model_copy(
        update={
            "slices": {"not 5 $": "spend_usd <> 5", "bread": "spend_usd = 9"},
            "segments_sql": "SELECT household_id, 'anybody' AS who FROM core__transactions "
            "WHERE business_date <= $as_of GROUP BY ALL",
        }
    )
    measure_quality(matured, sliced, day(2), "test")

    rows = [row for row in rows_of(matured, tables.METRICS) if row["model_version"] == "1"]
    named = {(row["metric"], row["slice"]): row["value"] for row in rows}
    assert named["rate_ratio", "not 5 $"] == pytest.approx(1 / (0.9 + 0.2 + 0.4))
    assert named["rate_ratio", "who anybody"] == named["rate_ratio", "all"]
    assert named["hit_at_2", "who anybody"] == 0.5
    assert ("hit_at_2", "not 5 $") not in named
    assert ("rate_ratio", "bread") not in named  # of one household there is no error


def test_what_to_expect_of_tonights_scores_is_known_at_once_and_its_error_later(matured: Settings) -> None:
    publish(matured, 2, {1: ["BREAD"]})
    put_scores(matured, 2, [(1, "BREAD", 0.8, "champion"), (1, "BEER", 0.2, "champion")])

    measure_quality(matured, SHOP, day(2), "test")

    rows = {row["metric"]: row for row in rows_of(matured, tables.METRICS) if row["model_version"] == "1"}
    estimated, error = rows["estimated_auc"], rows["estimate_error_auc"]
    # Of the pair one alone comes true with 0.8 * 0.8, or the other with 0.2 * 0.2: it is ranked right in the first.
    assert estimated["value"] == pytest.approx(0.64 / 0.68)
    assert (estimated["score_date"], estimated["clock"], estimated["known_date"]) == (day(2), "prediction", day(2))
    assert (error["score_date"], error["clock"], error["reference"]) == (day(0), "label", 1.0)


def put_history(settings: Settings, values: list[float], metric: str = "auc") -> None:
    """Figures of the weeks before day 0, the last of them of seven days before."""
    for back, value in enumerate(reversed(values), start=1):
        known = [
            Measurement(metric, "1", value, low=value - 0.02, high=value + 0.02),
            Measurement("rate_ratio", "1", 1),
        ]
        replace_measurements(settings, SHOP, day(-7 * back), [metric, "rate_ratio"], known)


def test_a_figure_is_judged_by_the_weeks_before_and_not_by_the_days_between(matured: Settings) -> None:
    put_history(matured, [0.3, 0.31, 0.29, 0.3, 0.3], metric="hit_at_2")
    between = [Measurement("hit_at_2", "1", 9.0, low=9.0, high=9.0), Measurement("rate_ratio", "1", 1)]
    replace_measurements(matured, SHOP, day(-3), ["hit_at_2", "rate_ratio"], between)

    measure_quality(matured, SHOP, day(2), "test")

    mine = [row for row in rows_of(matured, tables.METRICS) if row["model_version"] == "1" and row["slice"] == "all"]
    rows = {row["metric"]: row for row in mine if row["score_date"] == day(0)}
    assert rows["hit_at_2"]["status"] == "ok"
    assert rows["hit_at_2"]["threshold"] < 0.3


def test_a_date_whose_rows_are_gone_does_not_keep_the_newest_from_being_measured(matured: Settings) -> None:
    sell(matured, 3, purchases=[])
    snapshot(matured, 1)
    publish(matured, 1, {1: ["BREAD"]})
    put_scores(matured, 1, SCORES)
    put_scores(matured, 0, SCORES[1:])
    record_outcomes(matured, SHOP, day(3), "test")

    report = measure_quality(matured, SHOP, day(3), "test")

    assert report.score_dates == (day(1),)
    assert f"{day(0)}: candidates have no score" in report.reason


FLOORS = {"auc": 0.78, "ndcg_gain": 0.0}


@pytest.mark.parametrize(
    ("high", "is_season", "status"), [(0.79, False, "ok"), (0.779, False, "alert"), (0.779, True, "warn")]
)
def test_a_figure_that_is_surely_below_its_floor_is_an_alert(high: float, is_season: bool, status: str) -> None:
    found = [Measurement("auc", "1", high - 0.01, low=high - 0.02, high=high)]

    (held,) = hold_floors(found, FLOORS, is_season=is_season)

    assert (held.status, held.threshold) == (status, 0.78)


def test_a_floor_holds_for_everything_and_leaves_the_slices_alone() -> None:
    found = [Measurement("auc", "1", 0.5, slice="new", low=0.4, high=0.6), Measurement("ece", "1", 0.1, low=0, high=0)]

    assert hold_floors(found, FLOORS, is_season=False) == found
