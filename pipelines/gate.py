"""The gate: whether a challenger may become champion, as a list of checks that anybody can read."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date

import duckdb
import numpy as np
from pydantic_core import to_jsonable_python
from sklearn.metrics import roc_auc_score

from pipelines import registry, tables, warehouse
from pipelines.checks import Check, log_rows
from pipelines.evaluation import CHALLENGER, CHAMPION, Evidence, gather
from pipelines.metrics import Interval, Quality, lists_of, paired_interval, quality
from pipelines.settings import Settings
from pipelines.shadow import realised
from pipelines.steps import measured
from pipelines.training_set import Vector
from pipelines.use_case import GatePolicy, UseCase

SANITY = "sanity: "
Figures = Mapping[str, float]


@dataclass(frozen=True)
class GateReport:
    """What the gate saw of a version; `dates` are the snapshots that it was judged on.

    `quality` and `gains` (of the challenger over each, paired, with a 95 % interval) are by name: challenger,
    champion where it could be compared, and the best simple rule.
    """

    as_of: date
    model_version: str
    champion_version: str | None
    dates: tuple[date, ...]
    is_passed: bool
    reason: str
    checks: tuple[Check, ...]
    quality: Mapping[str, Figures]
    gains: Mapping[str, Figures]
    slices: Mapping[str, Figures]


def judge(settings: Settings, use_case: UseCase, model_version: str, as_of: date, run_id: str) -> GateReport:
    """Judge a version by what is known at the end of `as_of`, and keep every check.

    Raises:
        ArtifactRefused: it is not the registered one.
        MissingPartition, LabelsImmature: the rows to judge it on cannot be built.
    """
    name = f"model__{use_case.name}"
    with measured(settings, f"gate__{use_case.name}", str(as_of), run_id) as cost:
        version = registry.get_version(settings, use_case, model_version)
        evidence = gather(settings, use_case, version, as_of, run_id)
        cost.rows = len(evidence.positive)
        versions = (model_version, evidence.champion_version)
        in_shadow = realised(settings, use_case, versions, evidence.learnt_until, as_of)
        report = _report(use_case, evidence, in_shadow, model_version, as_of)
        text = json.dumps(to_jsonable_python(report), indent=1)
        with registry.reaching(settings):
            registry.open_registry(settings).log_text(version.mlflow_run_id, text, registry.GATE_FILE)
        with warehouse.open_warehouse(settings) as connection:
            rows = log_rows(report.checks, table=f"{name} v{model_version}", day=as_of, run_id=run_id)
            warehouse.append_rows(connection, tables.CHECK_LOG, rows)
    return report


def _report(
    use_case: UseCase, evidence: Evidence, in_shadow: Interval | None, model_version: str, as_of: date
) -> GateReport:
    policy = use_case.gate
    checks = sanity_checks(policy, evidence)
    qualities: dict[str, Quality] = {}
    gains: dict[str, Interval] = {}
    slices: dict[str, Figures] = {}
    if all(check.success for check in checks):
        others = [name for name in (CHAMPION, evidence.best_rule) if name in evidence.scored]
        qualities = {
            name: quality(use_case, evidence.scored[name], is_probability=name in evidence.probabilities)
            for name in (CHALLENGER, *others)
        }
        gains = {name: paired_interval(use_case, evidence.scored[CHALLENGER], evidence.scored[name]) for name in others}
        slices = slice_figures(use_case, evidence)
        checks += quality_checks(policy, evidence, qualities, gains)
        checks += slice_checks(policy, evidence, slices)
        checks += list_checks(use_case, evidence)
        checks += champion_checks(policy, evidence, in_shadow)
    failed = [check for check in checks if check.is_blocking and not check.success]
    return GateReport(
        as_of=as_of,
        model_version=model_version,
        champion_version=evidence.champion_version,
        dates=evidence.dates,
        is_passed=not failed,
        reason="; ".join(map(str, failed)) or "all checks passed",
        checks=tuple(checks),
        quality={name: one.named(use_case.top_n) for name, one in qualities.items()},
        gains={name: asdict(one) for name, one in gains.items()},
        slices=slices,
    )


def sanity_checks(policy: GatePolicy, evidence: Evidence) -> list[Check]:
    """Whether this is a model at all, and there are rows to judge it on; all others presuppose these."""
    figures, scores = evidence.figures[CHALLENGER], evidence.probabilities[CHALLENGER]
    rows, share = int(figures["training_rows"]), figures["training_positive_share"]
    missing, low = int(figures["training_features_missing"]), policy.min_positive_share
    broken = int((~np.isfinite(scores)).sum())
    distinct, positives = len(np.unique(scores[:100_000])), int(evidence.positive.sum())
    return [
        Check(f"{SANITY}training rows", rows >= policy.min_training_rows, rows, f"at least {policy.min_training_rows}"),
        Check(
            f"{SANITY}positives in training", low <= share <= 1 - low, round(share, 5), f"share in [{low}, {1 - low}]"
        ),
        Check(f"{SANITY}features without values", missing == 0, missing, "0"),
        Check(f"{SANITY}later rows with labels", positives > 0, f"{positives} positives", "some that neither has seen"),
        Check(f"{SANITY}scores that are no number", broken == 0, broken, "0"),
        Check(f"{SANITY}different scores", distinct > 1, distinct, "more than 1"),
    ]


def quality_checks(
    policy: GatePolicy, evidence: Evidence, qualities: Mapping[str, Quality], gains: Mapping[str, Interval]
) -> list[Check]:
    """Ranking against the best rule and the champion, and calibration, over all rows."""
    scores = evidence.probabilities[CHALLENGER]
    ece, rule = qualities[CHALLENGER].ece or 0.0, gains[evidence.best_rule]
    ratio, highest = float(scores.mean() / evidence.positive.mean()), policy.max_calibration_error
    found = [
        Check(f"NDCG over the rule {evidence.best_rule}", rule.low > 0, _told(rule), "whole 95 % interval above 0"),
        Check("calibration error", ece <= highest, round(ece, 5), _most(highest)),
        Check(
            "mean score over observed rate",
            abs(ratio - 1) <= policy.max_rate_error,
            round(ratio, 3),
            f"within {policy.max_rate_error} of 1",
        ),
    ]
    if CHAMPION in gains:
        limit = round((qualities[CHAMPION].ece or 0.0) + policy.max_calibration_error_rise, 5)
        found += [
            Check(
                "NDCG over the champion",
                gains[CHAMPION].low >= -policy.max_ndcg_loss,
                _told(gains[CHAMPION]),
                f"lower end at least -{policy.max_ndcg_loss}",
            ),
            Check("calibration error against the champion", ece <= limit, round(ece, 5), _most(limit)),
        ]
    return found


def slice_figures(use_case: UseCase, evidence: Evidence) -> dict[str, Figures]:
    """Figures of the challenger by slice: rows, positives, AUC, the reference's AUC, mean score, rate, NDCG."""
    lists = lists_of(use_case, evidence.scored[CHALLENGER]).set_index(["as_of", use_case.entity])["ndcg_at_n"]
    rows = evidence.scored[CHALLENGER].slice(0, len(evidence.positive)).select(["as_of", use_case.entity]).to_pandas()
    rows["ndcg"] = lists.reindex(rows).to_numpy() if len(lists) else np.nan
    reference, found = _reference_scores(evidence), dict[str, Figures]()
    for name, flags in evidence.slices.items():
        positive, scores = evidence.positive[flags], evidence.probabilities[CHALLENGER][flags]
        figures = {"rows": float(flags.sum()), "positives": float(positive.sum())}
        if 0 < positive.sum() < len(positive):
            figures |= {
                "auc": float(roc_auc_score(positive, scores)),
                "reference_auc": float(roc_auc_score(positive, reference[flags])),
                "mean_score": float(scores.mean()),
                "observed_rate": float(positive.mean()),
                "ndcg": float(rows[flags].drop_duplicates(["as_of", use_case.entity])["ndcg"].mean()),
            }
        found[name] = figures
    return found


