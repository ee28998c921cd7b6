"""Commands that start servers of their own, and stop them when they are told to."""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PATIENCE_S = 60


def run_to_the_end(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], *, is_told: bool = False
) -> tuple[int, str]:
    """Status and, if wanted, output of the command; a test that fails meanwhile lets it stop what it has started."""
    output = subprocess.PIPE if is_told else None
    with subprocess.Popen(
        command, cwd=folder, env=dict(environment), stdout=output, stderr=output and subprocess.STDOUT, text=True
    ) as process:
        try:
            told, _ = process.communicate()
        except BaseException:
            process.terminate()
            try:
                process.communicate(timeout=PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
    return process.returncode, told or ""
