"""The queries of the page on a model's health: of one use case, as of one date."""

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa

from pipelines import tables
from pipelines.contracts import CORE_TRANSACTIONS
from pipelines.measurements import ALERT, DATA, EVERYTHING, LABEL, PREDICTION, WARN

WEEKS, LISTED, SIGNALS = 26, 12, 40
DETECTABLE = ("drift_detectable", "shift_detectable")  # metrics whose slice is the metric and slice that they are of
_METRICS, _FOUND, _MOVES = tables.METRICS.c, tables.FINDINGS.c, tables.PROMOTION_LOG.c
_PUBLISHED, _INGESTED = tables.PUBLISH_LOG.c, tables.INGEST_LOG.c
_KPIS, _WEEKS = tables.KPI_DAILY.c, tables.KPI_WEEKLY.c
_Query = sa.Select[Any]
_Where = tuple[sa.ColumnElement[bool], ...]


def weekly(days: Iterable[date]) -> list[date]:
    """The newest date of each of the last `WEEKS` weeks, which end on the weekday of the newest date; newest first."""
    ordered = sorted(days, reverse=True)
    kept: dict[int, date] = {}
    for day in ordered:
        kept.setdefault((ordered[0] - day).days // 7, day)
    return [day for week, day in kept.items() if week < WEEKS]


class Queries:
    """What to ask for one use case about what was known at the end of a date."""

    def __init__(self, name: str, as_of: date) -> None:
        self._name, self.as_of = name, as_of
        self._first = as_of - timedelta(weeks=WEEKS + 4)  # labels come up to four weeks later

    def newest(self) -> _Query:
        """One row: the newest dates that were ingested and published."""
        return sa.select(*self._newest())

    def measured(self) -> sa.CompoundSelect[Any]:
        """Score dates that were measured, by clock: those of which one row is found; databases look for no second."""
        days = sa.select(_PUBLISHED.score_date).where(
            _PUBLISHED.use_case == self._name, _PUBLISHED.score_date.between(self._first, self.as_of)
        )
        day = days.distinct().subquery().c.score_date
        one = sa.select(sa.literal(1)).where(*self._known(), _METRICS.score_date == day)
        return sa.union_all(
            *(
                sa.select(sa.literal(clock).label("clock"), day).where(
                    one.where(_METRICS.clock == clock).limit(1).scalar_subquery() == 1
                )
                for clock in (DATA, PREDICTION, LABEL)
            )
        )

    def _known(self) -> _Where:
        """Of the metrics, those that were known at the time."""
        return _METRICS.use_case == self._name, _METRICS.known_date <= self.as_of

    def _publications(self) -> _Where:
        return (
            _PUBLISHED.use_case == self._name,
            _PUBLISHED.score_date <= self.as_of,
            _PUBLISHED.status != "refused",
        )

    def glance(self, newest: Mapping[str, date]) -> _Query:
        """One row: the newest dates, and how much is wrong."""
        serving = sa.select(_PUBLISHED.model_version).where(*self._publications())
        order = (_PUBLISHED.score_date.desc(), _PUBLISHED.publish_id.desc())
        known, data, label = self._known(), newest.get(DATA), newest.get(LABEL)
        kpi_day = sa.select(sa.func.max(_KPIS.kpi_date)).where(*self._kpis()).scalar_subquery()
        counted = {
            "quality_alerts": sa.select(sa.func.count()).where(
                *known, _METRICS.score_date == label, _METRICS.slice == EVERYTHING, *_alerts_of(LABEL)
            ),
            "signal_alerts": sa.select(sa.func.count()).where(
                *known, _METRICS.score_date == data, *_alerts_of(DATA, PREDICTION)
            ),
            "new_findings": sa.select(sa.func.count()).where(
                _FOUND.use_case == self._name, _FOUND.finding_date.between(data or self._first, self.as_of)
            ),
            "kpi_alerts": sa.select(sa.func.count()).where(
                *self._kpis(), _KPIS.kpi_date == kpi_day, _KPIS.status == ALERT
            ),
            "open_incidents": sa.select(sa.func.count()).where(*self._open()),
        }
        return sa.select(
            *self._newest(),
            serving.order_by(*order).limit(1).scalar_subquery().label("model_version"),
            self._day_of(LABEL, label).label("quality_date"),
            self._day_of(DATA, data).label("signals_date"),
            kpi_day.label("kpi_date"),
            *(query.scalar_subquery().label(name) for name, query in counted.items()),
        )

    def _newest(self) -> tuple[sa.Label[Any], sa.Label[Any]]:
        ingested = (_INGESTED.table_name == CORE_TRANSACTIONS.name, _INGESTED.business_date <= self.as_of)
        return (
            sa.select(sa.func.max(_PUBLISHED.score_date)).where(*self._publications()).label("published_date"),
            sa.select(sa.func.max(_INGESTED.business_date)).where(*ingested).label("ingested_date"),
        )

    def _day_of(self, clock: str, day: date | None) -> sa.ScalarSelect[Any]:
        where = (*self._known(), _METRICS.clock == clock, _METRICS.score_date == day)
        return sa.select(sa.func.max(_METRICS.score_date)).where(*where).scalar_subquery()

    def _open(self) -> _Where:
        up_to, of = self.as_of, tables.INCIDENTS.c
        closed_later = sa.or_(of.resolved_date.is_(None), of.resolved_date > up_to)
        return of.use_case == self._name, of.first_date <= up_to, closed_later

    def incidents(self) -> _Query:
        """What is open at the date."""
        names = ("kind", "subject", "first_date", "last_date", "cause", "meaning", "remedy")
        of = tables.INCIDENTS.c
        return sa.select(*(of[name] for name in names)).where(*self._open()).order_by(of.first_date, of.incident_id)

    def findings(self) -> _Query:
        """What was found, newest first."""
        names = ("finding_date", "cause", "action", "told", "metric", "slice", "source", "first_date")
        figures = ("value", "reference", "threshold")
        return (
            sa.select(*(_FOUND[name] for name in (*names, *figures)))
            .where(_FOUND.use_case == self._name, _FOUND.finding_date.between(self._first, self.as_of))
            .order_by(_FOUND.finding_date.desc(), _FOUND.metric, _FOUND.slice)
            .limit(LISTED)
        )

    def quality(self, days: Mapping[str, set[date]]) -> _Query:
        """Figures over everything of what readers saw, of one date a week, on the clocks of labels and predictions."""
        names = ("score_date", "metric", "model_version", "value", "low", "high", "reference", "threshold", "status")
        newest = sa.select(sa.func.max(_PUBLISHED.publish_id)).where(*self._publications())
        seen = sa.select(_PUBLISHED.score_date, _PUBLISHED.model_version).where(
            _PUBLISHED.publish_id.in_(newest.group_by(_PUBLISHED.score_date))
        )
        weeks = {clock: weekly(days.get(clock, ())) for clock in (LABEL, PREDICTION)}
        of_weeks = [sa.and_(_METRICS.clock == clock, _METRICS.score_date.in_(shown)) for clock, shown in weeks.items()]
        return (
            sa.select(*(_METRICS[name] for name in names))
            .where(
                *self._known(),
                _METRICS.score_date.in_(sorted({day for shown in weeks.values() for day in shown})),
                sa.or_(*of_weeks),
                _METRICS.slice == EVERYTHING,
                sa.tuple_(_METRICS.score_date, _METRICS.model_version).in_(seen),
            )
            .order_by(_METRICS.metric, _METRICS.score_date)
        )

    def signals(self, newest: Mapping[str, date]) -> _Query:
        """What was measured of the newest night, the gravest first, with the least change that it can see."""
        other = tables.METRICS.alias("d")
        same = ("use_case", "score_date", "model_version")
        names = ("score_date", "clock", "metric", "slice", "value", "reference", "threshold")
        nights = [sa.and_(_METRICS.clock == clock, _METRICS.score_date == day) for clock, day in newest.items()]
        of_part = sa.and_(  # those over everything have a chart
            _METRICS.slice != EVERYTHING, sa.or_(_METRICS.clock != LABEL, _METRICS.status.in_((ALERT, WARN)))
        )
        is_shown = sa.or_(_METRICS.clock == DATA, of_part)
        gravest = sa.case((_METRICS.status == ALERT, 0), (_METRICS.status == WARN, 1), else_=2)
        subject = other.c.slice == _METRICS.metric + " " + _METRICS.slice
        joined = sa.and_(other.c.metric.in_(DETECTABLE), subject, *(other.c[name] == _METRICS[name] for name in same))
        return (
            sa.select(*(_METRICS[name] for name in names), other.c.value.label("detectable"), _METRICS.status)
            .select_from(tables.METRICS.outerjoin(other, joined))
            .where(
                *self._known(),
                _METRICS.score_date.in_(sorted(set(newest.values()))),
                sa.or_(sa.false(), *nights),
                _METRICS.metric.not_in(DETECTABLE),
                is_shown,
            )
            .order_by(gravest, _METRICS.metric, _METRICS.slice)
            .limit(SIGNALS)
        )

    def _kpis(self) -> _Where:
        return _KPIS.use_case == self._name, _KPIS.kpi_date <= self.as_of

    def newest_kpis(self) -> _Query:
        """All figures of the newest day."""
        names = ("kpi", "kpi_date", "value", "unit", "low", "high", "reference", "band_low", "band_high", "status")
        newest = sa.select(sa.func.max(_KPIS.kpi_date)).where(*self._kpis()).scalar_subquery()
        return (
            sa.select(*(_KPIS[name] for name in (*names, "owner", "meaning")))
            .where(_KPIS.use_case == self._name, _KPIS.kpi_date == newest)
            .order_by(_KPIS.kpi)
        )

    def kpi_weeks(self) -> _Query:
        """All figures of the last weeks, oldest first."""
        names = ("kpi_date", "kpi", "value", "unit", "low", "high", "reference", "band_low", "band_high", "status")
        first = self.as_of - timedelta(weeks=WEEKS)
        return (
            sa.select(*(_WEEKS[name] for name in (*names, "owner", "meaning")))
            .where(_WEEKS.use_case == self._name, _WEEKS.kpi_date.between(first, self.as_of))
            .order_by(_WEEKS.kpi, _WEEKS.kpi_date)
        )

    def served(self) -> _Query:
        """From which score date on readers saw another version, in the order of publication, and by which decision."""
        before = sa.func.lag(_PUBLISHED.model_version).over(order_by=_PUBLISHED.publish_id)
        each = (
            sa.select(_PUBLISHED.publish_id, _PUBLISHED.score_date, _PUBLISHED.model_version, before.label("before"))
            .where(*self._publications(), _PUBLISHED.score_date > self._first)
            .subquery("published")
        )
        newest = (
            sa.select(_MOVES.from_version, _MOVES.to_version, sa.func.max(_MOVES.promotion_id).label("promotion_id"))
            .where(_MOVES.use_case == self._name, _MOVES.is_promoted)
            .group_by(_MOVES.from_version, _MOVES.to_version)
            .subquery("newest")
        )
        move = tables.PROMOTION_LOG
        changed = sa.and_(newest.c.to_version == each.c.model_version, newest.c.from_version == each.c.before)
        return (
            sa.select(each.c.score_date, each.c.model_version, each.c.before, move.c.action)
            .select_from(each.outerjoin(newest, changed).outerjoin(move, move.c.promotion_id == newest.c.promotion_id))
            .where(each.c.before != each.c.model_version)
            .order_by(each.c.publish_id.desc())
            .limit(LISTED)
        )

    def promotions(self) -> _Query:
        """What was decided on versions, newest first."""
        names = ("recorded_at", "action", "from_version", "to_version", "is_promoted", "actor", "reason")
        chosen = sa.select(*(_MOVES[name] for name in names)).where(_MOVES.use_case == self._name)
        return chosen.order_by(_MOVES.promotion_id.desc()).limit(LISTED)

    def decisions(self) -> _Query:
        """What was decided on retraining, newest first."""
        names = ("decision_date", "action", "model_version", "reason", "gain_usd", "cost_usd")
        of = tables.RETRAIN_DECISIONS.c
        chosen = sa.select(*(of[name] for name in names))
        mine = (of.use_case == self._name, of.decision_date <= self.as_of)
        return chosen.where(*mine).order_by(of.decision_date.desc()).limit(LISTED)


def _alerts_of(*clocks: str) -> _Where:
    return _METRICS.clock.in_(clocks), _METRICS.status == ALERT
