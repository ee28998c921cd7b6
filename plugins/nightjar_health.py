"""The page "Model health" in Airflow's UI, behind its login and roles: in the navigation, and as a tab of each DAG."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.sdk.plugins_manager import AirflowPlugin

from nightjar_pages import URL as PAGES
from nightjar_pages import WITHOUT_SCRIPTS
from pipelines.settings import Settings, load_settings
from pipelines.use_case import UseCase

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

PREFIX = "/model_health"
URL = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/") + PREFIX
TITLE, PATIENCE_S, RETRY_AFTER_S = "Model health", 2, "30"


def create_app(settings: Settings) -> "FastAPI":
    """The page of each use case whose monitor one may read in Airflow, and a list of them.

    Its data are read anew each time. Who is not logged in is sent to Airflow's login; 403: it is not theirs to see;
    404: there is no such use case; 503: the warehouse cannot be read.
    """
    from airflow.api_fastapi.core_api.security import get_user
    from fastapi import Depends, FastAPI, HTTPException
    from fastapi.responses import HTMLResponse, Response

    from pipelines.errors import NightjarError
    from pipelines.use_cases import load_use_cases

    app = FastAPI(title=TITLE, openapi_url=None)
    hasty = settings.model_copy(update={"warehouse_patience_s": min(settings.warehouse_patience_s, PATIENCE_S)})
    use_cases = load_use_cases(settings)

    @app.get("/")
    def show_all(dag_id: str = "", user: Any = Depends(get_user)) -> HTMLResponse:  # noqa: B008  # FastAPI's way
        seen = {name: one for name, one in use_cases.items() if _may_read(user, one)}
        asked = dag_id.partition("__")[2]
        return _answer(_page(hasty, seen[asked]) if asked in seen else _list(hasty, seen))

    @app.get("/{name}")
    def show_one(name: str, user: Any = Depends(get_user)) -> HTMLResponse:  # noqa: B008
        if name not in use_cases:
            raise HTTPException(404, "There is no such use case.")
        if not _may_read(user, use_cases[name]):
            raise HTTPException(403, "This use case is not yours to see.")
        return _answer(_page(hasty, use_cases[name]))

    @app.exception_handler(NightjarError)
    def show_error(request: "Request", error: NightjarError) -> Response:
        from pipelines.health_report import as_error

        body = as_error(error.what, error.remedy, f"{settings.runbook_url}#{error.runbook}")
        return HTMLResponse(body, 503, WITHOUT_SCRIPTS | {"Retry-After": RETRY_AFTER_S})

    app.add_exception_handler(401, _send_to_login)
    return app


def _answer(body: str) -> Any:
    from fastapi.responses import HTMLResponse

    return HTMLResponse(body, headers=WITHOUT_SCRIPTS | {"Cache-Control": "no-store"})


def _send_to_login(request: "Request", _error: Exception) -> Any:
    from airflow.api_fastapi.app import get_auth_manager
    from fastapi.responses import RedirectResponse

    return RedirectResponse(get_auth_manager().get_url_login(next_url=str(request.url)), 303)


def _may_read(user: Any, use_case: UseCase) -> bool:
    """Whether Airflow lets somebody read the DAG that monitors the use case."""
    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.models.resource_details import DagDetails

    monitor = DagDetails(id=f"monitor__{use_case.name}")
    return get_auth_manager().is_authorized_dag(method="GET", details=monitor, user=user)


def _page(settings: Settings, use_case: UseCase) -> str:
    from pipelines.health_report import Links, as_html, links

    health = _health(settings, use_case)
    more = links(settings, use_case, health, PAGES)
    return as_html(use_case, health, Links(f"{URL}/", "All use cases", {"A page for each night": _nights()} | more))


def _list(settings: Settings, seen: dict[str, UseCase]) -> str:
    from pipelines.health_report import as_index

    return as_index({f"{URL}/{name}": (one, _health(settings, one)) for name, one in seen.items()}, _nights())


def _health(settings: Settings, use_case: UseCase) -> Any:
    from pipelines.model_health import read_health
    from pipelines.watch import newest_due

    now = datetime.now(UTC)
    tomorrow = now.astimezone(settings.zone).date() + timedelta(days=1)
    return read_health(settings, use_case, tomorrow, newest_due(settings, now))


def _nights() -> str:
    return f"{PAGES}/model_health"


class NightjarHealth(AirflowPlugin):
    """Registers the page with Airflow."""

    name = "nightjar_health"
    external_views: ClassVar = [
        {"name": TITLE, "href": f"{URL}/", "destination": "nav", "url_route": "model_health_nav"},
        {"name": TITLE, "href": f"{URL}/?dag_id={{DAG_ID}}", "destination": "dag", "url_route": "model_health_dag"},
    ]

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:
        """Built when the API server asks, so that workers import none of it."""
        return [{"app": create_app(load_settings()), "url_prefix": PREFIX, "name": TITLE}]
