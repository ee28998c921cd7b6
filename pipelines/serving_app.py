"""The look-up over HTTP: who may ask and how often, and what is answered; its contract is contracts/serving.json."""

import gc
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Annotated, Any

from anyio.to_thread import current_default_thread_limiter
from fastapi import Depends, FastAPI, Path, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.security import APIKeyHeader
from limits import parse
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipelines.errors import InvalidSetting, NightjarError, TooManyCalls, UnknownUseCase, WrongCall, WrongCallerKey
from pipelines.serving import Answer, Context, LookUp
from pipelines.settings import PREFIX, Settings
from pipelines.use_case import UseCase
from pipelines.watch import newest_due

HEADER, RETRY_AFTER_S, THREADS = "X-API-Key", 5, 8
_STATUS: dict[type[NightjarError], int] = {
    WrongCallerKey: 401,
    UnknownUseCase: 404,
    WrongCall: 422,
    TooManyCalls: 429,
}
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)


class Problem(BaseModel):
    """Why there is no list."""

    error: str = Field(description="Name of the error; the same cause has the same name")
    what: str
    where: str
    expected: str | None
    found: str | None
    remedy: str
    runbook: str = Field(description="Section of the runbook")


class Freshness(BaseModel):
    """How new the lists of a use case are."""

    score_date: date | None = Field(description="Newest published date; null: none")
    due_date: date = Field(description="Date that should be published by now")
    is_late: bool


class Health(BaseModel):
    """The warehouse answers."""

    is_ready: bool
    use_cases: dict[str, Freshness]


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No key, or none that is taken"},
    404: {"model": Problem, "description": "No such use case"},
    422: {"model": Problem, "description": "Not a call of this contract"},
    429: {"model": Problem, "description": "More calls than the limit"},
    503: {"model": Problem, "description": "The warehouse does not answer, or nothing was published yet"},
}


def create_app(settings: Settings, use_cases: Sequence[UseCase], clock: Callable[[], datetime]) -> FastAPI:
    """The interface over the lists of these use cases; `clock` tells whether they are late.

    Raises:
        InvalidSetting: there is no key for callers.
    """
    if not settings.serving_keys:
        raise InvalidSetting(
            "nobody could ask: there is no key for callers",
            where=f"environment variable {PREFIX}SERVE_KEYS",
            expected=Settings.model_fields["serve_keys"].description,
            found="no value",
            remedy="give each caller a key of its own, and list them there",
        )
    look_ups = {one.name: LookUp(settings, one) for one in use_cases}

    @asynccontextmanager
    async def be_ready(_app: FastAPI) -> AsyncIterator[None]:
        # As many as the warehouse's kept connections: one more would connect anew for each call.
        current_default_thread_limiter().total_tokens = THREADS
        for one in look_ups.values():
            one.prepare()
        gc.freeze()  # what was imported stays: to look through it again and again would halt every call
        yield
        gc.unfreeze()

    app = FastAPI(title="Nightjar", version="1", docs_url=None, redoc_url=None, lifespan=be_ready)
    registry = CollectorRegistry()
    seconds = Histogram(
        "nightjar_serve_seconds", "Time to answer", ["path", "status"], registry=registry, buckets=_BUCKETS
    )
    app.add_middleware(_Timed, seconds=seconds)
    _answer_errors(app, settings)
    _answer_look_ups(app, settings, look_ups, registry)
    _answer_health(app, settings, look_ups, clock)

    @app.get("/metrics", include_in_schema=False)
    async def show_metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _answer_look_ups(
    app: FastAPI, settings: Settings, look_ups: Mapping[str, LookUp], registry: CollectorRegistry
) -> None:
    lists = Counter("nightjar_serve_lists", "Lists given", ["use_case", "is_known"], registry=registry)

    @app.get(
        "/v1/{use_case}/{entity}",
        responses=_PROBLEMS,
        dependencies=[Depends(_gate(settings))],
        summary="The newest published list of an entity, fitted to the context",
    )
    def look_up(
        use_case: str,
        entity: Annotated[int, Path(ge=-(2**63), lt=2**63, description="As in the warehouse: a pseudonym")],
        context: Annotated[Context, Query()],
        response: Response,
    ) -> Answer:
        if use_case not in look_ups:
            raise UnknownUseCase(
                "no such use case",
                where="path: use_case",
                expected=f"one of {', '.join(look_ups)}",
                found=use_case[:100],
                remedy="correct the address",
            )
        answer = look_ups[use_case].answer(entity, context)
        lists.labels(use_case, str(answer.is_known).lower()).inc()
        response.headers["Cache-Control"] = "no-store"
        return answer


