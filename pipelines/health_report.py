"""The page on a model's health: for Airflow's UI, and as a file for each night."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from pipelines.champion import RULE_PREFIX
from pipelines.measurements import ALERT, INFO, OK, WARN
from pipelines.model_health import ESTIMATED, ModelHealth, Panel, Row, read_health
from pipelines.pages import DATA_DOCS, MODEL_CARDS, MODEL_HEALTH, frame_page, page_path, write_page
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.use_case import UseCase

WORDS = {OK: "✔ ok", WARN: "▲ warning", ALERT: "✘ alert", INFO: "· info"}
VERDICTS = {
    OK: "✔ In order: nothing asks for anybody.",
    WARN: "▲ Something has moved; nothing has to be done.",
    ALERT: "✘ Somebody must act: see what is marked below.",
    INFO: "· Nothing was measured yet. Each night of ingest, scoring and monitoring adds to this page.",
}
_CSS = (Path(__file__).parent / "model_health.css").read_text


@dataclass(frozen=True)
class HealthReport:
    """The page of a night, and the status on it: ok, warn, alert or info (nothing was measured)."""

    as_of: date
    status: str
    page: Path


@dataclass(frozen=True)
class Links:
    """Where the page points to: the list of all pages, and more by name."""

    all: str
    all_name: str
    more: Mapping[str, str]


def write_report(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> HealthReport:
    """Write the page of a night with what was known at the end of it; a second call replaces it.

    Raises:
        OutdatedSchema, WarehouseDown, EngineFailure: the warehouse cannot be read.
    """
    with measured(settings, f"health__{use_case.name}", str(as_of), run_id) as cost:
        health = read_health(settings, use_case, as_of)
        more = links(settings, use_case, health, "../..", as_of)
        page = write_page(
            page_path(settings.home, MODEL_HEALTH, use_case.name, as_of),
            as_html(use_case, health, Links("./", "All nights", more)),
        )
        cost.rows = 1
    return HealthReport(as_of, health.status if health else INFO, page)


def links(
    settings: Settings, use_case: UseCase, health: ModelHealth | None, root: str, day: date | None = None
) -> dict[str, str]:
    """Where more is to be found about what the page shows; `root` is above data docs and model cards."""
    version = health.now["model_version"] if health else None
    found = {}
    if version and not version.startswith(RULE_PREFIX):
        found[f"Model card of version {version}"] = f"{root}/{MODEL_CARDS}/{use_case.name}/v{version}.html"
    if day:
        found[f"Data docs of {day}"] = f"{root}/{DATA_DOCS}/{use_case.scores_table}/{day}.html"
    elif health:
        found["Data docs"] = f"{root}/{DATA_DOCS}?{urlencode({'date': str(health.as_of)})}"
    tracking = urlsplit(settings.mlflow_tracking_uri)
    if tracking.scheme in ("http", "https"):
        place = tracking._replace(netloc=tracking.netloc.rpartition("@")[2]).geturl().rstrip("/")
        found["The model's versions in MLflow"] = f"{place}/#/models/{use_case.name}"
    return found | {"Runbook": settings.runbook_url}


def as_html(use_case: UseCase, health: ModelHealth | None, links: Links) -> str:
    """The whole page; it loads nothing and runs no script. What comes from the warehouse is text in it."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    marks = _marks(health) if health else {}
    environment.filters |= {
        "shown": show,
        "in_words": lambda name: name.replace("_", " "),
        "newest_of": _newest,
        "chart": partial(_chart, marks),
    }
    told = {"health": health, "links": links, "words": WORDS, "verdict": VERDICTS[health.status if health else INFO]}
    body = environment.get_template("model_health.html.jinja").render(told)
    return frame_page(f"Model health: {use_case.title}", body, _CSS())


def as_index(healths: Mapping[str, tuple[UseCase, ModelHealth | None]], nights: str) -> str:
    """The list of all use cases with their status; by address."""
    row = Markup(
        '<li><a href="{}">{}</a> <span class="status {}">{}</span> <span class="aside">readers see {}</span></li>'
    )
    listed = Markup("").join(
        row.format(
            address,
            use_case.title,
            status := health.status if health else INFO,
            VERDICTS[status],
            show(health.now["published_date"] if health else None),
        )
        for address, (use_case, health) in healths.items()
    )
    empty = Markup('<p class="empty">No use case is yours to see.</p>')
    body = Markup('<ul class="use-cases">{}</ul><p><a href="{}">A page for each night</a></p>').format(listed, nights)
    return frame_page("Model health", body if healths else empty, _CSS())


def as_error(what: str, remedy: str, runbook: str) -> str:
    """The page where the warehouse cannot be read."""
    body = Markup('<p class="empty alert" role="alert">{}</p><p>{}</p><p>Runbook: <a href="{}">{}</a></p>')
    return frame_page("Model health is not known", body.format(what, remedy, runbook, runbook), _CSS())


def show(value: Any) -> str:
    """A value of the warehouse in few characters."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M} UTC"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:,.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _newest(panel: Panel, name: str) -> Row:
    """The newest row of the figure itself; of its estimate where labels have not come yet."""
    own = [row for row in panel.rows if not row.get("metric", name).startswith(ESTIMATED)]
    return (own or panel.rows)[-1]


def _chart(marks: Mapping[date, str], panel: Panel, kind: str, name: str, day: str) -> Markup:
    from pipelines.health_charts import Points, draw

    is_figure = [row.get("metric", name) == name for row in panel.rows]
    own, estimates = (
        [row for row, is_own in zip(panel.rows, is_figure, strict=True) if is_own is side] for side in (True, False)
    )
    return Markup(draw(f"{kind} {name}", Points(day, own, estimates), marks))  # noqa: S704  # its texts are escaped


def _marks(health: ModelHealth) -> dict[date, str]:
    """Since when another version scores, and whether it was rolled back to or is a rule."""
    signs = {"rollback": "↩"}
    return {
        row[
            "score_date"
        ]: f"{signs.get(row['action'], '▸')} {'' if ':' in row['model_version'] else 'v'}{row['model_version']}"
        for row in health.served.rows
    }
