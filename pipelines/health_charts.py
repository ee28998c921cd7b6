"""Charts of a model's health as SVG inside the page: no script, the reader's colours, and told in words too."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from pipelines.measurements import ALERT

mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "nightjar"}  # text stays text; the same rows, the same bytes
_ROLES = ("ink", "figure", "rule", "band", "limit", "alert", "mark", "estimate")
_COLOURS = {role: f"#0a0b{number:02x}" for number, role in enumerate(_ROLES, start=16)}  # the page's style says which
_ID = re.compile(r'(\bid="|url\(#|href="#)')
_START = re.compile(r".*?<svg [^>]*?(viewBox=\"[^\"]*\")[^>]*>(?:\s*<metadata>.*?</metadata>)?", re.DOTALL)
_STYLE = re.compile(r"<defs>\s*<style[^>]*>.*?</style>\s*</defs>", re.DOTALL)
_TICKS = 3


@dataclass(frozen=True)
class Points:
    """A figure over time, a row for each date; `day` is the rows' column of dates. Bands are two columns or one."""

    day: str
    rows: Sequence[Mapping[str, Any]]
    estimates: Sequence[Mapping[str, Any]] = ()

    def column(self, name: str) -> list[float]:
        """Values of a column; what is missing is not a number."""
        return [float("nan") if row.get(name) is None else row[name] for row in self.rows]

    @property
    def days(self) -> list[int]:
        """The dates, counted in days."""
        return [row[self.day].toordinal() for row in self.rows]


def draw(name: str, points: Points, marks: Mapping[date, str]) -> str:
    """The chart as an `<svg>` element: figure and 95 % interval, the rule, the band or limit, and marks on dates."""
    figure = Figure(figsize=(4.4, 2.3))
    axes = figure.add_axes((0.13, 0.13, 0.85, 0.75))
    _draw_expected(axes, points)
    _draw_figure(axes, points)
    days = [*points.days, *(row[points.day].toordinal() for row in points.estimates)]
    first, last = min(days), max(days)
    reach = {day: told for day, told in marks.items() if first <= day.toordinal() <= last}
    for day, told in reach.items():
        axes.axvline(day.toordinal(), color=_COLOURS["mark"], linewidth=1.2, linestyle=(0, (5, 2)))
        place = (day.toordinal(), 1.02)
        axes.annotate(told, place, xycoords=("data", "axes fraction"), ha="center", color=_COLOURS["mark"], fontsize=8)
    _dress(axes, first, last)
    drawn = io.BytesIO()
    FigureCanvasSVG(figure)
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return _embed(drawn.getvalue().decode(), name, tell(name, points, reach))


def tell(name: str, points: Points, marks: Mapping[date, str]) -> str:
    """The chart in words, for those who do not see it."""
    if not points.rows:
        return f"{len(points.estimates)} estimates, and no figure yet"
    newest, oldest = points.rows[-1], points.rows[0]
    known = [row["value"] for row in points.rows if row["value"] is not None]
    spread = f", between {min(known):.4g} and {max(known):.4g}" if known else ""
    rule = f"; it is held against {newest['reference']:.4g}" if newest.get("reference") is not None else ""
    value = "not known" if newest["value"] is None else f"{newest['value']:.4g}"
    alerts = sum(row["status"] == ALERT for row in points.rows)
    told = f"{len(points.rows)} dates from {oldest[points.day]} to {newest[points.day]}{spread}. "
    told += f"The newest is {value}{rule}. Alerts: {alerts}."
    return told + "".join(f" {day}: {what}." for day, what in sorted(marks.items()))


def _draw_expected(axes: Axes, points: Points) -> None:
    """What the figure is held against: the band of what is usual, the limit, the rule."""
    days, low, high = points.days, points.column("band_low"), points.column("band_high")
    axes.fill_between(days, low, high, color=_COLOURS["band"], linewidth=0, alpha=0.25)
    for name, role, style in (("threshold", "limit", (0, (1, 1.5))), ("reference", "rule", (0, (4, 2)))):
        axes.plot(days, points.column(name), color=_COLOURS[role], linewidth=1.3, linestyle=style)


def _draw_figure(axes: Axes, points: Points) -> None:
    days, values = points.days, points.column("value")
    axes.fill_between(
        days, points.column("low"), points.column("high"), color=_COLOURS["figure"], linewidth=0, alpha=0.2
    )
    axes.plot(days, values, color=_COLOURS["figure"], linewidth=1.8, marker="o", markersize=3)
    wrong = [(day, row["value"]) for day, row in zip(days, points.rows, strict=True) if row["status"] == ALERT]
    if wrong := [(day, value) for day, value in wrong if value is not None]:
        axes.plot(*zip(*wrong, strict=True), color=_COLOURS["alert"], linestyle="", marker="D", markersize=6)
    if points.estimates:
        found = [(row[points.day].toordinal(), row["value"]) for row in points.estimates if row["value"] is not None]
        axes.plot(*zip(*found, strict=True), color=_COLOURS["estimate"], linewidth=1.2, linestyle="--")


def _dress(axes: Axes, first: int, last: int) -> None:
    """Dates below, few numbers at the side, and nothing else."""
    steps = sorted({round(first + (last - first) * step / (_TICKS - 1)) for step in range(_TICKS)})
    axes.set_xticks(steps, [date.fromordinal(day).isoformat() for day in steps])
    axes.locator_params(axis="y", nbins=5)
    axes.tick_params(colors=_COLOURS["ink"], labelsize=8, length=3)
    labels = axes.get_xticklabels()
    if len(labels) > 1:  # those at the ends stay inside
        labels[0].set_horizontalalignment("left")
        labels[-1].set_horizontalalignment("right")
    for side, spine in axes.spines.items():
        spine.set(visible=side in ("left", "bottom"), color=_COLOURS["ink"], linewidth=0.6)
    axes.patch.set_visible(False)
    axes.figure.patch.set_visible(False)


def _embed(svg: str, name: str, told: str) -> str:
    """An element whose ids are its own on the page, and whose colours are the page's."""
    prefix = re.sub(r"\W", "-", name)
    started = _START.match(svg)
    body = _STYLE.sub("", svg[started.end() if started else 0 :])
    body = _ID.sub(rf"\g<1>{prefix}-", body)
    for role, colour in _COLOURS.items():
        body = body.replace(colour, f"var(--{role})")
    head = f'<svg class="chart" role="img" {started.group(1) if started else ""} '
    head += f'aria-labelledby="{prefix}-title {prefix}-told">'
    words = f'<title id="{prefix}-title">{escape(name)}</title><desc id="{prefix}-told">{escape(told)}</desc>'
    return head + words + body
