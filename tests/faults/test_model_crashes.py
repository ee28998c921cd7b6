"""A training or a materialisation that is killed: the next run ends as if nothing was."""

import signal
from datetime import date

import pytest
from deliveries import in_process
from toy import USE_CASE

from pipelines import registry
from pipelines.feature_store import materialise, open_store
from pipelines.scoring import score
from pipelines.training import train

pytestmark = pytest.mark.slow
KILLED = -signal.SIGKILL
NIGHT, TRAINED = date(2017, 11, 19), date(2017, 11, 12)
STORE_POINTS = ("feature_store.before_kept", "feature_store.after_materialise")


def materialise_at(settings):
    materialise(settings, USE_CASE, NIGHT, "night")


def train_at(settings):
    train(settings, USE_CASE, TRAINED, "night")


def online(settings):
    """What the online store says of the first entities, and up to when it is filled."""
    store = open_store(settings, USE_CASE)
    views = {view.name: view.materialization_intervals[-1][1] for view in store.list_feature_views()}
    rows = [{"household_id": number, "store_id": "300"} for number in range(3)]
    return views, store.get_online_features(store.get_feature_service(USE_CASE.name), rows).to_dict()


@pytest.mark.fault("F1")
@pytest.mark.fault("F28")
def test_a_killed_materialisation_is_made_good_by_the_next_one(toy_copy):
    clean = toy_copy()
    materialise_at(clean)
    expected = online(clean)
    for point in STORE_POINTS:
        home = toy_copy()
        code, said = in_process(materialise_at, home, NIGHTJAR_CRASH_AT=point)
        assert code == KILLED, said
        materialise_at(home)
        assert online(home) == expected, point


@pytest.mark.fault("F1")
@pytest.mark.fault("F22")
@pytest.mark.parametrize(
    "point",
    ["training.after_fit", "training.after_artifacts", "training.after_version", "training.after_alias",
     "training.before_service"],
)  # fmt: skip
def test_a_training_that_is_killed_leaves_the_champion_and_the_next_one_registers_a_whole_challenger(toy_copy, point):
    home = toy_copy()

    code, said = in_process(train_at, home, NIGHTJAR_CRASH_AT=point)

    assert code == KILLED, said
    assert registry.champion(home, USE_CASE).version == "1"
    code, said = in_process(train_at, home)
    assert code == 0, said
    challenger = registry.find_alias(home, USE_CASE, registry.CHALLENGER)
    assert registry.champion(home, USE_CASE).version == "1"
    assert int(challenger.version) >= 3
    services = {service.name for service in open_store(home, USE_CASE).list_feature_services()}
    assert f"{USE_CASE.name}__v{challenger.version}" in services
    assert not list((home.home / "unregistered").glob("*/*/run.json"))
    code, said = in_process(score_at, home, challenger.version)
    assert code == 0, said


def score_at(settings, version):
    score(settings, USE_CASE, NIGHT, "night", version)
