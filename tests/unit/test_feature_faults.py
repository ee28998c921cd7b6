"""Feature faults: nights of twenty candidates that can be counted by eye, and a shop whose features go wrong."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corner_shop import LISTS, SHOP, day, keep_scores, know_features, rows_of, sell, snapshot

from pipelines import audit, lake, ledger, tables, warehouse
from pipelines.errors import AuditRefused
from pipelines.feature_faults import Move, compare_nights, feature_checks, feature_faults, moves
from pipelines.publishing import publish
from pipelines.use_case import AuditPolicy, Season

COUNTED = np.arange(20.0)
CALM = {"visits": Move(nulls=0.0, value=0.02, same=0.5, shape=0.02)}
LIVELY = {"visits": Move(nulls=0.01, value=0.06, same=0.7, shape=0.04)}
WEEK = [CALM] * 6 + [LIVELY]
SMALL = SHOP.model_copy(update={"audit": AuditPolicy(min_entities=1)})


def moved(before, now):
    (found,) = moves(["visits"], np.array(before, np.float32)[:, None], np.array(now, np.float32)[:, None]).values()
    return found


def found(nights=WEEK, days=1, **figures):
    """Kinds of the faults of a night that is calm but for these figures of one of three features."""
    others = ("spend", "trips")
    known = [night | dict.fromkeys(others, CALM["visits"]) for night in nights]
    now = dict.fromkeys(others, CALM["visits"]) | {"visits": CALM["visits"]._replace(**figures)}
    return {fault.kind for fault in feature_faults(now, known, days)}


def test_a_night_like_the_one_before_it_has_not_moved():
    assert moved(COUNTED, COUNTED) == Move(nulls=0, value=0, same=1, shape=0)


def test_nulls_are_counted_over_all_rows_and_are_no_shift_of_what_is_given():
    # two of twenty become null; the other eighteen are 5 on both nights
    assert moved([5] * 20, [np.nan] * 2 + [5] * 18) == Move(nulls=0.1, value=-0.1, same=0.9, shape=0)


def test_a_constant_takes_the_rows_of_others():
    # 0, 1, 2 and 3 become 19: it had one row of twenty and has five; below 4 lay a fifth of the rows and lies none
    assert moved(COUNTED, np.where(COUNTED < 4, 19, COUNTED)) == Move(nulls=0, value=0.2, same=0.8, shape=0.2)


def test_nulls_that_stay_have_kept_their_value():
    assert moved([np.nan, 1], [np.nan, 2]).same == 0.5
    assert moved([np.nan, np.nan], [np.nan, np.nan]) == Move(nulls=0, value=0, same=1, shape=0)


def test_a_feature_that_does_what_it_does_in_a_week_has_no_fault():
    assert found() == found(nulls=0.01, value=0.06, same=0.7, shape=0.04) == set()


@pytest.mark.parametrize(
    ("kind", "within", "beyond"),
    [
        ("nulls", 0.029, 0.031),  # highest .01, range .01, of seven nights twice the range
        ("value", 0.139, 0.141),  # .06 + 2 · .04
        ("same", 0.9999, 1.0),  # .7 + 2 · .2 would be all rows: it stands still
        ("shape", 0.289, 0.291),  # .04 + .25, the least distance
    ],
)
def test_each_limit_lies_twice_the_range_above_the_highest_of_a_week(kind, within, beyond):
    assert found(**{kind: within}) == set()
    assert found(**{kind: beyond}) == {kind}


def test_two_weeks_tell_more_than_one():
    # .06 + 1.5 · .04
    assert found(WEEK * 2, value=0.121) == {"value"}


def test_before_a_week_is_known_only_the_worst_counts():
    assert found(WEEK[:6], nulls=0.1, value=0.9, same=1.0, shape=0.9) == set()
    assert found([], nulls=0.11, value=1.0) == {"nulls", "value"}


def test_two_days_may_move_a_feature_twice_as_far():
    assert found(days=2, value=0.25, same=1.0) == set()
    assert found(days=2, value=0.29) == {"value"}


def test_on_a_day_on_which_nothing_happens_features_may_stand_still():
    names = ["visits", "spend", "trips"]
    week = [dict.fromkeys(names, night["visits"]) for night in WEEK]
    still = CALM["visits"]._replace(same=1.0)

    alone = feature_faults(week[0] | {"visits": still}, week)
    together = feature_faults(dict.fromkeys(names, still), week)

    assert [(fault.feature, fault.kind) for fault in alone] == [("visits", "same")]
    assert together == []


def test_a_feature_that_hardly_ever_changes_may_stand_still():
    slow = [{"visits": Move(0.0, 0.01, 0.97, 0.01)}] * 7

    assert feature_faults({"visits": Move(0.0, 0.01, 1.0, 0.01)}, slow) == []


def test_a_check_names_the_features_and_what_they_did():
    checks = feature_checks({"visits": CALM["visits"]._replace(nulls=0.05)}, WEEK)

    (failed,) = [check for check in checks if not check.success]
    assert str(failed) == "features: lost values: expected none of them, observed visits 0.050 (at most 0.030)"
    assert failed.is_blocking and len(checks) == 4


@pytest.fixture
def shop(settings):
    """The shop after two days: household 1 buys milk, bread and beer and household 2 beer; day 0 is published."""
    bought = [(0, 1, 2, "9.00"), (0, 1, 3, "5.00"), (0, 1, 1, "1.00"), (0, 2, 3, "1.00"), (1, 1, 1, "2.00")]
    sell(settings, 0, 1, purchases=bought)
    for number in (0, 1):
        snapshot(settings, number)
        know_features(settings, number, "f1")
        keep_scores(settings, LISTS, number)
    publish(settings, SMALL, day(0), "first", "1")
    return settings


def lose(settings, number, feature):
    """Overwrite the shop's features of a day with one that has no values."""

    table = SHOP.feature_tables[0].name
    path, _ = lake.require_snapshot(settings.lake, table, day(number))

    rows = pq.read_table(path, partitioning=None)
    place = rows.column_names.index(feature)
    lake.replace_snapshot(
        settings.lake, table, rows.set_column(place, feature, pa.nulls(len(rows), pa.float32())), day(number)
    )