def slice_checks(policy: GatePolicy, evidence: Evidence, slices: Mapping[str, Figures]) -> list[Check]:
    """No slice ranks much worse than before, and none is promised much more or less than it gets."""
    found = []
    reference = CHAMPION if CHAMPION in evidence.scored else evidence.best_rule
    for name, figures in slices.items():
        if figures["positives"] < policy.min_slice_positives or "auc" not in figures:
            told = f"{figures['positives']:.0f} positives: too few to judge"
            found.append(Check(f"slice {name}", True, told, f"{policy.min_slice_positives} positives", False))
            continue
        least = round(figures["reference_auc"] - policy.max_slice_auc_loss, 4)
        gap = figures["mean_score"] - figures["observed_rate"]
        found += [
            Check(
                f"slice {name}: AUC",
                figures["auc"] >= least,
                round(figures["auc"], 4),
                f"at least {least} ({reference} less {policy.max_slice_auc_loss})",
            ),
            Check(
                f"slice {name}: mean score less observed rate",
                abs(gap) <= policy.max_slice_rate_gap,
                round(gap, 4),
                f"within {policy.max_slice_rate_gap} of 0",
            ),
        ]
    return found


def list_checks(use_case: UseCase, evidence: Evidence) -> list[Check]:
    """No item gets onto many more lists than champion or best rule put it on, as poisoned data would have it."""
    reference = CHAMPION if CHAMPION in evidence.scored else evidence.best_rule
    ours, theirs = (_item_shares(use_case, evidence, name) for name in (CHALLENGER, reference))
    rises = {item: share - theirs.get(item, 0.0) for item, share in ours.items()}
    item, rise = max(rises.items(), key=lambda one: one[1], default=("none", 0.0))
    limit = use_case.gate.max_item_share_rise
    return [
        Check(
            "item that gains most lists",
            rise <= limit,
            f"{item}: {rise:+.3f} of all lists over the {reference}",
            f"at most {limit:+}",
        )
    ]


