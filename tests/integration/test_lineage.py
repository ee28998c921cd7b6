"""What a model was trained on: rebuilt where it is stale, refused where it was touched, given back bit for bit."""

import hashlib
import json
import shutil
from datetime import date, timedelta
from pathlib import Path

import deltalake
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from toy import PAIR, USE_CASE
from typer.testing import CliRunner

from pipelines import lake, ledger, registry, tables, warehouse
from pipelines.cli import app
from pipelines.contracts import CORE_TRANSACTIONS
from pipelines.engine import open_core
from pipelines.errors import LineageBroken, NotPublished, SnapshotRefused
from pipelines.features import build_features
from pipelines.gate import judge
from pipelines.ledger import FEATURES, LABELS
from pipelines.lineage import current_snapshot, lineage_of, rebuild_training_set
from pipelines.promotion import promote
from pipelines.publishing import publish
from pipelines.scoring import score
from pipelines.trace import trace
from pipelines.training import train
from pipelines.use_cases import load_use_cases

pytestmark = pytest.mark.slow
TRAINED, SCORED = date(2017, 11, 12), date(2017, 11, 19)
DATES = [date(2017, 10, 1), date(2017, 10, 8), date(2017, 10, 15), date(2017, 10, 22)]
CORRECTED = date(2017, 10, 11)
TABLES = [table.name for table in USE_CASE.feature_tables]


@pytest.fixture(scope="module")
def first(year_copy):
    """A home with one model, and the training set that it was given back at once."""
    home = year_copy(use_cases=["toy"])
    warehouse.create_tables(home, list(load_use_cases(home).values()))
    train(home, USE_CASE, TRAINED, "first")
    rebuild_training_set(home, USE_CASE, "1", home.home / "first.parquet")
    return home


@pytest.fixture(scope="module")
def files_before(first):
    return files_of(first)


@pytest.fixture(scope="module")
def corrected(first, files_before):
    """The home after half the lines of a day were taken back and a second model was trained."""
    with open_core(first, up_to=CORRECTED) as connection:
        lines = connection.sql(
            "SELECT * FROM core__transactions WHERE business_date = $day", params={"day": CORRECTED}
        ).to_arrow_table()
    half = lines.slice(0, len(lines) // 2).select(CORE_TRANSACTIONS.schema.names).cast(CORE_TRANSACTIONS.schema)
    lake.replace_dates(first.lake, CORE_TRANSACTIONS.name, half, first=CORRECTED, last=CORRECTED)
    train(first, USE_CASE, TRAINED, "second")
    return first


@pytest.fixture
def home(first, tmp_path):
    """A copy of the first home that a test may spoil."""
    shutil.copytree(first.home, tmp_path / "var")
    return first.model_copy(update={"home": tmp_path / "var"})


def files_of(home):
    """Which file holds each snapshot: equal means untouched, not only equal in content."""
    paths = {(table, day): home.lake.folder / lake.snapshot_name(table, day) for table in TABLES for day in DATES}
    return {key: (path.stat().st_ino, path.stat().st_mtime_ns) for key, path in paths.items()}


def built(home, kind, run_id):
    log = tables.SNAPSHOT_LOG
    query = sa.select(log.c.as_of).where(log.c.kind == kind, log.c.run_id == run_id).order_by(log.c.as_of)
    with warehouse.open_warehouse(home) as connection:
        return list(connection.scalars(query))


def test_the_first_training_builds_every_snapshot(first):
    assert built(first, FEATURES, "first") == built(first, LABELS, "first") == DATES


def test_a_correction_rebuilds_exactly_the_snapshots_that_saw_the_day(corrected, files_before):
    """The 11th lies in the snapshots of the 15th and later, and in the label windows of the 8th and later."""
    now = files_of(corrected)

    assert built(corrected, FEATURES, "second") == [date(2017, 10, 15), date(2017, 10, 22)]
    assert built(corrected, LABELS, "second") == [date(2017, 10, 8), date(2017, 10, 15), date(2017, 10, 22)]
    assert {day for (_, day), file in now.items() if file == files_before[_, day]} == {DATES[0], DATES[1]}
    assert {day for (_, day), file in now.items() if file != files_before[_, day]} == {DATES[2], DATES[3]}


def test_a_training_set_is_given_back_bit_for_bit_after_a_correction(corrected, tmp_path):
    report = rebuild_training_set(corrected, USE_CASE, "1", tmp_path / "again.parquet")

    before, again = (pq.read_table(file) for file in (corrected.home / "first.parquet", tmp_path / "again.parquet"))
    assert again.equals(before)
    assert (report.rows, report.snapshots) == (len(before), 4)
    version = registry.get_version(corrected, USE_CASE, "1")
    logged = registry.validation_parameters(corrected, version)
    assert logged["training_set_sha256"] == report.training_set_sha256
    assert int(logged["rows"]) == report.rows
    assert again.column("as_of").unique().to_pylist() == DATES
    assert again.column_names == [
        *("as_of", "household_id", "store_id", "is_positive", "value_usd", "weight"),
        *USE_CASE.features,
    ]


def test_the_corrected_day_gives_another_training_set(corrected):
    old, new = (lineage_of(corrected, USE_CASE, version) for version in ("1", "2"))

    assert rebuild_training_set(corrected, USE_CASE, "2").training_set_sha256 == new.training_set_sha256
    assert new.training_set_sha256 != old.training_set_sha256
    same = [a.rows_sha256 == b.rows_sha256 for a, b in zip(old.snapshots, new.snapshots, strict=True)]
    assert same == [True, False, False, False]


def test_the_record_names_what_was_read(first):
    found = lineage_of(first, USE_CASE, "1")

    assert (found.use_case, found.as_of, found.plan) == ("toy_visits", TRAINED, USE_CASE.training)
    assert [one.features.as_of for one in found.snapshots] == DATES
    for one in found.snapshots:
        assert list(one.features.content) == TABLES
        assert list(one.labels.content) == [USE_CASE.labels_table]
        # The toy reads no other core table: a correction of those is nothing to it.
        assert list(one.features.inputs.core_versions) == [CORE_TRANSACTIONS.name]
    versions = [int(one.labels.table_version) for one in found.snapshots]
    assert versions == sorted(set(versions))


def test_a_training_set_whose_old_versions_are_gone_is_named_as_broken(corrected, tmp_path):
    home = copy_of(corrected, tmp_path)
    table = deltalake.DeltaTable(home.lake.uri_of(CORE_TRANSACTIONS.name))
    table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)

    with pytest.raises(LineageBroken) as broken:
        rebuild_training_set(home, USE_CASE, "1", tmp_path / "never.parquet")

    assert broken.value.where == f"core tables, as_of={DATES[1]}"  # the first whose labels saw the old 11th
    assert "retention" in broken.value.remedy
    assert not (tmp_path / "never.parquet").exists()
    assert rebuild_training_set(home, USE_CASE, "2").snapshots == 4


