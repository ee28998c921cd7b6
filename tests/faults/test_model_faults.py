"""What can go wrong with the model of a night: every fault leaves a full table, its cause in it, and one incident."""

import base64
import hashlib
import shutil
import socket
import threading
from datetime import date, timedelta

import lightgbm
import numpy as np
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from toy import USE_CASE

from pipelines import lake, registry, tables, warehouse
from pipelines.bundle import MANIFEST, SIGNATURE, read_bundle, write_bundle
from pipelines.errors import ArtifactRefused, EngineFailure, SnapshotRefused
from pipelines.features import build_features
from pipelines.model import Component, Model
from pipelines.publishing import publish
from pipelines.scoring import candidate_features, score
from pipelines.signing import sign
from pipelines.tables import INCIDENTS
from pipelines.tracking import RUN_FILE
from pipelines.training import train

pytestmark = pytest.mark.slow
NIGHT, NEXT = date(2017, 11, 19), date(2017, 11, 26)
RULE = "rule:spend"


@pytest.fixture
def quick_retries(monkeypatch):
    """The registry is asked again as often, but without the pauses between."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")


@pytest.fixture
def nobody():
    """The URL of a port at which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


def night(home, day=NIGHT):
    """Score and publish a date; gives the report and the published rows."""
    report = score(home, USE_CASE, day, "test")
    publish(home, USE_CASE, day, "test", report.model_version)
    table = tables.scores_table(USE_CASE)
    with warehouse.open_warehouse(home) as connection:
        rows = warehouse.read_rows(
            connection, sa.select(table).where(table.c.score_date == day).order_by(*table.primary_key.columns)
        )
    assert len(rows) == USE_CASE.top_n * len({row["household_id"] for row in rows}) > 6000
    assert {row["model_version"] for row in rows} == {report.model_version}
    assert {row["score_source"] for row in rows} - {"cold_start"} == {report.score_source} - {"cold_start"}
    return report, rows


def incidents(home):
    with warehouse.open_warehouse(home) as connection:
        rows = warehouse.read_rows(connection, sa.select(INCIDENTS).order_by(INCIDENTS.c.incident_id))
    return [(row["kind"], row["first_date"], row["last_date"], row["resolved_date"]) for row in rows]


def bundle_of(home, version):
    (folder,) = home.mlflow_artifacts.glob(f"*/{registry.get_version(home, USE_CASE, version).mlflow_run_id}/artifacts")
    return folder / "bundle"


def promote(home, version):
    registry.set_alias(home, USE_CASE, registry.CHAMPION, version)


@pytest.mark.fault("F17")
def test_a_promotion_while_a_night_is_scored_never_mixes_versions(toy_home):
    whole = {}
    for version in ("1", "2"):
        score(toy_home, USE_CASE, NIGHT, "alone", version)
        whole[version] = stored(toy_home, version)
    done = threading.Event()

    def promote_to_and_fro():
        while not done.is_set():
            for version in ("2", "1"):
                promote(toy_home, version)

    promoting = threading.Thread(target=promote_to_and_fro)
    promoting.start()
    try:
        reports = [night(toy_home)[0] for _ in range(4)]
    finally:
        done.set()
        promoting.join()

    assert {report.score_source for report in reports} == {"champion"}
    assert {version: stored(toy_home, version) for version in whole} == whole


def stored(home, version):
    files = lake.files_where(home.lake, USE_CASE.scores_table, f"as_of = '{NIGHT}' AND model_version = '{version}'")
    return sorted(tuple(row.values()) for file in files for row in pq.read_table(file, partitioning=None).to_pylist())


