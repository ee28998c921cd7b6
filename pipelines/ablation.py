"""Ablation: what each group of features is worth to a model version, and what it costs."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines import feature_store
from pipelines.bundle import ModelFacts
from pipelines.labels import last_mature
from pipelines.lineage import Lineage
from pipelines.metrics import paired_interval, quality
from pipelines.model import fit_booster, within_and_level
from pipelines.settings import Settings
from pipelines.training_set import Snapshot, load_snapshot, missed_positives, scored_table
from pipelines.use_case import UseCase

ALL = "all features"
Figures = Mapping[str, float]


@dataclass(frozen=True)
class _Fold:
    """The newest training snapshot, and the older ones whose labels it may know."""

    use_case: UseCase
    facts: ModelFacts
    older: Sequence[Snapshot]
    newest: Snapshot
    missed: pa.Table

    def judge(self, left_out: Sequence[str], threads: int) -> tuple[pa.Table, dict[str, float]]:
        """The newest snapshot as scored by a model without some features, and that model's figures."""
        names = self.use_case.features
        kept = [place for place, name in enumerate(names) if name not in left_out]
        older = [Snapshot(one.as_of, one.rows, one.matrix[:, kept], one.entity) for one in self.older]
        matrix, features = np.ascontiguousarray(self.newest.matrix[:, kept]), [names[place] for place in kept]
        plan, weights = self.use_case.training, {part.name: part.weight for part in self.facts.components}
        started = time.process_time()
        boosters = {name: fit_booster(plan, name, features, older, threads) for name in weights}
        fitted = time.process_time()
        raw = {name: one.predict(matrix, raw_score=True, num_threads=threads) for name, one in boosters.items()}
        cost = {"fit_cpu_s": fitted - started, "predict_cpu_s": time.process_time() - fitted}
        score = self.facts.calibration.log_odds(within_and_level(raw, weights, self.newest.entities))
        scored = scored_table(self.use_case, self.newest.rows, score, self.missed)
        found = quality(self.use_case, scored, is_probability=False)
        return scored, {"ndcg": found.ndcg_at_n, "auc": found.auc or float("nan"), **cost}


def ablate(settings: Settings, use_case: UseCase, lineage: Lineage, facts: ModelFacts) -> dict[str, Figures]:
    """What a version loses without each group of features of `reasons`, by group; `all features` has its own figures.

    Judged on the newest training snapshot, trained on older ones, components put together as the version's are.
    Losses are in NDCG (paired, with a 95 % interval by entity) and in AUC; costs and savings in CPU seconds.
    """
    fold = _load(settings, use_case.model_copy(update={"training": lineage.plan}), lineage, facts)
    scored, whole = fold.judge((), settings.threads)
    found: dict[str, Figures] = {ALL: {"features": len(use_case.features), **whole}}
    for group in use_case.reasons:
        if set(group.features) == set(use_case.features):
            continue
        without, figures = fold.judge(group.features, settings.threads)
        loss = paired_interval(use_case, scored, without)
        found[group.name] = {
            "features": len(group.features),
            "ndcg_loss": loss.difference,
            "low": loss.low,
            "high": loss.high,
            "auc_loss": whole["auc"] - figures["auc"],
            "fit_cpu_s_saved": whole["fit_cpu_s"] - figures["fit_cpu_s"],
            "predict_cpu_s_saved": whole["predict_cpu_s"] - figures["predict_cpu_s"],
        }
    return found


def _load(settings: Settings, use_case: UseCase, lineage: Lineage, facts: ModelFacts) -> _Fold:
    store, dates = feature_store.open_store(settings, use_case), [one.features.as_of for one in lineage.snapshots]
    known = [day for day in dates if day <= last_mature(use_case, dates[-1])]
    older = [load_snapshot(settings, use_case, store, day, only_sampled=True) for day in known]
    newest = load_snapshot(settings, use_case, store, dates[-1], only_sampled=False)
    return _Fold(use_case, facts, older, newest, missed_positives(settings, use_case, dates[-1]))
