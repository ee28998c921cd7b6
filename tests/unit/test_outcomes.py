import pytest
from corner_shop import SHOP, day, publish, rows_of, sell, snapshot

from pipelines import tables
from pipelines.errors import MissingPartition
from pipelines.measurements import Measurement, replace_measurements
from pipelines.outcomes import published_version, record_outcomes
from pipelines.settings import Settings

# Day 0 is scored. Its window is days 1 and 2; what is bought on days 0 and 3 lies outside.
BEFORE = [(0, 1, 1, "1.00"), (0, 1, 2, "2.00"), (0, 2, 3, "9.00")]
AFTER = [(1, 1, 1, "1.50"), (2, 1, 1, "0.25"), (2, 2, 1, "4.00"), (3, 1, 2, "7.00"), (3, 2, 3, "7.00")]


@pytest.fixture
def scored(settings: Settings) -> Settings:
    """The shop after day 3, with lists published for day 0."""
    sell(settings, 0, 1, 2, 3, purchases=BEFORE + AFTER)
    snapshot(settings, 0)
    publish(settings, 0, {1: ["MILK", "BREAD"], 2: ["BEER", "MILK"]})
    return settings


def outcomes(settings: Settings) -> list[tuple[object, ...]]:
    rows = rows_of(settings, tables.outcomes_table(SHOP))
    return [(r["household_id"], r["rank"], r["product_category"], r["is_positive"], r["value_usd"]) for r in rows]


def test_outcomes_hold_every_published_row_with_what_was_bought_inside_the_window(scored: Settings) -> None:
    report = record_outcomes(scored, SHOP, day(2), "test")

    assert outcomes(scored) == [
        (1, 1, "MILK", True, 1.75),
        (1, 2, "BREAD", False, 0.0),
        (2, 1, "BEER", False, 0.0),
        (2, 2, "MILK", True, 4.0),  # never bought before day 0: a positive that was no candidate
    ]
    assert {row["matured_date"] for row in rows_of(scored, tables.outcomes_table(SHOP))} == {day(2)}
    assert (report.score_dates, report.rows, report.positives, report.reason) == ((day(0),), 4, 2, "")


def test_outcomes_are_the_same_when_recorded_again_or_later(scored: Settings) -> None:
    record_outcomes(scored, SHOP, day(2), "test")
    once = rows_of(scored, tables.outcomes_table(SHOP))

    record_outcomes(scored, SHOP, day(2), "again")
    assert record_outcomes(scored, SHOP, day(3), "later").score_dates == ()

    assert rows_of(scored, tables.outcomes_table(SHOP)) == once


def test_nothing_is_recorded_before_the_window_is_over(scored: Settings) -> None:
    report = record_outcomes(scored, SHOP, day(1), "test")

    assert (report.score_dates, report.rows) == ((), 0)
    assert str(day(-1)) in report.reason
    assert outcomes(scored) == []


def test_a_date_without_outcomes_is_caught_up_later(scored: Settings) -> None:
    assert record_outcomes(scored, SHOP, day(3), "test").score_dates == (day(0),)


def test_a_hole_in_the_window_leaves_the_date_for_later(settings: Settings) -> None:
    sell(settings, 0, 2, 3, purchases=BEFORE + AFTER)
    snapshot(settings, 0)
    publish(settings, 0, {1: ["MILK"]})

    left = record_outcomes(settings, SHOP, day(2), "test")
    assert left.score_dates == ()
    assert str(day(0)) in left.reason
    assert str(day(1)) in left.reason

    sell(settings, 1, purchases=AFTER)
    assert record_outcomes(settings, SHOP, day(3), "test").score_dates == (day(0),)
    assert outcomes(settings) == [(1, 1, "MILK", True, 1.75)]


def test_outcomes_follow_a_list_that_was_published_anew(scored: Settings) -> None:
    record_outcomes(scored, SHOP, day(2), "test")
    publish(scored, 0, {1: ["BREAD"]}, version="2")

    record_outcomes(scored, SHOP, day(2), "again")

    assert outcomes(scored) == [(1, 1, "BREAD", False, 0.0)]


def test_a_published_date_without_features_is_an_error_and_not_a_skip(settings: Settings) -> None:
    sell(settings, 0, 1, 2, purchases=BEFORE)
    publish(settings, 0, {1: ["MILK"]})

    with pytest.raises(MissingPartition, match="features__corner_shop"):
        record_outcomes(settings, SHOP, day(2), "test")


def test_the_published_version_is_the_one_that_readers_see(scored: Settings) -> None:
    assert published_version(scored, SHOP, day(0)) == "1"
    publish(scored, 0, {1: ["MILK"]}, version="2")
    assert published_version(scored, SHOP, day(0)) == "2"
    with pytest.raises(MissingPartition, match="nightjar score"):
        published_version(scored, SHOP, day(1))


def test_labels_are_final_only_when_the_late_window_is_over_too(scored: Settings) -> None:
    patient = SHOP.model_copy(update={"late_window_days": 1})

    assert record_outcomes(scored, patient, day(2), "test").score_dates == ()
    assert record_outcomes(scored, patient, day(3), "test").score_dates == (day(0),)
    assert {row["matured_date"] for row in rows_of(scored, tables.outcomes_table(SHOP))} == {day(3)}


@pytest.fixture
def recorded(scored: Settings) -> Settings:
    """The shop at the end of day 3, with outcomes and a realised figure of day 0, and a drift of it."""
    record_outcomes(scored, SHOP, day(2), "test")
    figures = [Measurement("auc", "1", 0.7), Measurement("drift_ks", "1", 0.1, clock="data")]
    replace_measurements(scored, SHOP, day(0), ["auc", "drift_ks"], figures)
    return scored


def test_a_day_of_the_window_that_comes_in_anew_changes_outcomes_and_takes_the_figures_away(recorded: Settings) -> None:
    sell(recorded, 1, purchases=[*AFTER, (1, 1, 2, "3.00")])  # BREAD was missing from the file

    report = record_outcomes(recorded, SHOP, day(3), "later")

    assert (report.corrected, report.score_dates) == ((day(0),), (day(0),))
    assert outcomes(recorded)[1] == (1, 2, "BREAD", True, 3.0)
    assert [row["metric"] for row in rows_of(recorded, tables.METRICS)] == ["drift_ks"]
    assert record_outcomes(recorded, SHOP, day(3), "again").corrected == ()


def test_a_day_outside_the_window_or_without_other_labels_corrects_nothing(recorded: Settings) -> None:
    sell(recorded, 1, 3, purchases=[*AFTER, (3, 1, 2, "8.00")])

    assert record_outcomes(recorded, SHOP, day(4), "later").corrected == ()
    assert [row["metric"] for row in rows_of(recorded, tables.METRICS)] == ["auc", "drift_ks"]


def test_labels_are_corrected_for_31_days_and_no_longer(recorded: Settings) -> None:
    sell(recorded, 1, purchases=[*AFTER, (1, 1, 2, "3.00")])

    assert record_outcomes(recorded, SHOP, day(2 + 32), "too late").corrected == ()
    assert record_outcomes(recorded, SHOP, day(2 + 31), "in time").corrected == (day(0),)
