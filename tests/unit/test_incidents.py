"""Incidents: one row for as long as the same thing is wrong, and a new one when it comes back."""

import pytest
from corner_shop import SHOP, day, log, rows_of

from pipelines import tables
from pipelines.incidents import Incident, open_incident, resolve

pytestmark = pytest.mark.usefixtures("database")

DOWN = Incident("registry down", "model corner_shop", "refused", "readers see a copy's scores", "start it")
REFUSED = Incident("champion refused", "model corner_shop", "flipped", "readers see a copy's scores", "restore it")
KINDS = (DOWN.kind, REFUSED.kind)


@pytest.fixture
def shop(settings):
    log(settings)
    return settings


def seen(shop):
    told = ("kind", "first_date", "last_date", "resolved_date")
    return [tuple(row[name] for name in told) for row in rows_of(shop, tables.INCIDENTS)]


def test_ten_nights_with_the_same_cause_are_one_row_in_any_order(shop):
    news = [open_incident(shop, SHOP, day(number), DOWN, "r") for number in (3, 1, 2, *range(4, 11), 4)]

    assert news == [True, *[False] * 10]
    assert seen(shop) == [("registry down", day(1), day(10), None)]


def test_what_is_resolved_and_comes_back_is_a_row_of_its_own(shop):
    open_incident(shop, SHOP, day(1), DOWN, "r")

    assert resolve(shop, SHOP, day(2), KINDS) == 1
    assert open_incident(shop, SHOP, day(5), DOWN, "r")
    assert seen(shop) == [("registry down", day(1), day(1), day(2)), ("registry down", day(5), day(5), None)]


def test_another_cause_takes_the_place_of_the_former(shop):
    open_incident(shop, SHOP, day(1), DOWN, "r")
    open_incident(shop, SHOP, day(2), REFUSED, "r")

    assert resolve(shop, SHOP, day(2), KINDS, but=REFUSED) == 1
    assert seen(shop) == [("registry down", day(1), day(1), day(2)), ("champion refused", day(2), day(2), None)]


def test_a_night_before_the_last_that_it_concerns_resolves_nothing(shop):
    open_incident(shop, SHOP, day(5), DOWN, "r")

    assert resolve(shop, SHOP, day(4), KINDS) == 0
    assert resolve(shop, SHOP, day(9), ("other kinds",)) == 0
    assert resolve(shop, SHOP.model_copy(update={"name": "other"}), day(9), KINDS) == 0
    assert resolve(shop, SHOP, day(5), KINDS) == 1
