"""An erasure or a janitor that is killed: whoever runs it again has nothing left to fear and nothing lost besides."""

import signal

import pytest
from deliveries import after, in_process, rows_of
from nights import NIGHT, USE_CASE, left_by, open_shop, remember, run_night
from test_crash_points import copy_of

from pipelines.erasure import erase
from pipelines.pseudonyms import pseudonym
from pipelines.retention import clean
from pipelines.settings import Settings

KILLED = -signal.SIGKILL
GONE = 3  # raw id of the household that is erased


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The shop after its night; landing and quarantine are kept for three days."""
    with pytest.MonkeyPatch.context() as patch:
        remember(tmp_path_factory.mktemp("verdicts") / "verdicts", patch)
        settings = Settings(home=tmp_path_factory.mktemp("shop"), keep_landing_days=3, keep_quarantine_days=3)
        open_shop(settings)
        run_night(settings, NIGHT, "night")
        yield settings


def erase_at(settings):
    erase(settings, str(GONE), after(NIGHT), "erasure")


def clean_at(settings):
    clean(settings, after(NIGHT), "janitor")


def held(settings):
    """What the nights have left, and the files of landing."""
    files = sorted(str(path.relative_to(settings.home)) for path in settings.landing.folder.rglob("*.*"))
    return left_by(settings) | {"landing": files}


@pytest.mark.fault("F1")
@pytest.mark.attack("S17")
@pytest.mark.parametrize(("step", "point"), [(erase_at, "erasure.after_layer"), (clean_at, "retention.after_layer")])
def test_after_a_kill_between_any_two_layers_the_next_run_ends_the_work(shop, tmp_path, step, point):
    done = copy_of(shop, tmp_path / "done")
    step(done)
    expected = held(done)
    assert expected != held(shop)
    number = 0
    while True:
        number += 1
        home = copy_of(shop, tmp_path / str(number))
        code, said = in_process(step, home, NIGHTJAR_CRASH_AT=f"{point}#{number}")
        if code == 0:
            break
        assert code == KILLED, said
        step(home)
        assert held(home) == expected, number
    assert number > 3
    if step is erase_at:
        gone = pseudonym(done.key, str(GONE))
        assert gone not in {row["household_id"] for row in rows_of(done, "core__transactions")}
        assert gone not in {row[1] for row in expected[USE_CASE.scores_table]}
    else:
        assert len(expected["landing"]) < len(held(shop)["landing"])
