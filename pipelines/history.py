"""Checks of a day's kept transactions against the same weekday's history."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from math import exp
from typing import TYPE_CHECKING

import duckdb

from pipelines.checks import Check

if TYPE_CHECKING:
    from expectations.transactions import Band

HISTORY_DAYS = 56  # eight of each weekday
_AMOUNTS = ("sales_usd", "item_qty", "retail_discount_usd", "coupon_discount_usd", "coupon_match_discount_usd")
_MIX = "department_mix_distance"
_UNEVEN_LINES = 30
_SAME_WEEKDAY = f"""PARTITION BY measure, dayofweek(business_date) ORDER BY business_date
    RANGE BETWEEN INTERVAL {HISTORY_DAYS} DAY PRECEDING AND INTERVAL 1 DAY PRECEDING"""
_MEASURED = f"""
WITH lines AS (SELECT * FROM history UNION ALL BY NAME SELECT * FROM kept), days AS (
    SELECT business_date, count(*)::DOUBLE AS lines, count(DISTINCT household_id)::DOUBLE AS active_households,
        count(DISTINCT basket_id)::DOUBLE AS baskets, sum(sales_usd)::DOUBLE AS sales_usd,
        (sum(sales_usd) / count(DISTINCT basket_id))::DOUBLE AS sales_usd_per_basket
    FROM lines GROUP BY ALL
), amounts AS (
    SELECT business_date, name, amount, count(*) AS lines
    FROM (UNPIVOT lines ON {", ".join(f"{name}::DECIMAL(21, 2) AS {name}" for name in _AMOUNTS)}
        INTO NAME name VALUE amount) GROUP BY ALL
), shares AS (
    SELECT business_date, name, coalesce(sum(lines) FILTER (amount = 0), 0) / sum(lines) AS zero,
        coalesce(max(lines) FILTER (amount <> 0), 0) / sum(lines) AS repeated
    FROM amounts GROUP BY ALL
), discounted AS (
    SELECT business_date, count(*) AS lines, count(*) FILTER (retail_discount_usd = 0) AS zero
    FROM lines GROUP BY business_date, store_id, product_id HAVING lines > zero AND lines > 1
), revenue AS (
    SELECT business_date, coalesce(department, '') AS department, sum(sales_usd)::DOUBLE AS usd
    FROM lines LEFT JOIN products_known USING (product_id) GROUP BY ALL
), pooled AS (
    SELECT day.business_date, earlier.department, sum(earlier.usd) AS usd
    FROM days AS day JOIN revenue AS earlier
        ON earlier.business_date BETWEEN day.business_date - {HISTORY_DAYS} AND day.business_date - 1
        AND dayofweek(earlier.business_date) = dayofweek(day.business_date)
    GROUP BY ALL
), mix AS (
    SELECT business_date, 1 - sum(least(own.share, usual.share)) AS distance
    FROM (SELECT *, usd / nullif(sum(usd) OVER (PARTITION BY business_date), 0) AS share FROM revenue) AS own
    JOIN (SELECT *, usd / nullif(sum(usd) OVER (PARTITION BY business_date), 0) AS share FROM pooled) AS usual
        USING (business_date, department)
    GROUP BY ALL
), measured AS (
    FROM (UNPIVOT days ON COLUMNS(* EXCLUDE business_date) INTO NAME measure VALUE found)
    UNION ALL SELECT business_date, name || '_zero_share', zero FROM shares
    UNION ALL SELECT business_date, name || '_repeated_share', repeated FROM shares
    UNION ALL SELECT business_date, 'retail_discount_usd_uneven_share', sum(zero) / sum(lines)
        FROM discounted GROUP BY ALL HAVING sum(lines) >= {_UNEVEN_LINES}
    UNION ALL SELECT business_date, '{_MIX}', distance FROM mix
)
SELECT *, coalesce(median(found) OVER same, 0) AS usual, coalesce(mad(found) OVER same, 0) AS spread,
    count(found) OVER same AS known
FROM measured WHERE found IS NOT NULL WINDOW same AS ({_SAME_WEEKDAY})"""
_JUDGED = f"SELECT * FROM ({_MEASURED}) WHERE list_contains($days, business_date) ORDER BY business_date, measure"


@dataclass(frozen=True)
class _Figure:
    """A measure of a day, and its median, MAD and number of values on the same weekday before."""

    day: date
    measure: str
    found: float
    usual: float
    spread: float
    known: int


def history_checks(connection: duckdb.DuckDBPyConnection, days: Sequence[date]) -> dict[date, list[Check]]:
    """The verdict on each measure of each day; a day without lines has none.

    Reads `kept` (the days' lines) and `history` (those of the `HISTORY_DAYS` before the first of them, or none),
    both with the columns of core__transactions, and `products_known` (`product_id` once, `department`). Earlier
    days of `kept` are history of the later ones. A check blocks when its figure is beyond the wider bounds; one
    between the two bounds fails as a warning.
    """
    from expectations.transactions import HISTORY_BANDS

    figures: dict[date, dict[str, _Figure]] = defaultdict(dict)
    for row in connection.execute(_JUDGED, {"days": list(days)}).fetchall():
        figure = _Figure(*row)
        figures[figure.day][figure.measure] = figure
    return {
        day: [_judge(figures[day], measure, band) for measure, band in HISTORY_BANDS.items() if measure in figures[day]]
        for day in days
    }


def _judge(day: Mapping[str, _Figure], measure: str, band: "Band") -> Check:
    from expectations.transactions import MIN_LINES_FOR_SHARES, MIN_WEEKDAYS

    figure, lines = day[measure], day["lines"]
    weekday = f"{figure.day:%A}s"
    if lines.known < MIN_WEEKDAYS or figure.known < MIN_WEEKDAYS and measure != _MIX:
        reason = f"not judged: {min(figure.known, lines.known)} of {MIN_WEEKDAYS} {weekday} known"
        return Check(measure, True, _show(figure.found), reason, is_blocking=False)
    if lines.usual < MIN_LINES_FOR_SHARES:
        reason = f"not judged: {weekday} have fewer than {MIN_LINES_FOR_SHARES} lines"
        return Check(measure, True, _show(figure.found), reason, is_blocking=False)
    usual, spread = (0.0, 0.0) if measure == _MIX else (figure.usual, figure.spread)
    odd = _bounds(usual, spread, band.warn, band.warn_mads, band.is_ratio)
    wrong = _bounds(usual, spread, band.block, band.block_mads, band.is_ratio)
    is_odd, is_wrong = (not low <= figure.found <= high for low, high in (odd, wrong))
    expected = f"{_range(odd)}, never outside {_range(wrong)} (median of {lines.known} {weekday}: {_show(usual)})"
    return Check(measure, not (is_odd or is_wrong), _show(figure.found), expected, is_blocking=is_wrong or not is_odd)


def _bounds(usual: float, spread: float, floor: float, mads: float, is_ratio: bool) -> tuple[float, float]:
    """What lies within the floor or that many MADs of the usual value, whichever reaches farther."""
    if is_ratio:
        factor = max(floor, exp(mads * spread / usual)) if usual else floor
        return usual / factor, usual * factor
    reach = max(floor, mads * spread)
    return max(usual - reach, 0.0), min(usual + reach, 1.0)


def _range(bounds: tuple[float, float]) -> str:
    return " to ".join(_show(bound) for bound in bounds)


def _show(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
