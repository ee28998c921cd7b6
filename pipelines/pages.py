"""HTML pages that steps leave under the home folder: where they lie, how they are framed and written."""

from datetime import date
from html import escape
from pathlib import Path

from pipelines.storage import replacing

DATA_DOCS, PROFILES, MODEL_CARDS, MODEL_HEALTH = "data_docs", "profiles", "model_cards", "model_health"
_STYLE = """
:root { color-scheme: light dark } body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto;
padding: 0 1.5rem } h1 { font-size: 1.4rem } table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem }
th, td { text-align: left; padding: .35rem .75rem; border-bottom: 1px solid #8884; vertical-align: top }
h5 { font-size: 1.05rem; margin: 1rem 0 0 } h6 { margin: .5rem 0 0 } .badge { background: #8883; padding: 0 .35em;
border-radius: .3em } .text-danger { color: #d33 } .text-success { color: #2a8f4a } .fas { font-style: normal }
.fa-times::before { content: "✘ fails" } .fa-check-circle::before { content: "✔ holds" } a { color: #3478d4 }
.fa-exclamation-triangle::before { content: "⚠" } .empty { border: 1px dashed #8888; padding: 2rem }
p { overflow-wrap: anywhere } img { max-width: 100%; background: #fff }
@media (max-width: 45rem) { table { display: block; overflow-x: auto } }"""


def page_path(home: Path, kind: str, subject: str, first: date, last: date | None = None) -> Path:
    """File of the page of that kind about a subject at a date, or about a range of dates."""
    dates = f"{first}" if last in (None, first) else f"{first}_{last}"
    return home / kind / subject / f"{dates}.html"


def frame_page(title: str, body: str, style: str = "") -> str:
    """A whole page that loads nothing from elsewhere; `body` is HTML, `title` is text, `style` is further CSS."""
    head = f'<meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    head += f"<style>{_STYLE}{style}</style>"
    return f'<!DOCTYPE html><html lang="en"><meta charset="utf-8">{head}<h1>{escape(title)}</h1>{body}</html>'


def write_page(path: Path, html: str) -> Path:
    """The page's file; readers see the old page or the new one, whole."""
    with replacing(path) as unfinished:
        unfinished.write_text(html, encoding="utf-8")
    return path