@pytest.mark.fault("F22")
def test_with_the_registry_down_the_last_verified_copy_scores_and_one_incident_says_so(toy_home, nobody, quick_retries):
    _, by_champion = night(toy_home)
    cut_off = toy_home.model_copy(update={"mlflow_tracking_uri": nobody})

    report, rows = night(cut_off)
    night(cut_off, NEXT)

    assert (report.model_version, report.score_source) == ("1", "cached")
    assert "did not answer" in report.problem
    assert [row["score"] for row in rows] == [row["score"] for row in by_champion]
    assert incidents(toy_home) == [("registry down", NIGHT, NEXT, None)]

    assert night(toy_home, NEXT)[0].score_source == "champion"
    assert incidents(toy_home) == [("registry down", NIGHT, NEXT, NEXT)]


@pytest.mark.fault("F22")
def test_without_registry_and_copy_the_simple_rule_ranks_with_calibrated_probabilities(toy_home, nobody, quick_retries):
    report, rows = night(toy_home.model_copy(update={"mlflow_tracking_uri": nobody}))

    assert (report.model_version, report.score_source) == (RULE, "baseline")
    by_rule = [row for row in rows if row["score_source"] == "baseline"]
    assert {row["reason_1"] for row in by_rule} == {"first by the simple rule spend, in place of a model"}
    assert all(row["is_low_confidence"] for row in rows)
    features = candidate_features(toy_home, USE_CASE, NIGHT).to_pylist()
    spent = {(row["household_id"], row["store_id"]): row["spend_usd_84d"] for row in features}
    lists = {}
    for row in sorted(by_rule, key=lambda row: row["rank"]):
        lists.setdefault(row["household_id"], []).append(row)
    for found in lists.values():
        values = [spent[row["household_id"], row["store_id"]] for row in found]
        assert values == sorted(values, reverse=True)
        assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
    bought = visits(toy_home)
    happened = np.mean([(row["household_id"], row["store_id"]) in bought for row in by_rule])
    assert np.mean([row["score"] for row in by_rule]) == pytest.approx(happened, abs=0.05)


def visits(home):
    """Household and store of the week after the night, from the core table alone."""
    found = set()
    days = [NIGHT + timedelta(days=ahead) for ahead in range(1, 8)]
    for path in lake.files_of(home.lake, "core__transactions", first=days[0], last=days[-1]):
        rows = pq.read_table(path, partitioning=None, columns=["household_id", "store_id"]).to_pylist()
        found |= {(row["household_id"], str(row["store_id"])) for row in rows}
    return found


@pytest.mark.fault("F22")
def test_where_the_rule_has_no_past_either_every_list_holds_popular_items(year_copy):
    early = date(2017, 1, 3)  # a week before it, nothing was ingested
    home = year_copy(early)
    warehouse.create_tables(home, [USE_CASE])
    build_features(home, USE_CASE, early, "test")

    report = score(home, USE_CASE, early, "test")
    published = publish(home, USE_CASE, early, "test", report.model_version)

    assert published.rows == USE_CASE.top_n * published.entities > 0
    assert "the rule cannot score" in report.problem
    assert incidents(home) == [("no champion", early, early, None)]


@pytest.mark.fault("F22")
def test_a_training_that_cannot_register_keeps_its_model_and_registers_it_later(toy_home, nobody, quick_retries):
    cut_off, seen = toy_home.model_copy(update={"mlflow_tracking_uri": nobody}), []
    with pytest.raises(EngineFailure, match="did not answer"):
        train(cut_off, USE_CASE, date(2017, 11, 19), "test", progress=lambda *told: seen.append(told))
    (kept,) = (toy_home.home / "unregistered").glob(f"*/*/{RUN_FILE}")
    trees = (kept.parent / "bundle" / "binary.txt").read_text()
    assert seen

    seen.clear()
    report = train(toy_home, USE_CASE, date(2017, 11, 19), "test", progress=lambda *told: seen.append(told))

    assert seen == []  # nothing was fitted again
    assert report.model_version == "3"
    assert (bundle_of(toy_home, "3") / "binary.txt").read_text() == trees
    assert not kept.exists()


