"""The backtest judges champions on weeks that lie after everything they have seen."""

from datetime import date

import pytest
from toy import USE_CASE

from pipelines import warehouse
from pipelines.backtest import Judged, WalkReport, WeekReport, as_markdown, backtest, served, walk_forward, weekly
from pipelines.metrics import Interval, Quality
from pipelines.use_cases import load_use_cases

FIRST, SECOND = date(2017, 10, 22), date(2017, 11, 5)  # Sundays, two weeks apart


def test_each_champion_serves_from_its_training_date_until_the_next():
    dates = weekly(date(2017, 7, 16), date(2017, 9, 3))

    assert served(date(2017, 7, 16), dates, 4) == {
        date(2017, 7, 16): [date(2017, 7, 16), date(2017, 7, 23), date(2017, 7, 30), date(2017, 8, 6)],
        date(2017, 8, 13): [date(2017, 8, 13), date(2017, 8, 20), date(2017, 8, 27), date(2017, 9, 3)],
    }


def test_dates_before_the_second_training_are_the_first_champions():
    assert served(date(2017, 7, 2), [date(2017, 7, 23), date(2017, 7, 30)], 4) == {
        date(2017, 7, 2): [date(2017, 7, 23)],
        date(2017, 7, 30): [date(2017, 7, 30)],
    }


def test_the_table_has_a_line_for_each_week_and_one_for_all():
    ours = Quality(0.78, 0.23, 0.004, 0.39, 0.33, 0.4991, 0.9, 0.31)
    rule = Quality(0.77, None, None, 0.38, 0.32, 0.4911, 0.89, 0.3)
    judged = Judged(ours, rule, Interval(0.008, 0.0064, 0.0098))
    week = WeekReport(date(2017, 11, 19), date(2017, 11, 12), "blend", "recency", judged)

    lines = as_markdown(USE_CASE, WalkReport((week,), judged)).splitlines()

    figures = "0.4991 | 0.7800 | 0.0040"
    assert lines[0].startswith("| score date | trained | model | NDCG@3 |")
    assert lines[2] == (
        f"| 2017-11-19 | 2017-11-12 | blend | {figures} | recency | 0.4911 | +0.0080 | [+0.0064, +0.0098] |"
    )
    assert lines[3].startswith(f"| **all** | – | – | {figures} |")
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.slow
def test_a_walk_judges_each_week_with_the_champion_and_the_rule_of_its_time(year_copy):
    home = year_copy(use_cases=["toy"])
    warehouse.create_tables(home, list(load_use_cases(home).values()))
    toy = load_use_cases(home)[USE_CASE.name]

    report = walk_forward(home, toy, served(FIRST, weekly(FIRST, date(2017, 11, 12)), 2))

    assert [(week.score_date, week.train_as_of) for week in report.weeks] == [
        (FIRST, FIRST),
        (date(2017, 10, 29), FIRST),
        (SECOND, SECOND),
        (date(2017, 11, 12), SECOND),
    ]
    alone = backtest(home, toy, SECOND, [date(2017, 11, 12)])
    last = report.weeks[-1]
    assert last.judged.champion == alone.quality[last.model]
    assert last.judged.rule == alone.quality[last.rule]
    gains = [week.judged.gain.difference for week in report.weeks]
    assert min(gains) < report.judged.gain.difference < max(gains)
    width = report.judged.gain.high - report.judged.gain.low
    assert width < min(week.judged.gain.high - week.judged.gain.low for week in report.weeks)
