import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from local_stack.servers import family, free_port, is_running, recall, start_server, stop_server
from pipelines.errors import AlreadyRunning

# A server that starts a child of its own and, when told to stop by SIGINT, takes the child with it.
POLITE = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; print('child', flush=True); time.sleep(600)"])
print("up", flush=True)
try:
    time.sleep(600)
except KeyboardInterrupt:
    child.terminate()
    child.wait()
"""
# Its child ignores every signal that can be ignored, and leaves for a session of its own.
STUBBORN = POLITE.replace("import time;", "import os, signal, time; os.setsid();").replace(
    "print('child'",
    "[signal.signal(s, signal.SIG_IGN) for s in (signal.SIGINT, signal.SIGTERM)]; print('child'",
)


def start(settings, program, name="server"):
    server = start_server(settings, name, [sys.executable, "-c", program], dict(os.environ), "http://nowhere")
    deadline = time.monotonic() + 10
    while "child" not in Path(server.log).read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return server


@pytest.mark.parametrize(("program", "killed"), [(POLITE, 0), (STUBBORN, 1)])
def test_a_stopped_server_leaves_no_process_behind(settings, program, killed):
    server = start(settings, program)
    processes = family(server)
    assert len(processes) == 2
    assert stop_server(settings, server, patience_s=2) == killed
    assert not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
    assert recall(settings, "server") is None


def test_a_server_runs_in_a_session_of_its_own_so_that_ctrl_c_in_the_terminal_does_not_reach_it(settings):
    server = start(settings, POLITE)
    try:
        assert os.getsid(server.pid) == server.pid != os.getsid(0)
    finally:
        stop_server(settings, server)


def test_sigint_stops_a_server_even_if_we_were_started_deaf_to_it(settings):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        server = start(settings, POLITE)
        assert stop_server(settings, server) == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_running_server_is_recalled_and_not_started_twice(settings):
    server = start(settings, POLITE)
    try:
        assert recall(settings, "server") == server
        assert is_running(server)
        with pytest.raises(AlreadyRunning, match="make down"):
            start(settings, POLITE)
    finally:
        stop_server(settings, server)


def test_a_server_whose_first_process_was_killed_is_still_recalled_and_its_rest_stopped(settings):
    server = start(settings, POLITE)
    os.kill(server.pid, signal.SIGKILL)
    os.waitpid(server.pid, 0)
    assert not is_running(server)
    assert recall(settings, "server") == server
    stop_server(settings, server, patience_s=1)
    assert family(server) == []


def test_a_process_that_was_given_the_number_of_a_server_is_left_alone(settings):
    server = start(settings, POLITE)
    stop_server(settings, server)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as other:
        note = settings.home / "servers" / "server.json"
        note.write_text(f'{{"name": "server", "pid": {other.pid}, "created_s": 1.0, "url": "", "log": ""}}')
        assert recall(settings, "server") is None
        assert other.poll() is None
        other.kill()


def test_a_port_that_is_taken_is_replaced_by_a_free_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert free_port(port) not in (0, port)
    assert free_port(port) == port


def test_free_ports_differ_and_none_is_one_that_linux_by_default_gives_to_whoever_asks_for_any():
    found = [free_port() for _ in range(500)]
    assert len(set(found)) == 500
    assert all(1024 < port < 32768 for port in found)
