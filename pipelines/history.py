"""Checks of a day's kept transactions against the same weekday's history."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import date
from math import exp
from typing import TYPE_CHECKING, NamedTuple

import duckdb

from pipelines.checks import Check

if TYPE_CHECKING:
    from expectations.transactions import Band

HISTORY_DAYS = 56  # eight of each weekday
SILENT = "silent_category_share"  # the usual share of lines of the largest category without any on this day
_FEWEST_LINES = 20  # of a category of fewer usual lines a day may have none by chance
_AMOUNTS = ("sales_usd", "item_qty", "retail_discount_usd", "coupon_discount_usd", "coupon_match_discount_usd")
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
    FROM lines LEFT JOIN (SELECT product_id, max(department) AS department FROM products_known GROUP BY ALL)
        USING (product_id) GROUP BY ALL
), pooled AS (
    SELECT day.business_date, earlier.department, sum(earlier.usd) AS usd
    FROM days AS day JOIN revenue AS earlier
        ON earlier.business_date BETWEEN day.business_date - {HISTORY_DAYS} AND day.business_date - 1
        AND dayofweek(earlier.business_date) = dayofweek(day.business_date)
    GROUP BY ALL
), mix AS (
    SELECT business_date, 1 - sum(least(own.usd / nullif(own_usd, 0), pooled.usd / nullif(pooled_usd, 0))) AS distance
    FROM (SELECT *, sum(usd) OVER (PARTITION BY business_date) AS own_usd FROM revenue) AS own
    JOIN (SELECT *, sum(usd) OVER (PARTITION BY business_date) AS pooled_usd FROM pooled) AS pooled
        USING (business_date, department) GROUP BY ALL
), sold AS (
    SELECT business_date, product_category, count(*) AS lines
    FROM lines JOIN (SELECT product_id, max(product_category) AS product_category FROM products_known GROUP BY ALL)
        USING (product_id) WHERE product_category IS NOT NULL GROUP BY ALL
), categories AS (
    SELECT business_date, product_category, coalesce(sold.lines, 0) AS lines, median(coalesce(sold.lines, 0)) OVER (
        PARTITION BY product_category, dayofweek(business_date) ORDER BY business_date
        RANGE BETWEEN INTERVAL {HISTORY_DAYS} DAY PRECEDING AND INTERVAL 1 DAY PRECEDING) AS usual
    FROM (SELECT business_date FROM days) CROSS JOIN (SELECT DISTINCT product_category FROM sold)
    LEFT JOIN sold USING (business_date, product_category)
), silent AS (
    SELECT business_date, coalesce(max(usual) FILTER (lines = 0 AND usual > {_FEWEST_LINES}) / sum(usual), 0) AS share,
        arg_max(product_category, (coalesce(usual, 0), product_category)) FILTER (lines = 0) AS product_category
    FROM categories GROUP BY ALL
), measured AS (
    SELECT *, NULL AS subject FROM (UNPIVOT days ON COLUMNS(* EXCLUDE business_date) INTO NAME measure VALUE found)
    UNION ALL SELECT business_date, name || '_zero_share', zero, NULL FROM shares
    UNION ALL SELECT business_date, name || '_repeated_share', repeated, NULL FROM shares
    UNION ALL SELECT business_date, 'retail_discount_usd_uneven_share', sum(zero) / sum(lines), NULL
        FROM discounted GROUP BY ALL HAVING sum(lines) >= 30
    UNION ALL SELECT business_date, 'department_mix_distance', distance, NULL FROM mix
    UNION ALL SELECT business_date, '{SILENT}', share, product_category FROM silent
)
SELECT business_date, measure, found, subject, coalesce(median(found) OVER same, 0) AS usual,
    coalesce(mad(found) OVER same, 0) AS spread, count(found) OVER same AS known
FROM measured WHERE found IS NOT NULL WINDOW same AS ({_SAME_WEEKDAY})"""
_JUDGED = f"SELECT * FROM ({_MEASURED}) WHERE list_contains($days, business_date) ORDER BY business_date, measure"


class _Figure(NamedTuple):
    """A measure of a day, what it is about, and the median, MAD and number of its weekday's values before."""

    day: date
    measure: str
    found: float
    subject: str | None
    usual: float
    spread: float
    known: int


def history_checks(connection: duckdb.DuckDBPyConnection, days: Sequence[date]) -> dict[date, list[Check]]:
    """The verdict on each measure of each day; a day without lines has none.

    Reads `kept` (the days' lines) and `history` (those of the `HISTORY_DAYS` before the first of them, or none),
    both with the columns of core__transactions, and `products_known` (`product_id`, `department`,
    `product_category`). Earlier days of `kept` are history of the later ones. A check blocks when its figure is
    beyond the wider bounds; one between the two bounds fails as a warning.
    """
    from expectations.transactions import HISTORY_BANDS

    figures: dict[date, dict[str, _Figure]] = defaultdict(dict)
    for figure in map(_Figure._make, connection.execute(_JUDGED, {"days": list(days)}).fetchall()):
        figures[figure.day][figure.measure] = figure
    return {
        day: [_judge(figures[day], measure, band) for measure, band in HISTORY_BANDS.items() if measure in figures[day]]
        for day in days
    }


def _judge(day: Mapping[str, _Figure], measure: str, band: "Band") -> Check:
    from expectations.transactions import MIN_LINES_FOR_SHARES, MIN_WEEKDAYS

    figure, lines = day[measure], day["lines"]
    if measure in ("department_mix_distance", SILENT):  # compares with the weekday's history by itself
        figure = figure._replace(usual=0.0, spread=0.0, known=lines.known)
    found, weekday = _show(figure.found), f"{figure.day:%A}s"
    found += f" ({figure.subject})" if figure.subject and figure.found else ""
    if figure.known < MIN_WEEKDAYS or lines.usual < MIN_LINES_FOR_SHARES:
        why = f"{figure.known} {weekday} of {lines.usual:,.0f} lines known"
        return Check(measure, True, found, f"not judged: {why}", is_blocking=False)
    odd = _bounds(figure, band.warn, band.warn_mads, band.is_ratio)
    wrong = _bounds(figure, band.block, band.block_mads, band.is_ratio)
    is_odd, is_wrong = (not low <= figure.found <= high for low, high in (odd, wrong))
    within, never = (" to ".join(map(_show, bounds)) for bounds in (odd, wrong))
    expected = f"{within}, never outside {never} (median of {figure.known} {weekday}: {_show(figure.usual)})"
    return Check(measure, not (is_odd or is_wrong), found, expected, is_blocking=is_wrong or not is_odd)


def _bounds(figure: _Figure, floor: float, mads: float, is_ratio: bool) -> tuple[float, float]:
    """What lies within the floor or that many MADs of the usual value, whichever reaches farther."""
    if is_ratio:
        factor = max(floor, exp(mads * figure.spread / figure.usual)) if figure.usual else floor
        return figure.usual / factor, figure.usual * factor
    reach = max(floor, mads * figure.spread)
    return max(figure.usual - reach, 0.0), min(figure.usual + reach, max(floor, 1.0))


def _show(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.4g}"
