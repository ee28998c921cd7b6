"""A bad model was promoted, and is taken back: aliases, tables, logs, and the commands that tell of it."""

import shutil
import signal
import time
from dataclasses import replace
from datetime import date

import pytest
import sqlalchemy as sa
from registered import GAIN, aliases, say
from toy import USE_CASE
from typer.testing import CliRunner

from pipelines import promotion_log, registry, signing, tables, tracking, warehouse
from pipelines.cli import app
from pipelines.errors import BadInput, InvalidRunParameter, UnknownVersion
from pipelines.features import build_features
from pipelines.gate import judge
from pipelines.lineage import current_snapshot
from pipelines.promotion import promote
from pipelines.publishing import publish
from pipelines.rollback import RollbackOrder, roll_back
from pipelines.scoring import score
from pipelines.settings import Settings
from pipelines.training import fit, train
from pipelines.training_set import snapshot_dates

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("database")]
TRAINED, BOTH, ONLY_BAD = date(2017, 11, 12), date(2017, 11, 19), date(2017, 11, 20)
ORDER = RollbackOrder("1", "asha", "2 ranks the least likely first", BOTH, ONLY_BAD)
SCORES = tables.scores_table(USE_CASE)


def published(settings, day):
    """What readers see of a date, but for which run published it."""
    columns = [column for column in SCORES.columns if column.name != "run_id"]
    query = sa.select(*columns).where(SCORES.c.score_date == day).order_by(SCORES.c.household_id, SCORES.c["rank"])
    with warehouse.open_warehouse(settings) as connection:
        return warehouse.read_rows(connection, query)


def publish_night(settings, day):
    build_features(settings, USE_CASE, day, "night")
    publish(settings, USE_CASE, day, "night", score(settings, USE_CASE, day, "night").model_version)


def register_upside_down(settings):
    """The number of a version, signed and whole, that ranks what is likely last."""
    trained_on = [current_snapshot(settings, USE_CASE, day, "bad") for day in snapshot_dates(USE_CASE, TRAINED)]
    trained = fit(settings, USE_CASE, TRAINED, trained_on)
    good = trained.model.calibration
    bad = replace(trained, model=replace(trained.model, calibration=replace(good, slope=-good.slope)))
    folder = settings.home / "bad"
    tracking.write_run(settings, bad, 1.0, folder)
    return tracking.register(settings, USE_CASE, folder)[0]


@pytest.fixture(scope="module")
def good(year_copy):
    """A home whose first version is champion and has scored and published one night."""
    settings = year_copy(use_cases=["toy"])
    warehouse.create_tables(settings, [USE_CASE])
    version = train(settings, USE_CASE, TRAINED, "good").model_version
    assert judge(settings, USE_CASE, version, TRAINED, "good").is_passed
    promote(settings, USE_CASE, version, "good")
    publish_night(settings, BOTH)
    return settings, published(settings, BOTH)


@pytest.fixture(scope="module")
def spoilt(good):
    """The home after the gate was bypassed for a bad version and two nights were published with it."""
    settings, before = good
    version = register_upside_down(settings)
    report = judge(settings, USE_CASE, version, TRAINED, "bad")
    assert not report.is_passed, "the gate itself would have stopped it"
    assert "NDCG over the champion" in report.reason
    say(settings, USE_CASE, version, GAIN, champion="1")
    assert promote(settings, USE_CASE, version, "bad").is_promoted
    for day in (BOTH, ONLY_BAD):
        publish_night(settings, day)
    assert {row["model_version"] for day in (BOTH, ONLY_BAD) for row in published(settings, day)} == {"2"}
    assert published(settings, BOTH) != before
    return settings, before


@pytest.fixture
def home(spoilt, tmp_path):
    """A copy of the spoilt home of the test's own."""
    settings, before = spoilt
    shutil.copytree(settings.home, tmp_path / "var")
    return settings.model_copy(update={"home": tmp_path / "var"}), before


@pytest.mark.fault("F30")
def test_a_bad_champion_is_taken_back_and_readers_see_the_old_version_for_the_dates(home):
    settings, before = home
    started = time.monotonic()

    report = roll_back(settings, USE_CASE, ORDER, "oncall")

    assert time.monotonic() - started < 60
    assert report.republished == {BOTH: "stored scores", ONLY_BAD: "scored anew"}
    assert (report.from_version, report.trained_as_of) == ("2", TRAINED)
    assert aliases(settings, USE_CASE) == ("1", None), "the bad one is not scored in the shadow either"
    assert published(settings, BOTH) == before
    assert {row["model_version"] for row in published(settings, ONLY_BAD)} == {"1"}
    assert report.rows == len(published(settings, BOTH)) + len(published(settings, ONLY_BAD))
    row = promotion_log.history(settings, USE_CASE)[-1]
    told = {name: row[name] for name in ("action", "from_version", "to_version", "actor", "reason", "evidence")}
    assert told == {
        "action": "rollback",
        "from_version": "2",
        "to_version": "1",
        "actor": "asha",
        "reason": "2 ranks the least likely first",
        "evidence": '{"score_dates": ["2017-11-19", "2017-11-20"]}',
    }
    assert promotion_log.verify(settings, USE_CASE) == 3


