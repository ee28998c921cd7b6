"""The model card: what a version is good for, and for whom not, from what the registry keeps of it."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jinja2 import Environment, FileSystemLoader, Undefined
from markdown_it import MarkdownIt

from pipelines import registry
from pipelines.ablation import ALL, Figures, ablate
from pipelines.lineage import Lineage
from pipelines.model import Reliability
from pipelines.pages import MODEL_CARDS, frame_page, write_page
from pipelines.plots import plot_slices
from pipelines.registry import CHALLENGER, CHAMPION, ModelVersion
from pipelines.settings import Settings
from pipelines.steps import measured
from pipelines.use_case import UseCase

ABLATION_FILE, CARD = "ablation.json", "model_card"
PICTURES, SLICES = ("calibration.png", "importance.png"), "slices.png"


@dataclass(frozen=True)
class ModelCardReport:
    """Where the card of a version lies; `trust` is its verdict."""

    as_of: date
    model_version: str
    trust: str
    page: str


def write_card(
    settings: Settings, use_case: UseCase, model_version: str, as_of: date, run_id: str, *, with_ablation: bool = True
) -> ModelCardReport:
    """Write a version's card: to its MLflow run as Markdown and HTML, to its description there, and to the pages.

    The first call for a version makes the ablation, if wanted, which takes minutes; it is kept with the run.

    Raises:
        ArtifactRefused: a file of the version cannot be read, or is not the signed one.
        MissingPartition: snapshots that it was trained on are gone.
    """
    with measured(settings, f"{CARD}__{use_case.name}", str(as_of), run_id) as cost, TemporaryDirectory() as folder:
        cost.model_version = model_version
        version = registry.get_version(settings, use_case, model_version)
        told = card_facts(settings, use_case, version, with_ablation=with_ablation) | {"as_of": as_of}
        pictures = {name: registry.fetch(settings, use_case, version, name) for name in PICTURES}
        if told["slices"]:
            plot_slices(told["slices"], Path(folder) / SLICES)
            pictures[SLICES] = (Path(folder) / SLICES).read_bytes()
        text = as_markdown(told)
        html = as_html(text, f"{use_case.title}, model version {model_version}", pictures)
        for name, content in {f"{CARD}.md": text, f"{CARD}.html": html}.items():
            (Path(folder) / name).write_text(content, encoding="utf-8")
        client = registry.open_registry(settings)
        with registry.reaching(settings):
            client.log_artifacts(version.mlflow_run_id, folder)
            experiment = registry.experiment_id(settings, use_case, client)
            link = f"#/experiments/{experiment}/runs/{version.mlflow_run_id}/artifacts/{CARD}.html"
            summary = text.split("\n", 1)[1].split("\n## ")[0].strip()
            client.update_model_version(use_case.name, model_version, f"[Model card]({link})\n\n{summary}")
        page = write_page(settings.home / MODEL_CARDS / use_case.name / f"v{model_version}.html", html)
    return ModelCardReport(as_of, model_version, told["trust"], str(page.relative_to(settings.home)))


def card_facts(
    settings: Settings, use_case: UseCase, version: ModelVersion, *, with_ablation: bool = True
) -> dict[str, Any]:
    """Everything that the card tells, by the names that its template uses; `gate` is empty where none has judged."""

    def read(name: str) -> str:
        return registry.read_file(settings, use_case, version, name)

    client, run = registry.open_registry(settings), version.mlflow_run_id
    names = {"ndcg": f"ndcg_at_{use_case.top_n}", "auc": "auc", "ece": "ece"}
    with registry.reaching(settings):
        kept = {one.path for one in client.list_artifacts(run)}
    per_fold = registry.fold_metrics(settings, version, list(names.values()))
    folds = {name: per_fold.get(figure, []) for name, figure in names.items()}
    lineage = Lineage.model_validate_json(read(registry.LINEAGE_FILE))
    _, facts = registry.load(settings, use_case, version)
    if with_ablation and ABLATION_FILE not in kept:
        made = ablate(settings, use_case, lineage, facts)
        with registry.reaching(settings):
            client.log_text(run, json.dumps(made, indent=1), ABLATION_FILE)
        kept.add(ABLATION_FILE)
    ablation = json.loads(read(ABLATION_FILE)) if ABLATION_FILE in kept else {}
    gate = json.loads(read(registry.GATE_FILE)) if registry.GATE_FILE in kept else {}
    told = {"use_case": use_case, "version": version, "facts": facts, "lineage": lineage, "gate": gate}
    told |= {"whole": ablation.pop(ALL, None), "ablation": ablation}
    told |= {"folds": folds, "validation": json.loads(read(registry.VALIDATION_FILE))}
    told |= {"metrics": registry.validation_metrics(settings, version)}
    return told | _conclusions(told)


def _conclusions(told: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from the figures; from those of the gate where it has judged, else from those of validation."""
    use_case, gate, validation, metrics = told["use_case"], told["gate"], told["validation"], told["metrics"]
    judged, slices = gate.get("quality") or {}, gate.get("slices", {})
    rule = next((name for name in judged if name not in (CHALLENGER, CHAMPION)), validation["best_rule"])
    in_validation = {part: metrics.get(f"ndcg_gain.{part}", float("nan")) for part in ("difference", "low", "high")}
    failed = [check for check in gate.get("checks", []) if not check["success"]]
    enough = {name: one for name, one in slices.items() if _is_judged(use_case, one)}
    return {
        "trust": {True: "yes", False: "no", None: "not yet"}[gate.get("is_passed")],
        "ours": judged.get(CHALLENGER) or validation["quality"][validation["chosen"]],
        "rule": {"name": rule, "figures": judged.get(rule) or validation["quality"][rule]},
        "gain": gate.get("gains", {}).get(rule) or in_validation,
        "failed": failed,
        "slices": enough,
        "unjudged": [name for name in slices if name not in enough],
        "failed_slices": [name for name in enough if any(one["name"].startswith(f"slice {name}:") for one in failed)],
        "worst": {
            "ndcg": min(enough, key=lambda name: enough[name]["ndcg"], default=None),
            "rate": max(enough, key=lambda name: abs(_rate_gap(enough[name])), default=None),
        },
        "gaps": fairness_gaps(use_case, enough),
        "unsure": unreliable_ranges(told["facts"].reliability),
    }


