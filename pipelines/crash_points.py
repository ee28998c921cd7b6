"""Named places at which a test can end a step as a lost machine would, or hold it as a machine that hangs."""

import os
import signal


def crash_point(name: str) -> None:
    """Nothing; but where the setting `crash_at` names the place, the process is gone, without any clean-up.

    With `:stop` behind the name it stands still until somebody sends SIGCONT.
    """
    place, _, how = os.environ.get("NIGHTJAR_CRASH_AT", "").partition(":")
    if place == name:
        os.kill(os.getpid(), signal.SIGSTOP if how == "stop" else signal.SIGKILL)
