import hashlib
import json
from datetime import date

import pytest
from object_store import Place

from pipelines.contracts import DROPS
from pipelines.errors import DateOutsideData
from pipelines.landing import land
from pipelines.settings import Settings

NEW_YEAR, CHRISTMAS = date(2017, 1, 1), date(2017, 12, 25)


@pytest.fixture(params=["folders", "s3"])
def storage(request):
    return request.getfixturevalue(request.param)


def content_of(settings: Settings) -> dict[str, bytes]:
    return {name: settings.landing.read(name) for name in settings.landing.names()}


def delivered(settings: Settings) -> dict[str, list[str]]:
    found = {contract: set() for contract in DROPS}
    for name in settings.landing.names():
        contract, folder, _ = name.split("/")
        found[contract].add(folder.removeprefix("date="))
    return {contract: sorted(days) for contract, days in found.items()}


def test_landing_the_same_dates_again_leaves_the_same_bytes(settings):
    land(settings, NEW_YEAR, date(2017, 1, 3))
    before = content_of(settings)

    land(settings, date(2017, 1, 2), date(2017, 1, 2))
    land(settings, NEW_YEAR, date(2017, 1, 3))

    assert len(before) > 20
    assert content_of(settings) == before


def test_landing_day_by_day_leaves_the_bytes_of_landing_the_range(settings, tmp_path):
    alone = Settings(home=tmp_path / "alone")
    for day in (date(2017, 2, 27), date(2017, 2, 28), date(2017, 3, 1)):
        land(alone, day, day)
    land(settings, date(2017, 2, 27), date(2017, 3, 1))

    assert content_of(alone) == content_of(settings)


def test_a_drop_is_what_its_manifest_says(settings):
    land(settings, date(2017, 1, 2), date(2017, 1, 2))

    folder = Place(settings.landing, "transactions/date=2017-01-02")
    content = (folder / "part-0.parquet").read_bytes()
    assert json.loads((folder / "manifest.json").read_text()) == {
        "drop": "transactions",
        "business_date": "2017-01-02",
        "schema_version": 1,
        "is_closed": False,
        "files": [
            {
                "name": "part-0.parquet",
                "rows": 4251,  # counted with pandas
                "bytes": len(content),
                "sha256": hashlib.sha256(content).hexdigest(),
                "encoding": "utf-8",
            }
        ],
    }
    assert (folder / "part-0.parquet").read_table().schema.equals(DROPS["transactions"].schema)


def test_reference_drops_come_on_the_dates_on_which_they_change(settings):
    land(settings, NEW_YEAR, date(2017, 1, 9))
    land(settings, date(2017, 3, 3), date(2017, 3, 3))

    week = [f"2017-01-0{day}" for day in range(1, 10)]
    assert delivered(settings) == {
        "transactions": [*week, "2017-03-03"],
        "redemptions": [*week, "2017-03-03"],
        "products": ["2017-01-01"],
        "households": ["2017-01-01"],
        "promotions": ["2017-01-01", "2017-01-02", "2017-01-09"],
        "campaigns": ["2017-01-01", "2017-03-03"],  # 24, 25, 26 began in 2016; 1 began on 3 March
        "coupons": ["2017-01-01", "2017-03-03"],
    }
    began = Place(settings.landing, "campaigns/date=2017-03-03/part-0.parquet").read_table()
    assert set(began["campaign_id"].to_pylist()) == {1}


def test_christmas_is_closed_and_the_days_around_it_are_not(settings):
    report = land(settings, date(2017, 12, 24), date(2017, 12, 26))

    closed = {
        day: json.loads(settings.landing.read(f"transactions/date=2017-12-{day}/manifest.json")) for day in (24, 25, 26)
    }
    assert {day: manifest["is_closed"] for day, manifest in closed.items()} == {
        24: False,
        25: True,
        26: False,
    }
    assert closed[25]["files"] == []
    assert not settings.landing.exists("transactions/date=2017-12-25/part-0.parquet")
    assert report.days == 3


def test_progress_counts_the_days(settings):
    seen = []

    land(settings, date(2017, 12, 24), date(2017, 12, 26), lambda done, total: seen.append((done, total)))

    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (date(2018, 1, 1), date(2018, 1, 1)),
        (date(2016, 12, 31), NEW_YEAR),
        (date(2017, 1, 2), NEW_YEAR),
    ],
    ids=["after", "before", "reversed"],
)
def test_dates_outside_the_data_are_refused_and_nothing_is_written(settings, first, last):
    with pytest.raises(DateOutsideData):
        land(settings, first, last)

    assert settings.landing.names() == []