def _answer_health(
    app: FastAPI, settings: Settings, look_ups: Mapping[str, LookUp], clock: Callable[[], datetime]
) -> None:
    @app.get("/health", responses={503: _PROBLEMS[503]}, summary="Whether the warehouse answers, and how new it is")
    def show_health() -> Health:
        due, newest = newest_due(settings, clock()), {name: one.newest() for name, one in look_ups.items()}
        days = {name: found.score_date if found else None for name, found in newest.items()}
        fresh = {
            name: Freshness(score_date=day, due_date=due, is_late=day is None or day < due)
            for name, day in days.items()
        }
        return Health(is_ready=True, use_cases=fresh)


def _gate(settings: Settings) -> Callable[..., Awaitable[None]]:
    """Lets a call pass that has a key and does not come too often; all keys are compared, in constant time."""
    keys, limit = settings.serving_keys, parse(settings.serve_limit)
    limiter = SlidingWindowCounterRateLimiter(MemoryStorage())
    header = APIKeyHeader(name=HEADER, auto_error=False)

    async def pass_gate(request: Request, key: Annotated[str | None, Security(header)]) -> None:
        given = (key or "").encode()
        known = [number for number, each in enumerate(keys) if secrets.compare_digest(each, given)]
        caller = f"key {known[0]}" if known else f"address {request.client.host if request.client else ''}"
        if not limiter.hit(limit, caller):
            raise TooManyCalls(
                "too many calls",
                where=f"header {HEADER}",
                expected=f"no more than {settings.serve_limit}",
                remedy="wait as long as Retry-After says",
            )
        if not known:
            raise WrongCallerKey(
                "the call has no key that is taken",
                where=f"header {HEADER}",
                expected="the key that was given to you",
                found="another" if key else "none",
                remedy="ask whoever runs the look-up for a key",
            )

    return pass_gate


def _answer_errors(app: FastAPI, settings: Settings) -> None:
    waits = {429: parse(settings.serve_limit).get_expiry(), 503: RETRY_AFTER_S}

    def answer(error: NightjarError, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
        facts = {name: getattr(error, name) for name in ("what", "where", "expected", "found", "remedy")}
        told = {name: None if fact is None else str(fact) for name, fact in facts.items()}
        body = {"error": type(error).__name__, **told, "runbook": f"{settings.runbook_url}#{error.runbook}"}
        wait = {"Retry-After": str(waits[status])} if status in waits else {}
        challenge = {"WWW-Authenticate": f"ApiKey header={HEADER}"} if status == 401 else {}
        return JSONResponse(body, status, {**wait, **challenge, **(headers or {})})

    @app.exception_handler(NightjarError)
    async def show_error(_request: Request, error: NightjarError) -> JSONResponse:
        return answer(error, _STATUS.get(type(error), 503))

    @app.exception_handler(RequestValidationError)
    async def show_wrong_call(_request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ": ".join(str(part) for part in first["loc"])
        found, remedy = repr(first.get("input"))[:100], "correct the call; /openapi.json has the contract"
        return answer(
            WrongCall("the call is wrong", where=place, expected=first["msg"], found=found, remedy=remedy), 422
        )

    @app.exception_handler(HTTPException)
    async def show_wrong_address(request: Request, error: HTTPException) -> JSONResponse:
        remedy = "GET /v1/{use_case}/{entity}; /openapi.json has the contract"
        wrong = WrongCall(error.detail, where=f"{request.method} {request.url.path}"[:100], remedy=remedy)
        return answer(wrong, error.status_code, error.headers)


class _Timed:
    """Counts and times the answers, by the form of the path and the status."""

    def __init__(self, app: ASGIApp, seconds: Histogram) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, began = 500, time.perf_counter()

        async def note(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, note)
        finally:
            if scope["type"] == "http":
                path = getattr(scope.get("route"), "path", "other")
                self._seconds.labels(path, status).observe(time.perf_counter() - began)
