"""Turns one business date into published predictions.

**What** Builds the feature snapshot as of the end of the date, materialises what an online lookup needs,
scores every candidate with the champion, audits the scores, publishes the best of each entity to the
warehouse in one transaction, and wakes `monitor__<use case>` for the same date. Beside that, a challenger
scores the same candidates in the shadow: into the lake only.

**When, and why then** As soon as `ingest` has replaced the partition of a business date, for exactly that
date: a backfill of `ingest` scores exactly the days that it touched. By hand: trigger with a partition key.

**Reads** the core tables up to the date and the model that is champion when scoring starts. **Writes** the
snapshots `features__*` and `scores__<use case>` in the lake, the online store, and `scores__<use case>`,
`ops__publish_log` and `ops__incidents` in the warehouse. A second run for a date leaves the same rows.

**When it fails** Unless `publish_scores` succeeded, nothing of the date is published and readers of
`scores__<use case>_latest` see the newest earlier date whole. Publishing does not wait for the online store:
if only `materialise_features` failed, online lookups are a day old and the table is not; if only
`score_challenger` failed, the challenger lacks a night of comparison. Where a date before it is not ingested yet,
as in a backfill, `build_features` is tried again. Where the champion cannot be had or is
refused, nothing fails: its last verified copy scores, else a simple rule, and `ops__incidents` says so. The
log's last lines name the error and the remedy. Clear the failed task once the cause is mended.
"""

from typing import Any

from airflow.sdk import DAG, PartitionedAssetTimetable, task

from nightjar_dags import CORE_TRANSACTIONS, dag_arguments, plain, run_date, scores_asset, skip_unless
from nightjar_openlineage import show_tables
from pipelines.settings import load_settings
from pipelines.use_case import UseCase
from pipelines.use_cases import load_use_cases

SETTINGS = load_settings()


def score_dag(use_case: UseCase) -> None:
    """The DAG that scores one business date of a use case."""
    with DAG(
        f"score__{use_case.name}",
        schedule=PartitionedAssetTimetable(assets=CORE_TRANSACTIONS),
        **dag_arguments(__doc__, use_case.owner, use_case.name),
    ) as dag:

        @task
        def build_features() -> object:
            """Write the feature snapshot as of the end of the business date."""
            from pipelines.features import build_features

            return plain(build_features(SETTINGS, use_case, *run_date()))

        @task
        def materialise_features() -> object:
            """Bring the features of the date to the online store."""
            from pipelines.feature_store import materialise

            return plain(materialise(SETTINGS, use_case, *run_date()))

        @task
        def score_candidates() -> object:
            """Score every candidate with the champion and write all of them to the lake."""
            from pipelines.scoring import score

            return plain(score(SETTINGS, use_case, *run_date()))

        @task(outlets=[scores_asset(use_case)])
        def publish_scores(scored: dict[str, Any]) -> object:
            """Audit the scores and replace the date in the warehouse, in one transaction."""
            from pipelines.publishing import publish

            return plain(publish(SETTINGS, use_case, *run_date(), scored["model_version"]))

        @task(priority_weight=0)
        def score_challenger(scored: dict[str, Any]) -> object:
            """Score the same candidates with the challenger, for comparison; skip if there is none."""
            from pipelines.shadow import score_challenger

            report = score_challenger(SETTINGS, use_case, *run_date(), scored["model_version"], scored["problem"])
            skip_unless(not report.reason, report.reason)
            return plain(report)

        scored = score_candidates()
        build_features() >> [materialise_features(), scored]
        publish_scores(scored)
        score_challenger(scored)
        show_tables(dag, [use_case])


for _use_case in load_use_cases(SETTINGS).values():
    score_dag(_use_case)
