"""Two trainings on the same inputs give the same model, whatever machine trains it."""

from datetime import date, timedelta

import pytest
from toy import USE_CASE

from pipelines import registry, warehouse
from pipelines.bundle import FOLDER, MANIFEST, feature_definition, write_bundle
from pipelines.lineage import current_snapshot
from pipelines.training import fit, train
from pipelines.training_set import snapshot_dates
from pipelines.use_cases import load_use_cases

pytestmark = pytest.mark.slow
TRAINED = date(2017, 11, 12)


@pytest.fixture(scope="module")
def home(year_copy):
    settings = year_copy(use_cases=["toy"])
    warehouse.create_tables(settings, list(load_use_cases(settings).values()))
    return settings


@pytest.fixture(scope="module")
def toy(home):
    return load_use_cases(home)[USE_CASE.name]


def test_two_trainings_register_the_same_files(home, toy):
    versions = [
        registry.get_version(home, toy, train(home, toy, TRAINED, run_id).model_version) for run_id in ("one", "two")
    ]

    assert versions[0].version != versions[1].version
    assert versions[0].tags[registry.BUNDLE_TAG] == versions[1].tags[registry.BUNDLE_TAG]
    for name in (MANIFEST, "binary.txt", "ranker.txt"):
        first, second = (registry.fetch(home, toy, version, f"{FOLDER}/{name}") for version in versions)
        assert first == second


def test_the_number_of_threads_changes_nothing(home, toy, tmp_path):
    dates = snapshot_dates(toy, TRAINED)
    trained_on = [current_snapshot(home, toy, day, "test") for day in dates]
    facts = {
        "use_case": toy.name,
        "kind": "blend",
        "trained_as_of": TRAINED,
        "last_label_date": dates[-1] + timedelta(days=7),
        "feature_definition": feature_definition(home, toy),
    }
    bundles = {}
    for threads in (1, 2, 3):
        settings = home.model_copy(update={"threads": threads})
        trained = fit(settings, toy, TRAINED, trained_on)
        bundles[threads] = write_bundle(settings, trained.model, facts, tmp_path / str(threads))

    assert len(set(bundles.values())) == 1
    assert "Tree=19" in (tmp_path / "1" / "binary.txt").read_text()  # 20 rounds were grown, and compared
