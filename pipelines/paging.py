"""Pages to people: one for each incident, in a file of their own until every channel has taken them.

The file lies in the home folder, on a folder that all machines share; neither the warehouse nor Airflow's database is
needed to page, as they may be what is down.
"""

import fcntl
import hashlib
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr

from pipelines.crash_points import crash_point
from pipelines.settings import Settings
from pipelines.storage import replacing

FLOOD = "many things fail at once"
FLOOD_WINDOW = timedelta(minutes=5)
_FIRST_WAIT, _LONGEST_WAIT = timedelta(seconds=30), timedelta(minutes=15)
_FORGOTTEN = timedelta(days=7)  # causes of a run that never told how it ended
_LONGEST_LINE = 400
_LOGIN = re.compile(r"(?<=://)[^/\s@]*@")
_PERSON = re.compile(r"(?i)(household\w*\W{0,4})\d+|(?<![\d.])\d{12,}\b")
_log = logging.getLogger(__name__)


class Page(BaseModel):
    """What on-call reads: `key` names the incident, `part` (else the key) what must recover for it to be over.

    `meaning`: what readers of the table see meanwhile; `runbook`: the anchor of its section.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    what: str
    cause: str
    meaning: str
    runbook: str
    part: str = ""
    severity: Literal["critical", "warning"] = "critical"
    use_case: str = ""
    business_date: date | None = None
    remedy: str = ""
    owner: str = "data platform"
    log_url: str = ""


class OpenPage(BaseModel):
    """An incident that lasts: its page, what must recover, and how often it was reported."""

    page: Page
    since: AwareDatetime
    parts: set[str]
    count: int = 1


class Message(BaseModel):
    """A page, or the word that it is over, for the channels that have not taken it yet."""

    page: Page
    since: AwareDatetime
    at: AwareDatetime
    is_resolved: bool
    channels: tuple[str, ...]

    @property
    def id(self) -> str:
        """The same for every attempt to send it."""
        told = f"{self.page.key}|{self.since}|{self.is_resolved}"
        return hashlib.sha256(told.encode()).hexdigest()[:20]


class Cause(BaseModel):
    """Why a task failed for good, in one line, as its process told; `runbook` is the anchor of the error's section."""

    task: str
    at: AwareDatetime
    error: str
    remedy: str = ""
    runbook: str = ""
    log_url: str = ""


class ChannelState(BaseModel):
    """Since when a channel refuses, why, and when it is tried again."""

    since: AwareDatetime
    retry_at: AwareDatetime
    problem: str


class State(BaseModel):
    """All that paging remembers."""

    open: dict[str, OpenPage] = Field(default_factory=dict)
    outbox: list[Message] = Field(default_factory=list)
    down: dict[str, ChannelState] = Field(default_factory=dict)
    causes: dict[str, list[Cause]] = Field(default_factory=dict)
    heartbeat: AwareDatetime | None = None


def page(settings: Settings, news: Page, at: datetime, *, unless_open: Iterable[str] = ()) -> bool:
    """Open the incident and queue its page; a known one is only counted. Gives whether it is new.

    Where an incident is open in which one of `unless_open` must recover, this is its consequence and joins it.
    """
    told = {name: clean(settings, getattr(news, name)) for name in ("what", "cause", "meaning", "remedy")}
    news = news.model_copy(update=told)
    part = news.part or news.key
    with changing(settings) as state:
        known = _known(state, news.key, part, set(unless_open))
        if known is None and _floods(settings, state, at):
            known, news = state.open.get(FLOOD), _flood(state, news, at)
        _leave(settings, state, part, at, but=known)
        if known is None:
            state.open[news.key] = OpenPage(page=news, since=at, parts={part})
            _queue(settings, state, state.open[news.key], at, is_resolved=False)
        else:
            known.parts.add(part)
            known.count += 1
    return known is None


def resolve(settings: Settings, part: str, at: datetime) -> None:
    """Note that something has recovered; an incident in which nothing else must is over, and its page says so."""
    with changing(settings) as state:
        _leave(settings, state, part, at)


def deliver(settings: Settings, at: datetime) -> dict[str, str]:
    """Send what waits to each channel that is not known to be down; gives the channels that refuse, and why.

    What a channel took is noted before the next is sent: a crash between the two repeats one message on one channel.
    """
    from pipelines.channels import send

    with _lock(settings, "deliver"):
        waiting = read_state(settings)
        silent = {name for name, known in waiting.down.items() if known.retry_at > at}
        for message in waiting.outbox:
            for channel in message.channels:
                if channel in silent:
                    continue
                problem = send(settings, channel, message, at)
                crash_point("paging.sent")
                with changing(settings) as state:
                    _note_sending(state, channel, message, problem, at)
                if problem:
                    silent.add(channel)
                    _log.warning("the channel %s refuses pages: %s", channel, problem)
    return {name: known.problem for name, known in read_state(settings).down.items()}