def champion_checks(policy: GatePolicy, evidence: Evidence, in_shadow: Interval | None) -> list[Check]:
    """Whether the champion could be compared, and how far scores, costs and nights in the shadow are from its own."""
    if evidence.champion_version is None:
        return [Check("champion", True, "none yet: the best rule is the measure", "compared where there is one", False)]
    if CHAMPION not in evidence.probabilities:
        told, is_lost = f"not compared: {evidence.problem}", not evidence.can_champion_score
        return [Check("champion", is_lost, told, "the same later rows, or a champion that cannot score", not is_lost)]
    shift = score_shift(evidence.probabilities[CHAMPION], evidence.probabilities[CHALLENGER])
    limit = policy.max_score_shift
    found = [Check("shift of the scores (PSI)", shift <= limit, round(shift, 4), _most(limit))]
    costs = {
        "training": [evidence.figures[name]["training_cpu_s"] for name in (CHALLENGER, CHAMPION)],
        "scoring": [evidence.scoring_cpu_s[name] for name in (CHALLENGER, CHAMPION)],
    }
    for what, (ours, theirs) in costs.items():
        ratio = ours / max(theirs, 0.1)
        limit = policy.max_cost_ratio
        found.append(Check(f"cost of {what}", ratio <= limit, f"{ratio:.2f} of the champion's CPU time", _most(limit)))
    if in_shadow is not None:
        least = -policy.max_ndcg_loss
        name = "NDCG over the champion, nights in the shadow"
        found.append(Check(name, in_shadow.low >= least, _told(in_shadow), f"lower end at least {least}"))
    return found


def score_shift(reference: Vector, scores: Vector) -> float:
    """Population stability index over deciles of the reference: 0 is the same distribution."""
    edges = np.unique(np.quantile(reference, np.linspace(0.1, 0.9, 9)))
    expected, found = (
        np.maximum(np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) / len(values), 1e-4)
        for values in (reference, scores)
    )
    return float(((found - expected) * np.log(found / expected)).sum())


def _item_shares(use_case: UseCase, evidence: Evidence, name: str) -> dict[str, float]:
    """Share of the lists (one per entity and date) that each item is on."""
    query = f"""
        SELECT {use_case.item}::VARCHAR AS item, count(*) /
               (SELECT count(DISTINCT (as_of, {use_case.entity})) FROM rows)
        FROM (
            SELECT *, row_number() OVER (
                PARTITION BY as_of, {use_case.entity} ORDER BY score DESC, {use_case.item}) AS position
            FROM rows WHERE is_candidate
        ) WHERE position <= {use_case.top_n} GROUP BY ALL ORDER BY item
    """
    with duckdb.connect() as connection:
        connection.register("rows", evidence.scored[name])
        return dict(connection.sql(query).fetchall())


def _reference_scores(evidence: Evidence) -> Vector:
    name = CHAMPION if CHAMPION in evidence.scored else evidence.best_rule
    return np.asarray(evidence.scored[name].column("score").to_numpy()[: len(evidence.positive)], np.float64)


def _told(gain: Interval) -> str:
    return f"{gain.difference:+.4f} [{gain.low:+.4f}, {gain.high:+.4f}]"


def _most(limit: float) -> str:
    return f"at most {limit}"
