"""`make drill`, in a real Airflow that is broken on purpose: exactly one page for each incident, on every channel."""

import json
import os
import sys

import pytest
from postgres import SERVER
from stoppable import run_to_the_end

from pipelines.settings import PROJECT

pytestmark = pytest.mark.slow
EXPECTED = {  # pages on each channel, words that it is over on each channel
    "a retry that succeeded": (0, 0),
    "scores came from a fallback: no champion": (1, 0),
    "bad drop; run twice, then mended": (1, 1),
    "task killed by SIGKILL, in each attempt": (1, 0),
    "audit refused": (1, 0),
    "scores late; looked for twice": (1, 0),
    "warehouse down, and back": (1, 1),
    "alert channel down and back, while a drop is bad": (1, 0),
    "scheduler killed in mid-run: silence; the run ends well after its restart": (1, 1),
}
PROGRAM = """
import json, sys
from pathlib import Path
from local_stack.drill import drill

told = {one.incident: [one.pages, one.resolved] for one in drill(Path(sys.argv[1]))}
print("RESULT" + json.dumps(told))
"""


@pytest.mark.fault("F31")
@pytest.mark.fault("F32")
@pytest.mark.fault("F23")
def test_each_incident_is_one_page_on_each_channel_and_what_heals_by_itself_is_none(tmp_path):
    left_out = ("AIRFLOW", SERVER)  # the drill breaks the SQLite file of its own home
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "drill")]
    status, told = run_to_the_end(command, PROJECT, environment, is_told=True)
    assert status == 0, told[-6000:]
    found = json.loads(next(line for line in told.splitlines() if line.startswith("RESULT"))[6:])
    assert "incidents within" not in str(found), "a page of its own for each"
    counts = {
        incident: tuple({len(subjects) for subjects in kind.values()} for kind in kinds)
        for incident, kinds in found.items()
    }
    assert counts == {incident: ({pages}, {over}) for incident, (pages, over) in EXPECTED.items()}