@pytest.mark.fault("F30")
def test_what_was_rolled_back_does_not_come_again_by_itself(home):
    settings, _ = home
    roll_back(settings, USE_CASE, RollbackOrder("1", "asha", "bad"), "oncall")
    assert {row["model_version"] for row in published(settings, BOTH)} == {"2"}, "no dates: only the alias"
    say(settings, USE_CASE, "2", GAIN, champion="1")

    report = promote(settings, USE_CASE, "2", "a cleared task")

    assert (report.is_promoted, aliases(settings, USE_CASE)) == (False, ("1", None))
    assert "rolled back" in report.reason


@pytest.mark.fault("F30")
@pytest.mark.parametrize("point", ["rollback.after_log", "rollback.after_aliases", "rollback.after_date"])
def test_a_rollback_that_was_killed_ends_the_same_when_it_is_run_again(home, point, monkeypatch):
    import multiprocessing

    settings, before = home
    monkeypatch.setenv("NIGHTJAR_CRASH_AT", point)
    process = multiprocessing.get_context("spawn").Process(target=roll_back_at, args=(settings.home,))
    process.start()
    process.join(200)
    assert process.exitcode == -signal.SIGKILL
    monkeypatch.delenv("NIGHTJAR_CRASH_AT")

    for _ in range(2):
        roll_back(settings, USE_CASE, ORDER, "again")

    assert aliases(settings, USE_CASE) == ("1", None)
    assert published(settings, BOTH) == before
    assert {row["model_version"] for row in published(settings, ONLY_BAD)} == {"1"}
    assert promotion_log.verify(settings, USE_CASE) == 3


def roll_back_at(home):
    roll_back(Settings(home=home, use_cases=["toy"]), USE_CASE, ORDER, "killed")


@pytest.mark.parametrize(
    ("order", "error"),
    [
        (replace(ORDER, model_version="9"), UnknownVersion),
        (replace(ORDER, first=ONLY_BAD, last=BOTH), InvalidRunParameter),
        (replace(ORDER, last=None), InvalidRunParameter),
    ],
)
def test_an_order_that_makes_no_sense_changes_nothing(spoilt, order, error):
    settings, _ = spoilt
    with pytest.raises(error):
        roll_back(settings, USE_CASE, order, "oncall")
    assert aliases(settings, USE_CASE)[0] == "2"


def test_the_commands_tell_and_undo_it(home, monkeypatch):
    settings, before = home
    run = commands(settings, monkeypatch)

    history = run("model", "history")
    assert "2 entries, all as they were written" in history
    assert "– → 1" in history
    difference = run("model", "diff", "1", "2")
    assert "training_cpu_s" in difference
    assert "training_set_sha256" not in difference, "both learnt from the same rows"
    assert run("model", "key").strip() == signing.public_key(settings)
    undone = run("rollback", "--model", "1", "--from", "2017-11-19", "--to", "2017-11-20", "--reason", "bad")
    assert "version 1 is champion instead of 2" in undone
    assert "2017-11-20 published again: scored anew" in undone
    assert published(settings, BOTH) == before
    assert "rollback" in run("model", "history")


def test_a_promotion_by_hand_is_judged_first(home, monkeypatch):
    settings, _ = home
    run = commands(settings, monkeypatch)
    run("rollback", "--model", "1", "--reason", "bad")

    told = run("model", "promote", "2", "--date", "2017-11-12", "--reason", "trust me")

    assert "version 2 is not champion: NDCG over" in told
    assert aliases(settings, USE_CASE)[0] == "1"


def commands(settings, monkeypatch):
    """Runs `nightjar …` for the toy of a home; gives what it says."""
    monkeypatch.setenv("NIGHTJAR_HOME", str(settings.home))
    monkeypatch.setenv("NIGHTJAR_USE_CASES", "toy")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        for_toy = [] if arguments[-1] == "key" else ["--use-case", USE_CASE.name]
        done = CliRunner().invoke(app, [*arguments, *for_toy])
        assert done.exit_code == 0, (done.output, done.exception)
        return done.output

    return run


def test_an_unsigned_version_is_no_way_back(home):
    settings, _ = home
    registry.open_registry(settings).set_model_version_tag(USE_CASE.name, "1", registry.BUNDLE_TAG, "0" * 64)

    with pytest.raises(BadInput, match="the manifest is not the registered one"):
        roll_back(settings, USE_CASE, ORDER, "oncall")
    assert aliases(settings, USE_CASE)[0] == "2"
