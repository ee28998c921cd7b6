"""Brings in the whole history in one go and makes the first champion; the nightly DAGs take over from there.

**What** Lands and ingests every business date from the first to the training date. Then, for each use case:
trains on that history, judges the model, promotes it, writes its card (without the ablation, which takes long), and
publishes the scores of the training date. Last, ingests the dates from there to the last one.

A model that the gate refuses is not promoted: the simple rule scores the date, and every night until a model passes.
With `NIGHTJAR_PROMOTION=approval` the run waits at `ask_approval` for a person.

**When, and why then** By hand, once, before the nightly schedule is switched on; again after the lake was
lost. It emits no asset events: only the nightly chain scores the dates that it ingests.

**Reads** the upstream system and landing. **Writes** all core tables, snapshots, labels, a model, and the
scores of one date. A second run with the same dates leaves the same rows, and one more model version.

**When it fails** The log's last lines name the error and the remedy. Clear the failed task once the cause is
mended: what was done before it stays as it is.
"""

from datetime import date, timedelta
from typing import Any

from airflow.sdk import DAG, TaskGroup, XComArg, cross_downstream, task

from nightjar_dags import PLATFORM_OWNER, dag_arguments, date_param, plain, run_dates, skip_unless
from nightjar_openlineage import show_tables
from nightjar_promotion import add_promotion, patience
from pipelines.settings import load_settings
from pipelines.use_case import UseCase
from pipelines.use_cases import load_use_cases

SETTINGS = load_settings()
USE_CASES = tuple(load_use_cases(SETTINGS).values())
DATES = ("first_date", "train_date", "last_date")
PARAMS = {
    "first_date": date_param(date(2017, 1, 1), "First date", "First business date of the history."),
    "train_date": date_param(
        date(2017, 11, 9), "Train with data up to", "Business date up to which the first model learns."
    ),
    "last_date": date_param(date(2017, 11, 18), "Last date", "Last business date that is ingested here."),
}


@task
def prepare_stores() -> None:
    """Create the tables of the warehouse and MLflow's store where they are missing."""
    from pipelines import registry, warehouse

    warehouse.create_tables(SETTINGS, USE_CASES)
    for use_case in USE_CASES:
        registry.experiment_id(SETTINGS, use_case, registry.open_registry(SETTINGS))


@task
def land_files() -> object:
    """Play the upstream system: deliver the drops of all dates that are not in landing yet."""
    from pipelines.landing import land

    (first, _, last), _ = run_dates(*DATES)
    return plain(land(SETTINGS, first, last))


@task
def ingest_history() -> object:
    """Ingest the dates from the first to the training date."""
    from pipelines.ingest import ingest

    (first, train_date, _), run_id = run_dates(*DATES)
    return plain(ingest(SETTINGS, first, train_date, run_id))


@task
def ingest_catch_up() -> object:
    """Ingest the dates after the training date, up to the last."""
    from pipelines.ingest import ingest

    (_, train_date, last), run_id = run_dates(*DATES)
    skip_unless(last > train_date, "the last date is the training date: nothing is left to catch up with")
    return plain(ingest(SETTINGS, train_date + timedelta(days=1), last, run_id))


def first_champion(use_case: UseCase, history: XComArg) -> XComArg:
    """The last of the tasks that make the first champion of a use case and publish its first scores."""

    def training_date() -> tuple[date, str]:
        (_, train_date, _), run_id = run_dates(*DATES)
        return train_date, run_id

    @task
    def train_model() -> object:
        """Build the weekly snapshots and labels, train, compare with the simple rules, register."""
        from pipelines.training import train

        return plain(train(SETTINGS, use_case, *training_date()))

    @task
    def build_features() -> object:
        """Write the feature snapshot as of the training date."""
        from pipelines.features import build_features

        return plain(build_features(SETTINGS, use_case, *training_date()))

    @task
    def materialise_features() -> object:
        """Bring the features of the training date to the online store."""
        from pipelines.feature_store import materialise

        return plain(materialise(SETTINGS, use_case, *training_date()))

    @task
    def score_candidates() -> object:
        """Score every candidate of the training date with the champion."""
        from pipelines.scoring import score

        return plain(score(SETTINGS, use_case, *training_date()))

    @task
    def publish_scores(scored: dict[str, Any]) -> object:
        """Audit the scores and publish them to the warehouse."""
        from pipelines.publishing import publish

        return plain(publish(SETTINGS, use_case, *training_date(), scored["model_version"]))

    with TaskGroup(use_case.name) as steps:
        scored = score_candidates()
        promoted = add_promotion(SETTINGS, use_case, train_model(), training_date, with_ablation=False)
        cross_downstream([promoted, build_features()], [materialise_features(), scored])
        published = publish_scores(scored)
    history >> steps
    return published


ARGUMENTS = dag_arguments(__doc__, PLATFORM_OWNER, "core", patience=patience(SETTINGS))
with DAG("bootstrap", schedule=None, params=PARAMS, **ARGUMENTS) as dag:
    ingested = ingest_history()
    [prepare_stores(), land_files()] >> ingested
    [first_champion(use_case, ingested) for use_case in USE_CASES] >> ingest_catch_up()
    show_tables(dag, USE_CASES)
