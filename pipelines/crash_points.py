"""Named places at which a test can end a step as a lost machine would, or hold it as a machine that hangs."""

import os
import signal
from collections import Counter

_PASSED = Counter[str]()


def crash_point(name: str) -> None:
    """Nothing; but where the setting `crash_at` names the place, the process is gone, without any clean-up.

    With `#3` behind the name, at the third time. With `:stop` at the end it stands still until somebody sends SIGCONT.
    """
    place, _, how = os.environ.get("NIGHTJAR_CRASH_AT", "").partition(":")
    place, _, number = place.partition("#")
    if place == name:
        _PASSED[name] += 1
        if _PASSED[name] == int(number or 1):
            os.kill(os.getpid(), signal.SIGSTOP if how == "stop" else signal.SIGKILL)