def test_a_training_set_of_other_sql_is_named_as_broken(first):
    other = PAIR.model_copy(update={"aggregates": {**PAIR.aggregates, "visits_84d": "count(*) + 1"}})
    changed = USE_CASE.model_copy(update={"feature_tables": (other, *USE_CASE.feature_tables[1:])})

    with pytest.raises(LineageBroken) as broken:
        rebuild_training_set(first, changed, "1")

    assert broken.value.where == f"SQL of {', '.join(TABLES)}, as_of={DATES[0]}"


def test_features_of_other_sql_are_stale(home):
    other = PAIR.model_copy(update={"aggregates": {**PAIR.aggregates, "visits_28d": "count(*)"}})
    changed = USE_CASE.model_copy(update={"feature_tables": (other, *USE_CASE.feature_tables[1:])})
    before = ledger.newest(home, USE_CASE, FEATURES, DATES[0])

    found = current_snapshot(home, changed, DATES[0], "other")

    assert found.features.content[TABLES[0]] != before.content[TABLES[0]]
    assert found.features.content[TABLES[1]] == before.content[TABLES[1]]


def test_a_snapshot_that_was_removed_is_built_again(home):
    (home.lake.folder / lake.snapshot_name(TABLES[1], DATES[0])).unlink()
    before = ledger.newest(home, USE_CASE, FEATURES, DATES[0])

    assert current_snapshot(home, USE_CASE, DATES[0], "again").features.content == before.content


def raise_visits(path, *, is_mark_forged):
    """One household visits a thousand times more; the mark in the file tells of the old or of the new content."""
    rows = pq.read_table(path, partitioning=None)
    index = rows.schema.get_field_index("visits_28d")
    visits = rows.column("visits_28d").to_numpy().copy()
    visits[0] += 1000
    touched = rows.set_column(index, rows.schema.field(index), pa.array(visits))
    mark = lake.content_hash(touched).encode() if is_mark_forged else rows.schema.metadata[b"nightjar.content_hash"]
    pq.write_table(touched.replace_schema_metadata({b"nightjar.content_hash": mark}), path)


@pytest.mark.attack("S5")
@pytest.mark.parametrize("is_mark_forged", [False, True])
def test_training_refuses_a_snapshot_that_was_tampered_with(home, is_mark_forged):
    raise_visits(home.lake.folder / lake.snapshot_name(TABLES[0], DATES[2]), is_mark_forged=is_mark_forged)

    with pytest.raises(SnapshotRefused) as refused:
        train(home, USE_CASE, TRAINED, "tampered")

    assert refused.value.where == f"{TABLES[0]}, as_of={DATES[2]}"
    assert built(home, FEATURES, "tampered") == []


@pytest.mark.attack("S5")
def test_training_refuses_a_snapshot_cut_short(home):
    path = home.lake.folder / lake.snapshot_name(TABLES[1], DATES[0])
    content = path.read_bytes()
    path.write_bytes(content[:200] + bytes(100) + content[300:])

    with pytest.raises(SnapshotRefused):
        current_snapshot(home, USE_CASE, DATES[0], "tampered")


