"""Features, scores and trees by the workers of a Dask cluster: the same rows, and a right end where one dies."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest
import sqlalchemy as sa
from dask_cluster import die, running_dask
from distributed import Client
from toy import USE_CASE

from local_stack.servers import LOOPBACK, free_port
from pipelines import cluster as clusters
from pipelines import lake, tables, warehouse
from pipelines.cluster import open_cluster
from pipelines.engine import NEWEST, open_engine
from pipelines.errors import EngineFailure, InvalidSetting
from pipelines.features import build_features, compute_snapshot
from pipelines.lineage import current_snapshot
from pipelines.scoring import score
from pipelines.storage import sql_list
from pipelines.training import fit
from pipelines.training_set import snapshot_dates
from pipelines.use_cases.category_propensity import USE_CASE as REFERENCE

pytestmark = pytest.mark.slow
NIGHT, TRAINED = date(2017, 11, 26), date(2017, 11, 12)
WORKERS = ("worker-1", "worker-2")


@pytest.fixture(scope="module")
def local(toy_copy):
    """Settings that compute in this process."""
    return toy_copy()


@pytest.fixture
def cluster(local):
    with running_dask(local, *WORKERS) as cluster, Client(cluster.url, timeout=120, set_as_default=False) as client:
        client.wait_for_workers(len(WORKERS), timeout=120)
        yield cluster


def on(cluster, settings):
    """The same home, computed by workers."""
    return settings.model_copy(update={"engine": "dask", "dask_scheduler": cluster.url})


def snapshots(settings):
    """Version of each feature table's rows."""
    return [lake.require_snapshot(settings.lake, table.name, NIGHT)[1] for table in USE_CASE.feature_tables]


def scores(settings, version):
    """What the lake holds of the night, ordered."""
    files = lake.files_where(settings.lake, USE_CASE.scores_table, lake.scored_by(NIGHT, version))
    query = f"SELECT * FROM read_parquet({sql_list(files)}, hive_partitioning = true) ORDER BY household_id, rank"
    with open_engine(settings) as connection:
        return connection.sql(query).to_arrow_table()


def kill_a_worker_at(cluster, function, work):
    """Do the work, and kill the worker that is first seen at a function meanwhile."""
    with Client(cluster.url, timeout=120, set_as_default=False) as client, ThreadPoolExecutor(1) as thread:
        workers = client.scheduler_info(n_workers=-1)["workers"]
        assert {worker["name"] for worker in workers.values()} == set(WORKERS)
        done = thread.submit(work)
        while not done.done():
            for address, keys in client.processing().items():
                if any(str(key).startswith(function) for key in keys):
                    cluster.kill(workers[address]["name"])
                    return done.result(timeout=300)
            time.sleep(0.02)
        raise AssertionError(f"it was over before a worker was seen at {function}: {done.result()}")


def cpu_seconds(settings, run_id):
    costs = tables.RUN_COSTS
    with warehouse.open_warehouse(settings, only_reads=True) as connection:
        return connection.scalar(sa.select(costs.c.cpu_s).where(costs.c.run_id == run_id))


def test_features_and_scores_of_workers_are_those_of_one_process(local, cluster):
    built, expected_features = build_features(local, USE_CASE, NIGHT, "local"), snapshots(local)
    scored = score(local, USE_CASE, NIGHT, "local")
    expected_scores = scores(local, scored.model_version)
    started = time.process_time()

    assert build_features(on(cluster, local), USE_CASE, NIGHT, "dask") == built
    spent_here = time.process_time() - started
    assert snapshots(local) == expected_features
    assert score(on(cluster, local), USE_CASE, NIGHT, "dask scores") == scored
    assert scores(local, scored.model_version).equals(expected_scores)
    assert expected_scores.num_rows > 6000
    assert cpu_seconds(local, "dask") > spent_here + 0.2


def test_tables_that_are_not_by_entity_are_those_of_one_process_too(local, cluster):
    def versions(settings):
        made = compute_snapshot(settings, REFERENCE, NIGHT, NEWEST)
        return {table.name: lake.content_hash(rows) for table, rows in made}

    expected = versions(local)
    assert versions(on(cluster, local)) == expected
    assert [table.keys[0] for table in REFERENCE.feature_tables] == ["household_id", "household_id", "product_category"]