def note_cause(settings: Settings, run: str, cause: Cause) -> None:
    """Keep why a task of a run failed, for the page of the run."""
    with changing(settings) as state:
        state.causes.setdefault(run, []).append(cause.model_copy(update={"error": clean(settings, cause.error)}))


def take_causes(settings: Settings, run: str, at: datetime) -> list[Cause]:
    """Why the tasks of a run failed, first to last; they are forgotten, as are those of runs that never ended."""
    with changing(settings) as state:
        found = state.causes.pop(run, [])
        state.causes = {name: told for name, told in state.causes.items() if told[-1].at > at - _FORGOTTEN}
    return sorted(found, key=lambda cause: cause.at)


def clean(settings: Settings, text: str) -> str:
    """The text in one line, without our secrets, logins and ids of people."""
    kept = [getattr(settings, name) for name in type(settings).model_fields]
    for secret in kept:
        if isinstance(secret, SecretStr) and secret.get_secret_value():
            text = text.replace(secret.get_secret_value(), "***")
    text = _PERSON.sub(r"\1***", _LOGIN.sub("", " ".join(text.split())))
    return text if len(text) <= _LONGEST_LINE else f"{text[:_LONGEST_LINE]} …"


def read_state(settings: Settings) -> State:
    """What is open and what waits; readers need no lock."""
    path = settings.home / "paging" / "state.json"
    return State.model_validate_json(path.read_bytes()) if path.exists() else State()


@contextmanager
def changing(settings: Settings) -> Iterator[State]:
    """The state, for one process at a time; replaced as a whole at the end, or not at all."""
    with _lock(settings, "state"):
        state = read_state(settings)
        yield state
        with replacing(settings.home / "paging" / "state.json") as unfinished:
            unfinished.write_text(state.model_dump_json(indent=1))


def _known(state: State, key: str, part: str, causes: set[str]) -> OpenPage | None:
    """The open incident that this is, or that it follows from, or the flood that it is part of."""
    if key in state.open:
        return state.open[key]
    follows = (known for known in state.open.values() if known.parts & causes)
    flooded = (known for name, known in state.open.items() if name == FLOOD and part in known.parts)
    return next(follows, next(flooded, None))


def _leave(settings: Settings, state: State, part: str, at: datetime, but: OpenPage | None = None) -> None:
    """Take the part out of every incident but one; close those in which nothing is left."""
    for key, known in list(state.open.items()):
        if known is not but and part in known.parts:
            known.parts.remove(part)
            if not known.parts:
                _queue(settings, state, state.open.pop(key), at, is_resolved=True)


def _queue(settings: Settings, state: State, known: OpenPage, at: datetime, *, is_resolved: bool) -> None:
    told = {"page": known.page, "since": known.since, "at": at, "is_resolved": is_resolved}
    if settings.page_channels:
        state.outbox.append(Message(**told, channels=settings.page_channels))
    else:
        _log.warning("no channel is set for pages, so nobody hears of: %s", known.page.what)


def _floods(settings: Settings, state: State, at: datetime) -> bool:
    return sum(known.since > at - FLOOD_WINDOW for known in state.open.values()) >= settings.flood_pages


def _flood(state: State, news: Page, at: datetime) -> Page:
    others = [known.page.what for known in state.open.values() if known.since > at - FLOOD_WINDOW]
    return Page(
        key=FLOOD,
        part=news.part or news.key,
        what=f"{len(others) + 1} incidents within {FLOOD_WINDOW.seconds // 60} minutes; further ones send no page",
        cause=f"{news.what}: {news.cause}",
        meaning="see the pages before; nightjar watch lists what is open",
        runbook="many-things-fail-at-once",
    )


def _note_sending(state: State, channel: str, message: Message, problem: str, at: datetime) -> None:
    """Strike the channel off the message, or put its next attempt off, twice as long each time."""
    if problem:
        since = state.down[channel].since if channel in state.down else at
        wait = min(max(at - since, _FIRST_WAIT), _LONGEST_WAIT)
        state.down[channel] = ChannelState(since=since, retry_at=at + wait, problem=problem)
        return
    state.down.pop(channel, None)
    for waiting in state.outbox:
        if waiting.id == message.id:
            waiting.channels = tuple(name for name in waiting.channels if name != channel)
    state.outbox = [waiting for waiting in state.outbox if waiting.channels]


@contextmanager
def _lock(settings: Settings, name: str) -> Iterator[None]:
    folder = settings.home / "paging"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / f"{name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
