"""`make drill`, in a real Airflow that is broken on purpose: exactly one page for each incident, on every channel."""

import json
import os
import subprocess
import sys

import pytest
from postgres import SERVER

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
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "drill")],
        cwd=PROJECT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))[6:])
    assert "incidents within" not in str(found), "a page of its own for each"
    counts = {
        incident: tuple({len(subjects) for subjects in kind.values()} for kind in kinds)
        for incident, kinds in found.items()
    }
    assert counts == {incident: ({pages}, {over}) for incident, (pages, over) in EXPECTED.items()}