def test_a_night_remembers_how_its_features_moved(shop):
    publish(shop, SMALL, day(1), "second", "1")

    with warehouse.open_warehouse(shop) as connection:
        newest, first = audit.last_nights(connection, SHOP, day(2))
    # of four candidates one, (1, MILK), has another purchase and 3 $ instead of 1 $
    assert newest.figures.features["purchases"] == Move(nulls=0, value=0.25, same=0.75, shape=0.25)
    assert first.figures.features == {}


def test_a_feature_without_values_stops_the_night_and_readers_keep_the_one_before(shop):
    lose(shop, 1, "spend_usd")

    with pytest.raises(AuditRefused, match=r"lost values.*spend_usd 1\.000"):
        publish(shop, SMALL, day(1), "second", "1")

    assert {row["score_date"] for row in rows_of(shop, tables.scores_table(SHOP))} == {day(0)}
    assert rows_of(shop, tables.PUBLISH_LOG)[-1]["status"] == "refused"


def test_features_made_in_another_way_only_warn(shop):

    inputs = ledger.Inputs(core_versions={}, files="", definition="of tomorrow")
    made = ledger.Made(as_of=day(1), version="f1", content={}, inputs=inputs)
    ledger.record(shop, SHOP, ledger.FEATURES, made, "test")
    lose(shop, 1, "spend_usd")

    publish(shop, SMALL, day(1), "second", "1")

    (row,) = [row for row in rows_of(shop, tables.CHECK_LOG) if row["check_name"] == "features: lost values"]
    assert not row["is_success"] and not row["is_blocking"]


def test_in_a_known_season_a_night_may_move_a_feature_as_far_as_two(shop):
    """All but one of four candidates keep their purchases: the value 2 has risen by a quarter."""
    usual = [{"purchases": Move(0.0, 0.1, 0.9, 0.1)}] * 7  # at most .1 + .02
    fair = Season(name="Fair", first_date=day(1), last_date=day(1))

    def failed(use_case):
        _, checks = compare_nights(shop, use_case, day(0), day(1), usual)
        return [check.name for check in checks if not check.success]

    assert failed(SHOP) == ["features: stuck at one value"]
    assert failed(SHOP.model_copy(update={"calendar": (fair,)})) == ["features: stuck at one value"]
    usual[0] = {"purchases": Move(0.0, 0.13, 0.9, 0.1)}  # .13 + 2 · .03, and twice as much
    assert failed(SHOP.model_copy(update={"calendar": (fair,)})) == []