@pytest.mark.fault("F23")
def test_an_alias_that_points_to_a_deleted_version_is_never_taken_for_the_newest(toy_home):
    registry.open_registry(toy_home).delete_model_version(USE_CASE.name, "1")

    report, _ = night(toy_home)

    assert (report.model_version, report.score_source) == (RULE, "baseline")  # version 2 stands there, unasked
    assert incidents(toy_home) == [("no champion", NIGHT, NIGHT, None)]


@pytest.mark.fault("F23")
def test_where_the_deleted_champion_had_scored_its_copy_goes_on(toy_home):
    night(toy_home)
    registry.open_registry(toy_home).delete_model_version(USE_CASE.name, "1")

    report, _ = night(toy_home, NEXT)

    assert (report.model_version, report.score_source) == ("1", "cached")
    assert incidents(toy_home) == [("no champion", NEXT, NEXT, None)]


def flip_a_bit(bundle, _):
    content = bytearray(trees_of(bundle).read_bytes())
    content[len(content) // 2] ^= 1
    trees_of(bundle).write_bytes(bytes(content))


def truncate(bundle, _):
    trees_of(bundle).write_bytes(trees_of(bundle).read_bytes()[:-1000])


def repeat_the_leaf_values(bundle, _):
    lines = trees_of(bundle).read_text().splitlines(keepends=True)
    place = next(number for number, line in enumerate(lines) if line.startswith("leaf_value="))
    trees_of(bundle).write_text("".join([*lines[: place + 1], *lines[place:]]))


def take_the_other_models_files(bundle, other):
    shutil.rmtree(bundle)
    shutil.copytree(other, bundle)


def take_the_other_models_trees(bundle, other):
    shutil.copyfile(trees_of(other), trees_of(bundle))


def lose_a_file(bundle, _):
    trees_of(bundle).unlink()


DAMAGES = [
    flip_a_bit,
    truncate,
    repeat_the_leaf_values,
    take_the_other_models_files,
    take_the_other_models_trees,
    lose_a_file,
]


def trees_of(bundle):
    return sorted(bundle.glob("*.txt"))[0]


@pytest.mark.fault("F24")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_model_is_refused_before_it_is_parsed(toy_home, monkeypatch, damage):
    damage(bundle_of(toy_home, "2"), bundle_of(toy_home, "1"))
    parsed = []
    monkeypatch.setattr(lightgbm, "Booster", lambda **given: parsed.append(given))

    with pytest.raises(ArtifactRefused):
        registry.load(toy_home, USE_CASE, registry.get_version(toy_home, USE_CASE, "2"))

    assert parsed == []


@pytest.mark.fault("F24")
def test_nights_with_a_damaged_champion_are_scored_by_the_one_before_with_one_incident(toy_home):
    _, before = night(toy_home)
    promote(toy_home, "2")
    flip_a_bit(bundle_of(toy_home, "2"), None)

    report, rows = night(toy_home)
    night(toy_home, NEXT)

    assert (report.model_version, report.score_source) == ("1", "cached")
    assert [row["score"] for row in rows] == [row["score"] for row in before]
    assert incidents(toy_home) == [("champion refused", NIGHT, NEXT, None)]


@pytest.mark.fault("F24")
def test_a_champion_damaged_in_the_store_goes_on_from_its_verified_copy(toy_home):
    night(toy_home)
    truncate(bundle_of(toy_home, "1"), None)

    report, _ = night(toy_home, NEXT)

    assert (report.model_version, report.score_source) == ("1", "champion")
    assert incidents(toy_home) == [("champion refused", NEXT, NEXT, None)]


@pytest.mark.fault("F24")
@pytest.mark.parametrize("place", [0, 100, -100])
def test_a_damaged_copy_is_believed_as_little_as_the_store(toy_home, place):
    night(toy_home)
    (copy,) = (toy_home.home / "models" / USE_CASE.name).glob("*.json")
    content = bytearray(copy.read_bytes())
    content[place] ^= 1
    copy.write_bytes(bytes(content))
    truncate(bundle_of(toy_home, "1"), None)

    assert night(toy_home, NEXT)[0].score_source == "baseline"
    assert incidents(toy_home) == [("champion refused", NEXT, NEXT, None)]


@pytest.fixture
def whole(toy_home):
    """The champion with its facts, and a function that signs and reads a variant of it."""
    model, facts = registry.load(toy_home, USE_CASE, registry.get_version(toy_home, USE_CASE, "1"))
    folder = toy_home.home / "variant"

    def read(model=model, edit=lambda text: text, **changed):
        known = {"use_case", "kind", "trained_as_of", "last_label_date", "feature_definition"}
        write_bundle(toy_home, model, {**facts.model_dump(include=known), **changed}, folder)
        content = edit((folder / MANIFEST).read_text()).encode()
        (folder / MANIFEST).write_bytes(content)
        (folder / SIGNATURE).write_bytes(base64.b64encode(sign(toy_home, content)))
        return read_bundle(
            toy_home,
            USE_CASE,
            lambda name: (folder / name).read_bytes(),
            "variant",
            hashlib.sha256(content).hexdigest(),
        )

    return model, read


@pytest.mark.fault("F25")
def test_a_bundle_with_other_features_is_refused_by_their_names(whole):
    model, read = whole
    assert read()[0].features == USE_CASE.features
    turned = tuple(reversed(model.features))
    swapped = Model(**{**vars(model), "features": turned})
    renamed = Model(**{**vars(model), "features": ("visits_29d", *model.features[1:])})
    for other in (swapped, renamed):
        with pytest.raises(ArtifactRefused, match="in their order") as refused:
            read(other)
        assert other.features[0] in str(refused.value.found)
    with pytest.raises(ArtifactRefused, match="in their order"):
        read(edit=lambda text: text.replace('"float32"', '"float64"', 1))
    with pytest.raises(ArtifactRefused, match="feature_definition"):
        read(feature_definition="0" * 64)


@pytest.mark.fault("F25")
def test_trees_of_other_features_or_with_codes_of_categories_are_refused(whole):
    model, read = whole
    drawn = np.random.default_rng(0)
    data, label = drawn.integers(0, 4, (500, len(USE_CASE.features))).astype(float), drawn.integers(0, 2, 500)

    def grown(names, **more):
        return lightgbm.train(
            {"objective": "binary", "verbosity": -1, "min_data_per_group": 1, "max_cat_to_onehot": 1},
            lightgbm.Dataset(data, label=label, feature_name=list(names), **more),
            num_boost_round=3,
        )

    def with_trees(booster):
        return Model(**{**vars(model), "components": (Component("binary", booster, 1.0),)})

    with pytest.raises(ArtifactRefused, match="grown on other features"):
        read(with_trees(grown(reversed(USE_CASE.features))))
    with pytest.raises(ArtifactRefused, match="codes of categories"):
        read(with_trees(grown(USE_CASE.features, categorical_feature=[0, 1])))


@pytest.mark.fault("F25")
def test_a_snapshot_is_read_by_name_and_refused_by_name(toy_home):
    before, rows = night(toy_home)
    table = USE_CASE.feature_tables[0].name
    path, _ = lake.require_snapshot(toy_home.lake, table, NIGHT)
    snapshot = pq.read_table(path, partitioning=None)

    pq.write_table(snapshot.select(list(reversed(snapshot.column_names))), path)
    assert night(toy_home)[1] == rows

    for spoilt, named in (
        (snapshot.drop_columns("visits_28d"), "visits_28d: missing"),
        (snapshot.rename_columns({"visits_28d": "visits_27d"}), "visits_28d: missing"),
        (snapshot.set_column(4, "visits_28d", snapshot.column("visits_28d").cast("string")), "visits_28d: string"),
    ):
        pq.write_table(spoilt.replace_schema_metadata(snapshot.schema.metadata), path)
        with pytest.raises(SnapshotRefused, match=named):
            score(toy_home, USE_CASE, NIGHT, "test")
    assert before.problem == ""