@pytest.mark.attack("S5")
def test_training_refuses_a_file_that_nobody_recorded(home):
    """Feast reads every file of the folder: one with a later time of knowledge would win."""
    path = home.lake.folder / lake.snapshot_name(TABLES[0], DATES[0])
    shutil.copy(path, path.with_name("part-1.parquet"))

    with pytest.raises(SnapshotRefused, match=r"part-1\.parquet"):
        current_snapshot(home, USE_CASE, DATES[3], "tampered")


@pytest.mark.attack("S5")
def test_training_refuses_labels_that_were_tampered_with(home):
    day = DATES[1]
    (file,) = lake.files_of(home.lake, USE_CASE.labels_table, first=day, last=day, partition="as_of")
    rows = pq.read_table(file, partitioning=None)
    index = rows.schema.get_field_index("is_positive")
    pq.write_table(rows.set_column(index, rows.schema.field(index), pc.invert(rows.column(index))), file)

    with pytest.raises(SnapshotRefused) as refused:
        current_snapshot(home, USE_CASE, day, "tampered")

    assert refused.value.where == f"{USE_CASE.labels_table}, as_of={day}"
    Path(file).unlink()  # what the remedy says
    assert current_snapshot(home, USE_CASE, day, "mended").labels.version == refused.value.expected


def copy_of(home, tmp_path):
    shutil.copytree(home.home, tmp_path / "copy")
    return home.model_copy(update={"home": tmp_path / "copy"})


@pytest.fixture(scope="module")
def published(first):
    judge(first, USE_CASE, "1", TRAINED, "night")
    assert promote(first, USE_CASE, "1", "night").is_promoted
    build_features(first, USE_CASE, SCORED, "night")
    score(first, USE_CASE, SCORED, "night")
    publish(first, USE_CASE, SCORED, "night", "1")
    table = tables.scores_table(USE_CASE)
    with warehouse.open_warehouse(first) as connection:
        (row, *_) = warehouse.read_rows(connection, sa.select(table).where(table.c["rank"] == 1).limit(1))
    return first, row


def test_a_published_row_is_traced_to_the_files_that_its_household_came_from(published, year, read_table):
    home, row = published
    found = trace(home, USE_CASE, SCORED, row["household_id"], row["store_id"])

    assert found["row"] == row
    assert found["training"]["training_set_sha256"] == lineage_of(home, USE_CASE, "1").training_set_sha256
    assert found["features"]["version"] == row["feature_version"]
    lines = read_table(year, CORE_TRANSACTIONS.name)
    own = lines.filter(pc.equal(lines.column("household_id"), row["household_id"]))
    days = {day for day in own.column("business_date").to_pylist() if day <= SCORED}
    assert len(days) > 3
    assert {file["business_date"] for file in found["files"]} == days
    assert [file["business_date"] for file in found["files"]] == sorted(days, reverse=True)
    for file in found["files"]:
        delivered = year.landing.folder / file["source_file"]
        assert f"date={file['business_date']}" in file["source_file"]
        assert hashlib.sha256(delivered.read_bytes()).hexdigest() == file["source_sha256"]


def test_a_row_is_traced_as_it_was_although_its_features_were_built_again(published):
    home, row = published
    before = trace(home, USE_CASE, SCORED, row["household_id"], row["store_id"])
    day = SCORED - timedelta(days=1)
    with open_core(home, up_to=day) as connection:
        lines = connection.sql("SELECT * FROM core__transactions WHERE business_date = $d", params={"d": day})
        rows = lines.to_arrow_table().select(CORE_TRANSACTIONS.schema.names).cast(CORE_TRANSACTIONS.schema)
    lake.replace_dates(home.lake, CORE_TRANSACTIONS.name, rows.slice(0, 100), first=day, last=day)
    build_features(home, USE_CASE, SCORED, "later")

    assert trace(home, USE_CASE, SCORED, row["household_id"], row["store_id"]) == before


def test_the_command_answers_with_a_tree_and_as_json(published, monkeypatch):
    home, row = published
    for name, value in {"HOME": str(home.home), "USE_CASES": "toy"}.items():
        monkeypatch.setenv(f"NIGHTJAR_{name}", value)
    asked = ["lineage", "--use-case", "toy_visits", "--date", str(SCORED)]
    asked += ["--entity", str(row["household_id"]), "--item", row["store_id"]]

    tree, answer = CliRunner().invoke(app, asked), CliRunner().invoke(app, [*asked, "--json"])

    assert (tree.exit_code, answer.exit_code) == (0, 0)
    found = json.loads(answer.stdout)
    assert found["row"]["score"] == row["score"]
    assert found["files"][0]["source_sha256"] in tree.stdout.replace("\n", "").replace(" ", "").replace("│", "")
    assert found["training"]["training_set_sha256"] == lineage_of(home, USE_CASE, "1").training_set_sha256


def test_a_row_that_is_not_published_is_named(published):
    home, _ = published

    with pytest.raises(NotPublished, match="household_id 0"):
        trace(home, USE_CASE, SCORED, 0, "1")