def fairness_gaps(use_case: UseCase, slices: Mapping[str, Figures]) -> dict[str, Figures]:
    """By dimension of `segments_sql`: largest less smallest NDCG, and mean score less observed rate, of its values."""
    dimensions: dict[str, list[Figures]] = {}
    for name, one in slices.items():
        if name not in use_case.slices:
            dimensions.setdefault(name.split(" ", 1)[0], []).append(one)
    return {
        dimension: {"ndcg": _spread([one["ndcg"] for one in values]), "rate": _spread([*map(_rate_gap, values)])}
        for dimension, values in dimensions.items()
        if len(values) > 1
    }


def unreliable_ranges(reliability: Reliability) -> list[str]:
    """Ranges of probability that validation does not vouch for, in percent."""
    step, found, place = 100 / len(reliability.is_reliable), list[str](), 0
    for is_reliable, bins in groupby(reliability.is_reliable):
        start, place = place, place + len(list(bins))
        if not is_reliable:
            found.append(f"{start * step:.0f} to {place * step:.0f} %")
    return found


def as_markdown(told: Mapping[str, Any]) -> str:
    """The card's text; what comes from outside is text in it and nothing else."""
    environment = Environment(  # noqa: S701  # Markdown, not HTML: `_as_text` escapes
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True, finalize=_as_text
    )
    forms = {"figure": "{:.4f}", "signed": "{:+.4f}", "whole": "{:,.0f}", "seconds": "{:.2f}", "share": "{:.1%}"}
    environment.filters["of_100"] = lambda value: _show("{:.1%}", value).removesuffix(" %")
    for name, form in forms.items():
        environment.filters[name] = partial(_show, form)
    return environment.get_template(f"{CARD}.md.jinja").render(told)


def as_html(text: str, title: str, pictures: Mapping[str, bytes]) -> str:
    """The card as one page that loads nothing."""
    body = text.split("\n", 1)[1]
    for name, content in pictures.items():
        body = body.replace(f"]({name})", f"](data:image/png;base64,{base64.b64encode(content).decode()})")
    return frame_page(title, MarkdownIt("commonmark", {"html": False}).enable("table").render(body))


def _show(form: str, value: object) -> str:
    return "–" if isinstance(value, Undefined) else form.format(value).replace("%", " %")


def _as_text(value: object) -> object:
    """Text on one line that Markdown takes for text."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(value.split())) if isinstance(value, str) else value


def _is_judged(use_case: UseCase, slice_: Figures) -> bool:
    return "auc" in slice_ and slice_["positives"] >= use_case.gate.min_slice_positives


def _rate_gap(slice_: Figures) -> float:
    return slice_["mean_score"] - slice_["observed_rate"]


def _spread(values: Sequence[float]) -> float:
    return max(values) - min(values)
