"""Servers that run beside us, each in its own session: started, recognised again, stopped without a trace."""

import dataclasses
import json
import os
import random
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from pipelines.errors import AlreadyRunning, EngineFailure
from pipelines.settings import Settings

LOOPBACK = "127.0.0.1"
_PORTS = frozenset(range(20_000, 32_000))  # by default Linux gives none of these to whoever asks for any
_given: set[int] = set()
_random = random.SystemRandom()  # processes that were forked draw different ports


@dataclass(frozen=True)
class Server:
    """A server: `pid` leads its session, and `created_s` tells it from a later process of that number."""

    name: str
    pid: int
    created_s: float
    url: str
    log: str


def free_port(preferred: int = 0) -> int:
    """The preferred port of the loopback interface if nobody has it, otherwise a free one, each time another."""
    for port in filter(None, (preferred, *_random.sample(sorted(_PORTS - _given), 50))):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            _given.add(port)
            return port
    raise OSError("the system has no free port")


def start_server(
    settings: Settings, name: str, command: Sequence[str], environment: Mapping[str, str], url: str
) -> Server:
    """Start a server in a session of its own, deaf to the terminal's Ctrl-C, and note it in the home folder.

    Raises:
        AlreadyRunning: the home folder has one of that name.
    """
    running = recall(settings, name)
    if running:
        raise AlreadyRunning(
            f"{name} already runs for this home folder",
            where=f"{settings.home}, process {running.pid}",
            found=running.url,
            remedy="make down",
        )
    log = settings.home / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        command[0],
        list(command),
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigdef=[signal.SIGINT],  # a shell's `&` makes its children ignore SIGINT, which is how we stop it
    )
    server = Server(name, pid, psutil.Process(pid).create_time(), url, str(log))
    note = _note(settings, name)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(dataclasses.asdict(server)))
    return server


def recall(settings: Settings, name: str) -> Server | None:
    """The server of that name that this home folder has running; a note about a finished one is removed."""
    note = _note(settings, name)
    if not note.exists():
        return None
    server = Server(**json.loads(note.read_text()))
    if family(server):
        return server
    note.unlink()
    return None


def is_running(server: Server) -> bool:
    """Whether the server's first process lives."""
    return any(process.pid == server.pid for process in family(server))


def wait_until_up(server: Server, patience_s: float = 120, path: str = "/health") -> None:
    """Return once the server answers at the path that all is well.

    Raises:
        EngineFailure: it has died, or needs longer than the patience.
    """
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline and is_running(server):
        with suppress(httpx.TransportError):
            if httpx.get(f"{server.url}{path}", trust_env=False).is_success:
                return
        time.sleep(0.5)
    raise EngineFailure(
        f"{server.name} did not become ready", where=server.url, found=newest_lines(server), remedy=f"read {server.log}"
    )


def newest_lines(server: Server, count: int = 15) -> str:
    """The end of the server's log."""
    log = Path(server.log)
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:]) if log.exists() else "no log"


def family(server: Server) -> list[psutil.Process]:
    """The server's living processes: all of its session, and all that descend from them."""
    try:
        leader = psutil.Process(server.pid)
        if leader.create_time() != server.created_s:
            return []  # the number has been given away; the kernel never does that while the session lives
    except psutil.NoSuchProcess:
        pass
    members = {process for process in psutil.process_iter() if _session(process.pid) == server.pid}
    for member in list(members):
        try:
            members.update(member.children(recursive=True))
        except psutil.NoSuchProcess:
            continue
    return [process for process in members if _is_alive(process)]


def stop_server(settings: Settings, server: Server, patience_s: float = 10) -> int:
    """Stop the server and everything that it started; gives the number of processes that had to be killed.

    A process that works on is told again after the patience, and killed after half as long once more.
    """
    known = set(family(server))
    for process in known:
        if process.pid == server.pid:
            _signal(process, signal.SIGINT)
    for number, patience in ((signal.SIGTERM, patience_s), (signal.SIGKILL, patience_s / 2)):
        known = _wait_for_end(server, known, patience)
        for process in known:
            _signal(process, number)
    _wait_for_end(server, known, patience_s)
    with suppress(ChildProcessError):
        os.waitpid(server.pid, os.WNOHANG)
    _note(settings, server.name).unlink(missing_ok=True)
    return len(known)


def _wait_for_end(server: Server, known: set[psutil.Process], patience_s: float) -> set[psutil.Process]:
    """What still lives after the patience of the known processes and of those that they started meanwhile."""
    deadline = time.monotonic() + patience_s
    while True:
        known = {process for process in known | set(family(server)) if _is_alive(process)}
        if not known or time.monotonic() > deadline:
            return known
        time.sleep(0.2)


def _signal(process: psutil.Process, number: int) -> None:
    with suppress(psutil.NoSuchProcess):
        process.send_signal(number)


def _note(settings: Settings, name: str) -> Path:
    return settings.home / "servers" / f"{name}.json"


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
