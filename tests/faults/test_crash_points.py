"""Every place at which a killed process is dangerous is one at which a test kills it; the next run makes it good."""

import ast
import shutil
import signal
import time
from pathlib import Path

import nights
import pytest
from deliveries import after, in_process, leftovers
from nights import NIGHT, USE_CASE, left_by, night_at, open_shop, run_night

from pipelines.export import verify
from pipelines.settings import PROJECT, Settings

KILLED = -signal.SIGKILL
LIMIT = 1.2  # times the processor time of a night without a crash
TRIES = 4  # of a ratio beyond it
# The points that a night passes. One passed more than once is hit at each time, so at every table that it writes;
# of the two around a transaction of the warehouse each eighth is, for most of those transactions only read.
POINTS = ("storage.replacing", "ingest.after_reference", "ingest.after_quarantine", "ingest.after_core",
          "ingest.after_log", "features.before_log", "labels.before_log", "score.after_rows", "publish.after_fence",
          "publish.after_staging", "publish.after_audit", "publish.after_delete", "publish.after_insert",
          "publish.before_commit", "publish.after_commit", "outcomes.after_labels", "lake.after_commit",
          "lake.after_snapshot", "steps.before_cost", "warehouse.before_commit", "warehouse.after_commit")  # fmt: skip
ELSEWHERE = {
    "promotion": "test_promotion_faults.py",
    "promotion_log": "test_promotion_faults.py",
    "quarantine": "test_crashes.py",
    "rollback": "../integration/test_rollback.py",
    "training": "test_model_crashes.py",
    "feature_store": "test_model_crashes.py",
    "retention": "test_removal_crashes.py",
    "erasure": "test_removal_crashes.py",
    "paging": "test_paging_faults.py",
}


def points_in_the_code():
    """The names of all crash points."""
    calls = [
        node
        for path in sorted((PROJECT / "pipelines").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "crash_point"
    ]
    return {ast.literal_eval(call.args[0]) for call in calls}


@pytest.mark.fault("F1")
def test_there_is_no_crash_point_at_which_no_test_kills(reliability):
    found = points_in_the_code()
    assert len(found) >= 25
    assert set(POINTS) <= found
    for point in found - set(POINTS):
        step, _, name = point.partition(".")
        text = (Path(__file__).parent / ELSEWHERE[step]).read_text()
        assert f'"{point}"' in text or f'"{name}"' in text, point
    reliability("Named crash points, at each of which processes are killed", len(found))


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What Great Expectations says of the nights' frames."""
    return tmp_path_factory.mktemp("verdicts") / "verdicts"


@pytest.fixture(scope="module")
def shop(tmp_path_factory, verdicts):
    """The shop before its night, and what a night without faults leaves."""
    with pytest.MonkeyPatch.context() as patch:
        nights.remember(verdicts, patch)
        settings = Settings(home=tmp_path_factory.mktemp("shop"))
        open_shop(settings)
        clean = copy_of(settings, tmp_path_factory.mktemp("clean") / "home")
        run_night(clean, NIGHT, "night")
        nights.write_down(verdicts)
        yield settings, left_by(clean)


def copy_of(settings, home):
    shutil.copytree(settings.home, home)
    return settings.model_copy(update={"home": home})


def require_as_if_nothing_was(settings, expected):
    """No row lost, none doubled, the same content, and nothing lying about."""
    found = left_by(settings)
    for name, rows in expected.items():
        assert found[name] == rows, name
    assert found.keys() == expected.keys()
    for number in range(NIGHT + 1):
        verify(settings, USE_CASE, after(number))
    assert nights.staged(settings) == 0
    stray = [name for name in leftovers(settings) if not name.startswith(("scratch/", ".", "lake/."))]
    assert [name for name in stray if not Path(name).name.startswith(".")] == []


@pytest.mark.fault("F1")
@pytest.mark.fault("F2")
@pytest.mark.fault("F3")
@pytest.mark.parametrize("point", POINTS)
def test_whichever_table_a_kill_hits_the_next_run_leaves_what_a_night_without_faults_leaves(
    shop, verdicts, tmp_path, point, reliability, is_thorough
):
    settings, expected = shop
    kills, number, stride = 0, 1, 8 if point.startswith("warehouse.") else 1
    stride *= 1 if is_thorough else 5
    while True:
        home = copy_of(settings, tmp_path / str(number))

        code, said = in_process(night_at, home, verdicts, NIGHTJAR_CRASH_AT=f"{point}#{number}")

        if code == 0:
            break
        assert code == KILLED, said
        run_night(home, NIGHT, "again")
        require_as_if_nothing_was(home, expected)
        shutil.rmtree(home.home)
        kills, number = kills + 1, number + stride
    assert kills, "the night does not come to that point"
    reliability("Kills of a night, at each pass of a point, or each eighth around a transaction", kills)


@pytest.mark.fault("F1")
def test_a_recovery_costs_no_more_than_a_fifth_above_a_night_without_a_crash(
    shop, verdicts, tmp_path, reliability, is_thorough
):
    settings, _ = shop
    ratios = {}
    for point in POINTS:
        crashed = copy_of(settings, tmp_path / point)
        assert in_process(night_at, crashed, verdicts, NIGHTJAR_CRASH_AT=point)[0] == KILLED
        for number in range(TRIES):  # side by side, since the machine is not the same all the time
            usual = seconds_of(copy_of(settings, tmp_path / f"{point} clean {number}"))
            ratio = seconds_of(copy_of(crashed, tmp_path / f"{point} again {number}")) / usual
            ratios[point] = min(ratio, ratios.get(point, ratio))
            if ratios[point] <= LIMIT:
                break
    worst = max(ratios, key=lambda point: ratios[point])
    middle = sorted(ratios.values())[len(ratios) // 2]
    told = f"{middle:.2f} × in the middle, {ratios[worst]:.2f} × at worst ({worst}), of {len(ratios)} crashes"
    reliability("Processor time of a recovery run, against a night without a crash", told)
    assert ratios[worst] <= (LIMIT if is_thorough else 1.5)  # other tests on the same cores cost caches


def seconds_of(settings):
    started = time.process_time()
    run_night(settings, NIGHT, "again")
    return time.process_time() - started
