"""Retention: each layer loses what is older than it keeps, what a step needs stays, and leftovers go."""

import os
from datetime import date, datetime, timedelta

import corner_shop as shop
import deltalake
import pyarrow as pa
import pytest

from pipelines import lake, tables
from pipelines.contracts import QUARANTINE_TRANSACTIONS
from pipelines.errors import InvalidSetting, MissingPartition
from pipelines.retention import clean
from pipelines.settings import Settings, load_settings

pytestmark = pytest.mark.usefixtures("database")

NOW = 40  # day of the shop at which the janitor comes
KEPT = {"landing": 10, "quarantine": 11, "scores": 12, "snapshots": 94, "published": 13, "pages": 14, "logs": 15}


@pytest.fixture
def home(settings):
    shop.sell(settings, *range(NOW + 1), purchases=[(n, 1, 1, "1.00") for n in range(NOW + 1)])
    days = {f"keep_{name}_days": days for name, days in KEPT.items()}
    # the registered use case would need longer scores than the shop does
    return settings.model_copy(update=days | {"keep_scores_days": 17, "keep_published_days": 18})


def dates_of(home, table, partition):
    return [(day - shop.DAY).days for day in lake.dates_of(home.lake, table, partition)]


def put(path, text="x", *, day=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if day is not None:
        noon = datetime.combine(shop.day(day), datetime.min.time()).timestamp() + 12 * 3600
        os.utime(path, (noon, noon))
    return path


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.attack("S18")
def test_each_layer_keeps_the_days_that_its_setting_says_and_a_second_run_finds_nothing(home):
    for number in (0, 22, 23):
        shop.put_scores(home, number, [(1, "MILK", 0.5, "champion")])
        shop.publish(home, number - 1, {1: ["MILK", "BREAD"]})
    for number in (28, 29, 30):
        put(home.landing.folder / f"transactions/date={shop.day(number)}/manifest.json")
        put(home.home / f"data_docs/core/{shop.day(number - 4)}.html")
        put(home.home / "logs" / f"{number}.log", day=number - 5)
    put(home.home / "data_docs/index.html")
    put(home.home / "model_cards/corner_shop/v1.html", day=0)  # as long as the model may be asked about
    quarantine(home, 27, 28, 29)

    removed = clean(home, shop.day(NOW), "r1").removed

    assert dates_of(home, "scores__corner_shop", "as_of") == [23]
    assert [row["score_date"] for row in shop.rows_of(home, tables.scores_table(shop.SHOP))] == [shop.day(22)] * 2
    assert dates_of(home, "quarantine__transactions", "business_date") == [29]
    assert names_in(home.landing.folder) == [f"transactions/date={shop.day(30)}/manifest.json"]
    assert names_in(home.home / "data_docs") == [f"core/{shop.day(26)}.html", "index.html"]
    assert names_in(home.home / "model_cards") == ["corner_shop/v1.html"]
    assert names_in(home.home / "logs") == ["30.log"]
    expected = {"scores": 2, "published": 4, "quarantine": 2, "landing": 2, "pages": 2, "logs": 2}
    assert removed == expected | {"snapshots": 0, "versions": 0, "leftovers": 0}
    assert set(clean(home, shop.day(NOW), "r2").removed.values()) == {0}
    costs = [row for row in shop.rows_of(home, tables.RUN_COSTS) if row["run_id"] == "r1"]
    assert {row["step"].removeprefix("janitor_"): row["rows"] for row in costs} == removed


def quarantine(home, *numbers):
    for number in numbers:
        row = {"business_date": shop.day(number), "source_file": "f", "source_line": 1, "row_json": "{}"}
        rows = pa.Table.from_pylist([row], schema=QUARANTINE_TRANSACTIONS.schema)
        lake.replace_dates(home.lake, QUARANTINE_TRANSACTIONS.name, rows, first=shop.day(number), last=shop.day(number))


def test_snapshots_and_labels_go_by_their_date_and_what_training_reads_stays(settings):
    last = 100
    shop.sell(settings, *range(last + 1), purchases=[(n, 1, 1, "1.00") for n in range(last + 1)])
    for number in (5, 6):
        shop.snapshot(settings, number)
    home = settings.model_copy(update={"keep_snapshots_days": 94})

    assert clean(home, shop.day(last), "r1").removed["snapshots"] == 1

    assert names_in(home.lake.folder / "features__corner_shop") == [f"as_of={shop.day(6)}/part-0.parquet"]


def test_the_newest_snapshot_of_products_stays_however_old(home):
    for number in (1, 3, 35):
        for name in ("products", "campaigns"):
            put(home.landing.folder / f"{name}/date={shop.day(number)}/manifest.json")

    clean(home, shop.day(NOW), "r1")

    known = [f"{shop.day(3)}", f"{shop.day(35)}"]
    assert names_in(home.landing.folder / "products") == [f"date={day}/manifest.json" for day in known]
    assert names_in(home.landing.folder / "campaigns") == [f"date={shop.day(35)}/manifest.json"]


def test_nought_days_keep_a_layer_for_ever(home):
    shop.put_scores(home, 0, [(1, "MILK", 0.5, "champion")])
    old = put(home.landing.folder / f"transactions/date={shop.day(0)}/manifest.json")

    clean(home.model_copy(update={"keep_scores_days": 0, "keep_landing_days": 0}), shop.day(NOW), "r1")

    assert dates_of(home, "scores__corner_shop", "as_of") == [0]
    assert old.exists()


@pytest.mark.parametrize(
    ("layer", "days", "least"),  # of category propensity: 12 weekly snapshots, a horizon of 7 days, 3 days late
    [("snapshots", 93, 94), ("landing", 2, 3), ("quarantine", 1, 3), ("scores", 16, 17), ("published", 16, 17)],
)
def test_a_setting_that_would_take_what_a_step_needs_is_refused(home, layer, days, least):
    old = put(home.landing.folder / f"transactions/date={shop.day(0)}/manifest.json")

    with pytest.raises(InvalidSetting) as refused:
        clean(home.model_copy(update={f"keep_{layer}_days": days}), shop.day(NOW), "r1")

    assert refused.value.where == f"environment variable NIGHTJAR_KEEP_{layer.upper()}_DAYS"
    assert str(refused.value.expected).startswith(f"{least} days or more")
    assert old.exists()


def test_every_default_leaves_each_step_what_it_needs(home):
    clean(load_settings().model_copy(update={"home": home.home}), shop.day(NOW), "r1")


def test_a_date_that_was_not_ingested_says_nothing_of_what_is_old(home):
    old = put(home.landing.folder / f"transactions/date={shop.day(0)}/manifest.json")

    with pytest.raises(MissingPartition):
        clean(home, date(2026, 11, 20), "r1")  # the demo's real clock

    assert old.exists()


def test_old_versions_of_tables_go_by_the_age_of_their_files_not_by_the_business_date(home):
    table = home.lake.folder / "core__transactions"
    shop.sell(home, 0, purchases=[(0, 2, 2, "2.00")])
    before = len(names_in(table / f"business_date={shop.day(0)}"))

    assert clean(home, shop.day(NOW), "r1").removed["versions"] == 0  # replaced a moment ago
    assert len(names_in(table / f"business_date={shop.day(0)}")) == before == 2
    assert lake.vacuum(home.lake, table.name, 0) >= 1
    assert len(names_in(table / f"business_date={shop.day(0)}")) == 1


@pytest.mark.fault("F1")
def test_after_the_janitor_nothing_is_left_of_killed_steps(home):
    table = home.lake.folder / "core__transactions"
    left = [
        put(table / f"business_date={shop.day(0)}" / "part-00000-orphan.parquet"),
        put(table / "_delta_log" / "_commit_6f1e.json.tmp"),
        put(home.lake.folder / "features__x/as_of=2017-05-01/.part-0.parquet.4711"),
        put(home.landing.folder / "transactions/date=2017-06-09/.part-0.parquet.4711"),
        put(home.home / "scratch/transactions-abc.parquet"),
        put(home.home / "rebuild-abc/lake/features__x/part-0.parquet"),
        put(home.home / "scratch/.transactions-abc.parquet.4711"),
        put(home.home / "cache/lake/core__products/part-0.parquet"),
    ]
    table_before = deltalake.DeltaTable(str(table)).to_pyarrow_table()

    assert clean(home, shop.day(NOW), "r1").removed["leftovers"] == 0  # a step may be at work on them

    home = home.model_copy(update={"leftover_hours": 0})
    assert clean(home, shop.day(NOW), "r2").removed["leftovers"] == len(left)
    assert [path for path in left if path.exists()] == []
    assert deltalake.DeltaTable(str(table)).to_pyarrow_table() == table_before
    assert [path for path in home.home.iterdir() if path.name.startswith("tmp")] == []


def test_a_run_for_an_old_date_removes_no_more_than_it_did_then(home):
    for number in (0, 20):
        put(home.landing.folder / f"transactions/date={shop.day(number)}/manifest.json")

    clean(home, shop.day(15), "r1")

    assert names_in(home.landing.folder) == [f"transactions/date={shop.day(20)}/manifest.json"]
    assert clean(home, shop.day(15) - timedelta(days=6), "r2").removed["landing"] == 0


@pytest.mark.fault("F1")
def test_on_s3_landing_snapshots_orphans_and_copies_go_too(tmp_path, s3):
    days = {f"keep_{name}_days": days for name, days in KEPT.items()} | {"keep_scores_days": 17}
    home = Settings(home=tmp_path / "var", **s3, **days | {"keep_published_days": 18, "leftover_hours": 0})
    shop.sell(home, 0, 99, 100, purchases=[(0, 1, 1, "1.00"), (99, 1, 1, "1.00"), (100, 1, 1, "1.00")])
    for number in (0, 99):
        shop.snapshot(home, number)
        home.landing.write(f"transactions/date={shop.day(number)}/manifest.json", b"{}")
    home.landing.fetch(f"transactions/date={shop.day(99)}/manifest.json")
    home.lake.write(f"core__transactions/business_date={shop.day(0)}/part-00000-orphan.parquet", b"of a killed writer")

    removed = clean(home, shop.day(100), "r1").removed

    assert home.landing.names() == [f"transactions/date={shop.day(99)}/manifest.json"]
    assert home.lake.names("features__") == [f"features__corner_shop/as_of={shop.day(99)}/part-0.parquet"]
    assert [name for name in home.lake.names() if "orphan" in name] == []
    assert dates_of(home, "core__transactions", "business_date") == [0, 99, 100]
    assert (removed["landing"], removed["snapshots"]) == (1, 1)
    copies = [path for path in names_in(home.home / "cache") if not path.endswith(".etag")]
    gone = ("landing/", f"lake/features__corner_shop/as_of={shop.day(0)}")  # raw ids; objects that are no more
    assert copies
    assert [path for path in copies if path.startswith(gone)] == []