@pytest.mark.parametrize("step", ["features", "scores"])
def test_a_worker_that_dies_leaves_its_part_to_another(local, cluster, step):
    build_features(local, USE_CASE, NIGHT, "local")
    scored = score(local, USE_CASE, NIGHT, "local")
    expected = snapshots(local), scores(local, scored.model_version)
    settings = on(cluster, local)

    if step == "features":
        kill_a_worker_at(cluster, "_compute", lambda: build_features(settings, USE_CASE, NIGHT, "killed"))
    else:
        kill_a_worker_at(cluster, "_compute", lambda: score(settings, USE_CASE, NIGHT, "killed"))

    assert snapshots(local) == expected[0]
    assert scores(local, scored.model_version).equals(expected[1])


@pytest.fixture(scope="module")
def trained_on(local):
    return [current_snapshot(local, USE_CASE, day, "test") for day in snapshot_dates(USE_CASE, TRAINED)]


def test_trees_of_workers_are_as_good_as_those_of_one_process(local, cluster, trained_on):
    here = fit(local, USE_CASE, TRAINED, trained_on)
    there = fit(on(cluster, local), USE_CASE, TRAINED, trained_on)

    for name in ("binary", "ranker", "blend"):
        one, other = here.validation.overall[name], there.validation.overall[name]
        assert other.ndcg_at_n == pytest.approx(one.ndcg_at_n, abs=0.005)
        assert other.auc == pytest.approx(one.auc, abs=0.003)
    for mine, theirs in zip(here.model.components, there.model.components, strict=False):
        assert theirs.booster.feature_name() == mine.booster.feature_name() == list(USE_CASE.features)
        assert theirs.booster.num_trees() == mine.booster.num_trees()
    assert [one.rows_sha256 for one in there.lineage.snapshots] == [one.rows_sha256 for one in here.lineage.snapshots]


def test_a_training_ends_with_the_workers_that_are_left(local, cluster, trained_on):
    plan = USE_CASE.training.model_copy(update={"boosting_rounds": 200})
    use_case = USE_CASE.model_copy(update={"training": plan})

    trained = kill_a_worker_at(cluster, "_train_part", lambda: fit(on(cluster, local), use_case, TRAINED, trained_on))

    assert {part.booster.num_trees() for part in trained.model.components} == {200}
    assert trained.validation.overall["blend"].auc > 0.8


def test_a_part_of_which_every_worker_dies_ends_the_step_with_a_cause(local):
    with running_dask(local, *WORKERS, DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="1") as cluster:
        with (
            open_cluster(on(cluster, local)) as workers,
            pytest.raises(EngineFailure, match="workers died of the same part") as failure,
        ):
            workers.client.wait_for_workers(len(WORKERS), timeout=120)
            list(workers.map(die, ["true"]))
        assert failure.value.where == f"NIGHTJAR_DASK_SCHEDULER={cluster.url}"


def test_without_a_scheduler_or_a_worker_the_step_names_the_address(local, monkeypatch):
    monkeypatch.setattr(clusters, "_PATIENCE_S", 1)
    nowhere = local.model_copy(update={"engine": "dask", "dask_scheduler": f"tcp://{LOOPBACK}:{free_port()}"})

    with pytest.raises(EngineFailure, match=nowhere.dask_scheduler):
        build_features(nowhere, USE_CASE, NIGHT, "test")
    monkeypatch.setattr(clusters, "_PATIENCE_S", 5)
    with running_dask(local) as cluster, pytest.raises(EngineFailure, match=r"has no worker[\s\S]*" + cluster.url):
        score(on(cluster, local), USE_CASE, NIGHT, "test")


def test_a_worker_of_another_lake_is_refused(local, tmp_path):
    with running_dask(local.model_copy(update={"home": tmp_path}), "worker-1") as cluster:
        with pytest.raises(InvalidSetting, match="sees another lake") as refusal:
            build_features(on(cluster, local), USE_CASE, NIGHT, "test")
        assert (refusal.value.expected, refusal.value.found) == (local.lake.uri, str(tmp_path / "lake"))
