"""The parts of the monitor's backtest, on numbers that a person can check."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest
from corner_shop import SHOP

from pipelines.monitor_backtest import HalfReport, _incidents, champions_of, plan_year
from pipelines.monitor_backtest_concept import (
    deal_entities,
    deal_item,
    draw_entities,
    draw_items,
    reverse_item,
    swap_items,
)
from pipelines.monitor_backtest_data import Found
from pipelines.monitor_backtest_features import spoilt
from pipelines.monitor_backtest_report import aims, false_pages, share_found
from pipelines.monitor_backtest_rules import expected_auc, is_beyond_three_deviations, stability_index

DAY = date(2017, 7, 3)
PAGE = "covariate shift"


def found(*causes: str, trial: str = "price rise") -> Found:
    return Found(trial, "+20 %", "A", DAY, 0, causes)


def test_the_delay_is_that_of_the_first_page_and_its_cause_is_what_counts():
    assert found(PAGE, "").delay == 1
    assert found("", PAGE).delay == 2
    assert found("", "").delay is None
    assert found("", PAGE).cause == "covariate shift"


def test_the_share_found_counts_what_was_found_in_time():
    tried = [found(PAGE), found("", PAGE), found(""), found(PAGE, trial="another")]
    assert share_found(tried, {("price rise", "+20 %")}, 1) == pytest.approx(1 / 3)
    assert share_found(tried, {("price rise", "+20 %")}, 2) == pytest.approx(2 / 3)
    assert share_found(tried, {("nothing", "")}, 2) is None


def test_pages_of_one_run_of_nights_are_one_incident():
    nights = [date(2017, 7, day) for day in (3, 4, 10, 20)]
    assert _incidents(nights) == [date(2017, 7, 3), date(2017, 7, 20)]
    assert false_pages(HalfReport("A", 10, nights=365, pages=_incidents(nights))) == pytest.approx(0.5, abs=0.01)


def test_the_last_champion_serves_to_the_end():
    champions = champions_of(plan_year(1))
    assert [len(days) for days in champions.values()] == [8, 8, 8, 12]
    assert all(day >= trained for trained, days in champions.items() for day in days)


def test_the_index_of_stability_is_that_of_the_shares():
    reference = np.arange(100.0)
    assert stability_index(reference, reference) == 0
    halves = np.repeat([0.0, 99.0], 50)  # half in the first tenth, half in the last: .5 against .1, else nothing
    expected = 2 * (0.4 * np.log(5)) + 8 * ((1e-4 - 0.1) * np.log(1e-4 / 0.1))
    assert stability_index(reference, halves) == pytest.approx(expected, rel=0.05)


def test_sure_scores_promise_a_perfect_ranking_and_equal_ones_none():
    assert expected_auc(np.array([0.0, 0.0, 1.0])) == 1
    assert expected_auc(np.full(4, 0.5)) == pytest.approx(0.5)
    assert is_beyond_three_deviations([1.0, 2.0, 3.0], 6.1)
    assert not is_beyond_three_deviations([1.0, 2.0, 3.0], 4.9)


def scored() -> pa.Table:
    rows = [(1, "MILK", True), (1, "BREAD", False), (2, "MILK", False), (2, "BREAD", True), (3, "MILK", True)]
    names = ("household_id", "product_category", "is_positive")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return pa.table({**columns, "is_candidate": [True] * 5, "score": [0.5] * 5})


def test_swapped_items_take_each_others_buyers():
    swapped = swap_items(SHOP, scored(), ["MILK", "BREAD"], np.random.default_rng(1))
    assert swapped.to_pylist() == [False, True, True, False, False]


def test_a_reversed_item_is_bought_by_those_who_did_not():
    told = reverse_item(SHOP, scored(), ["BREAD"], np.random.default_rng(1)).to_pylist()
    assert told == [True, True, False, False, True]


def test_an_item_that_is_dealt_anew_keeps_its_number_of_buyers_and_others_their_own():
    told = [deal_item(SHOP, scored(), ["MILK"], np.random.default_rng(seed)).to_pylist() for seed in range(9)]
    assert {(sum(one[::2]), *one[1::2]) for one in told} == {(2, False, True)}
    assert len({tuple(one) for one in told}) == 3


def test_who_shifts_taste_buys_as_much_of_other_things():
    dealt = [deal_entities(SHOP, scored(), [1, 2], np.random.default_rng(seed)).to_pylist() for seed in range(9)]
    assert {(sum(one[:2]), sum(one[2:4]), one[4]) for one in dealt} == {(1, 1, True)}
    assert len({tuple(one) for one in dealt}) == 4
    nobody = deal_entities(SHOP, scored(), [], np.random.default_rng(3))
    assert nobody.to_pylist() == scored().column("is_positive").to_pylist()


def test_the_same_seed_hits_the_same_and_another_somebody_else():
    def drawn(seed: int) -> list[list]:
        generator = np.random.default_rng(seed)
        return [draw_items(1)(SHOP, scored(), generator), draw_entities(0.5)(SHOP, scored(), generator)]

    assert drawn(1) == drawn(1)
    assert len({str(drawn(seed)) for seed in range(9)}) > 2
    assert draw_entities(1.0)(SHOP, scored(), np.random.default_rng(1)) == [1, 2, 3]


def test_a_spoilt_column_is_null_or_stuck_where_it_was_chosen():
    column, chosen = np.arange(11, dtype=np.float32), np.arange(11) < 2
    assert np.isnan(spoilt(column, chosen, "null")).sum() == 2
    assert spoilt(column, chosen, "stuck at one value").tolist() == [9, 9, *range(2, 11)]


def test_a_missed_aim_is_shown_as_missed():
    report = HalfReport("A", 10, nights=365, pages=[DAY] * 8, figure_weeks=100, false_figure_weeks=0)
    verdicts = {one.measure: one.verdict for one in aims(SHOP, [report])}
    assert verdicts["false pages per quarter, untouched nights"] == "**no**"
    assert verdicts["untouched feature-weeks that page"] == "yes"
    assert verdicts["concept, fainter: found within two matured windows"] == "–"
