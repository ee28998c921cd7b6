"""Feast's registry is one file that Feast overwrites in place: torn or shared, it is whole again at the next use."""

import multiprocessing

import pytest
from deliveries import DAY, PRODUCTS, a_line, put, put_day

from pipelines.feature_store import freeze_service, materialise, open_store
from pipelines.features import build_features
from pipelines.ingest import ingest
from pipelines.settings import Settings
from pipelines.use_cases.category_propensity import USE_CASE

pytestmark = pytest.mark.fault("F28")
OWN = {"category_propensity", "category_propensity__online"}


@pytest.fixture
def shop(settings):
    """A date with features, whose Feast registry knows the services of our definitions and of model 7."""
    put(settings, DAY, {"part-0.parquet": PRODUCTS}, name="products")
    put_day(settings, DAY, *(a_line(number) for number in range(8)))
    ingest(settings, DAY, DAY, "r")
    build_features(settings, USE_CASE, DAY, "r")
    freeze_service(open_store(settings, USE_CASE), USE_CASE, "7")
    return settings


def services(store):
    return {service.name for service in store.list_feature_services()}


def test_a_torn_registry_is_restored_with_the_services_of_former_models(shop):
    registry = shop.feast_home / "registry.db"
    whole = registry.read_bytes()
    for torn in (b"", whole[:1], whole[: len(whole) // 3], whole[: len(whole) // 2], whole[:-1], b"\xff" * 500, None):
        if torn is None:
            registry.unlink()
        else:
            registry.write_bytes(torn)

        assert services(open_store(shop, USE_CASE)) == {*OWN, "category_propensity__v7"}
    assert materialise(shop, USE_CASE, DAY, "r").rows > 0


def test_without_any_copy_the_registry_is_made_anew_from_the_definitions(shop):
    registry = shop.feast_home / "registry.db"
    registry.write_bytes(registry.read_bytes()[:100])
    registry.with_suffix(".kept").unlink()

    assert services(open_store(shop, USE_CASE)) == OWN


def freeze_models(home, numbers):
    settings = Settings(home=home)
    for number in numbers:
        freeze_service(open_store(settings, USE_CASE), USE_CASE, str(number))


def test_of_two_processes_that_apply_at_once_neither_loses_what_the_other_wrote(shop):
    context = multiprocessing.get_context("forkserver")
    two = [context.Process(target=freeze_models, args=(shop.home, range(start, start + 5))) for start in (10, 20)]
    for process in two:
        process.start()
    for process in two:
        process.join(120)

    assert [process.exitcode for process in two] == [0, 0]
    frozen = {f"category_propensity__v{number}" for number in (7, *range(10, 15), *range(20, 25))}
    assert services(open_store(shop, USE_CASE)) == OWN | frozen
