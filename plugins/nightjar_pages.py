"""Data docs, profiles and model cards in Airflow's UI, behind its login: in the navigation, as DAG tabs, in tasks."""

import re
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import urlencode, urlsplit

from airflow.configuration import conf
from airflow.sdk import BaseOperatorLink
from airflow.sdk.plugins_manager import AirflowPlugin

from pipelines.pages import DATA_DOCS, MODEL_CARDS, MODEL_HEALTH, PROFILES, frame_page
from pipelines.settings import load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI

PREFIX = "/nightjar"
URL = urlsplit(conf.get("api", "base_url", fallback="")).path.rstrip("/") + PREFIX
TITLES = {DATA_DOCS: "Data docs", PROFILES: "Profiles", MODEL_CARDS: "Model cards"}
NIGHTS = "Model health by night"  # reached from the page on model health
# A page may run its own scripts, as Evidently's do, but is a stranger to Airflow: without cookies, requests or links.
ISOLATED = {
    "Content-Security-Policy": "sandbox allow-scripts; default-src 'none'; img-src data:; font-src data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'"
}
WITHOUT_SCRIPTS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
_EMPTY = {
    DATA_DOCS: "Nothing was validated yet. Each ingest, feature build and publication leaves its page here.",
    PROFILES: "There is no profile yet. nightjar profile --table core__transactions --date 2017-11-19 makes one.",
    MODEL_CARDS: "There is no model card yet. train__<use case> writes one for each model that was judged.",
    MODEL_HEALTH: "There is no page of a night yet. monitor__<use case> writes one each night.",
}
Kind = Literal["data_docs", "profiles", "model_cards", "model_health"]


class DataDocsLink(BaseOperatorLink):
    """The data docs of the business date of a task's run; works in the API server, which has the database."""

    name = "Data docs"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Address of the list of that date's pages; of all pages where the run has no date. Signature: Airflow's."""
        from airflow.models import DagRun
        from airflow.utils.session import create_session

        with create_session() as session:
            runs = session.query(DagRun.partition_key).filter_by(dag_id=ti_key.dag_id, run_id=ti_key.run_id)
            return f"{URL}/{DATA_DOCS}?{urlencode({'date': runs.scalar() or ''})}"


def create_app(home: Path) -> "FastAPI":
    """The pages below a home folder, for whoever is logged in to Airflow."""
    from airflow.api_fastapi.core_api.security import get_user
    from fastapi import Depends, FastAPI, HTTPException
    from fastapi.responses import FileResponse, HTMLResponse

    app = FastAPI(title="Nightjar", dependencies=[Depends(get_user)], openapi_url=None)

    @app.get("/{kind}")
    def show_index(kind: Kind, date: str = "") -> HTMLResponse:
        return HTMLResponse(_index(kind, list(_pages(home, kind)), date), headers=WITHOUT_SCRIPTS)

    @app.get("/{kind}/{subject}/{name}")
    def show_page(kind: Kind, subject: str, name: str) -> FileResponse:
        page = _pages(home, kind).get((name, subject))  # what the folder lists, and nothing else, is served
        if page is None:
            raise HTTPException(404, "There is no such page; it may have been pruned.")
        headers = WITHOUT_SCRIPTS if kind == MODEL_HEALTH else ISOLATED
        return FileResponse(page, media_type="text/html", headers=headers)

    return app


def _pages(home: Path, kind: str) -> dict[tuple[str, str], Path]:
    """The pages by file name and subject, the newest date or version first."""
    root = (home / kind).resolve()
    found = sorted(root.glob("[!.]*/[!.]*.html"), key=_age, reverse=True)
    return {(page.name, page.parent.name): page for page in found if page.resolve() == page and page.is_file()}


def _age(page: Path) -> tuple[list[int], str]:
    return [int(number) for number in re.findall(r"\d+", page.name)], page.parent.name


def _index(kind: str, pages: list[tuple[str, str]], date: str) -> str:
    rows = [
        f"<tr><td>{escape(dates.replace('_', ' to '))}</td>"
        f'<td><a href="{escape(f"{kind}/{subject}/{dates}.html")}">{escape(subject)}</a></td></tr>'
        for dates, subject in ((name.removesuffix(".html"), subject) for name, subject in pages)
        if not date or dates[:10] <= date <= dates[-10:]
    ]
    choice = f'<p>Business date {escape(date)} · <a href="{kind}">all dates</a></p>' if date else ""
    first = "Version" if kind == MODEL_CARDS else "Business date"
    listed = f"<table><tr><th>{first}</th><th>What</th></tr>{''.join(rows)}</table>"
    return frame_page(TITLES.get(kind, NIGHTS), choice + (listed if rows else f'<p class="empty">{_EMPTY[kind]}</p>'))


class NightjarPages(AirflowPlugin):
    """Registers the pages with Airflow."""

    name = "nightjar_pages"
    external_views: ClassVar = [
        {"name": title, "href": f"{URL}/{kind}", "destination": destination, "url_route": f"{kind}_{destination}"}
        for kind, title in TITLES.items()
        for destination in ("nav", "dag")
    ]
    global_operator_extra_links: ClassVar = [DataDocsLink()]

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:
        """Built when the API server asks, so that workers import none of it."""
        return [{"app": create_app(load_settings().home), "url_prefix": PREFIX, "name": "Nightjar pages"}]
