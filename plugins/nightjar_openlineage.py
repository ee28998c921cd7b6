"""Which tables each task reads and writes, as OpenLineage's events name them: `nightjar`, `lake.core__transactions`."""

from collections.abc import Iterable, Mapping, Sequence

from airflow.providers.common.compat.lineage.entities import Table
from airflow.sdk import DAG

from pipelines.use_case import UseCase, core_tables_in

NAMESPACE = "nightjar"
DROPS = ("transactions", "products", "households", "campaigns", "coupons", "promotions", "redemptions")
Edges = Mapping[str, tuple[list[Table], list[Table]]]


def show_tables(dag: DAG, use_cases: Sequence[UseCase] = ()) -> None:
    """Give each task of a DAG its tables; a task group of several use cases has the name of its own."""
    of_use_cases = {use_case.name: _of_use_case(use_case) for use_case in use_cases}
    for task in dag.tasks:
        group, _, name = task.task_id.rpartition(".")
        edges = of_use_cases.get(group) or next(iter(of_use_cases.values()), {})
        reads, writes = {**_of_all(), **edges}.get(name, ([], []))
        task.add_inlets(reads)
        task.add_outlets(writes)


def _of_all() -> Edges:
    landing = _tables("landing", DROPS)
    core = _tables("lake", [*(f"core__{name}" for name in DROPS), "quarantine__transactions"])
    return {"land_files": ([], landing)} | dict.fromkeys(
        ("ingest_day", "ingest_history", "ingest_catch_up"), (landing, core)
    )


def _of_use_case(use_case: UseCase) -> Edges:
    core = _tables("lake", core_tables_in(use_case.model_dump_json()))
    features = _tables("lake", [table.name for table in use_case.feature_tables])
    labels, scored = _tables("lake", [use_case.labels_table]), _tables("lake", [use_case.scores_table])
    published, outcomes = (_tables("warehouse", [name]) for name in (use_case.scores_table, use_case.outcomes_table))
    metrics, kpis = _tables("warehouse", ["monitor__metrics"]), _tables("warehouse", ["kpi__daily", "kpi__weekly"])
    findings, asked = _tables("warehouse", ["monitor__findings"]), _tables("warehouse", ["ops__retrain_decisions"])
    model = _tables("registry", [use_case.name])
    return {
        "build_features": (core, features),
        "materialise_features": (features, _tables("online", [table.name for table in use_case.feature_tables])),
        "train_model": (core, [*features, *labels, *model]),
        "write_model_card": ([*features, *labels, *model], model),
        "judge_model": ([*core, *model], [*features, *labels, *_tables("warehouse", ["ops__check_log"])]),
        "promote_model": (model, [*model, *_tables("warehouse", ["ops__promotion_log"])]),
        "restore_version": ([*features, *model], [*scored, *published, *_tables("warehouse", ["ops__promotion_log"])]),
        "score_candidates": ([*core, *features, *model], scored),
        "score_challenger": ([*core, *features, *model], scored),
        "publish_scores": ([*core, *scored], published),
        "record_outcomes": ([*core, *features, *published], [*labels, *outcomes]),
        "measure_quality": ([*features, *labels, *scored, *model], metrics),
        "measure_drift": ([*features, *scored, *published, *model], metrics),
        "record_findings": ([*core, *metrics, *published, *model], [*metrics, *findings]),
        "compute_kpis": ([*core, *labels, *outcomes], kpis),
        "decide_retraining": ([*metrics, *findings, *kpis, *model], asked),
        "write_health_page": ([*metrics, *findings, *kpis, *asked], []),
        "admit_training": ([*findings, *asked], asked),
    }


def _tables(place: str, names: Iterable[str]) -> list[Table]:
    return [Table(cluster=NAMESPACE, database=place, name=name) for name in names]
