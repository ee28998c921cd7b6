"""Measures what the predictions were worth, and asks for a new model when one is due.

**What** Looks up what became of the published rows whose label window has ended, measures their quality
against the simple rule, measures the drift of features, scores and lists against the champion's training data and
against the weeks before, and computes the business KPIs. Then it looks for shifts of the data, household by
household, and classes all that has moved by its cause: a fault of the data, a change of the pipeline, a season, a
shift of the inputs or of what they mean. Last it writes down one decision on retraining, which a fault of the data
forbids. If a new model is due, `request_training` wakes `train__<use case>`; otherwise that task is skipped, with the
reason. `write_health_page` leaves the page *Model health* of the date.

**When, and why then** As soon as `score__<use case>` has published a business date, for that date: the newest
outcomes are known then and nothing that is read changes later. By hand: trigger with a partition key.

**Reads** the core tables, the feature snapshots and the scores up to the date. **Writes** `outcomes__<use
case>`, `monitor__metrics`, `monitor__findings`, `kpi__daily`, `kpi__weekly` and `ops__retrain_decisions`, and the page
`model_health/<use case>/<date>.html`; a fault of the data opens an incident in `ops__incidents`, which is paged once. A
second run for a date leaves the same rows.

**When it fails** The published scores are not affected. The log's last lines name the error and the remedy;
clear the failed task once the cause is mended.
"""

from typing import Any

from airflow.sdk import DAG, PartitionedAssetTimetable, task

from nightjar_dags import dag_arguments, plain, retrain_asset, run_date, scores_asset, skip_unless
from nightjar_openlineage import show_tables
from pipelines.settings import load_settings
from pipelines.use_case import UseCase
from pipelines.use_cases import load_use_cases

SETTINGS = load_settings()


def monitor_dag(use_case: UseCase) -> None:
    """The DAG that monitors one business date of a use case."""
    with DAG(
        f"monitor__{use_case.name}",
        schedule=PartitionedAssetTimetable(assets=scores_asset(use_case)),
        **dag_arguments(__doc__, use_case.owner, use_case.name),
    ) as dag:

        @task
        def record_outcomes() -> object:
            """Write what became of the published rows whose label window has ended."""
            from pipelines.monitoring import record_outcomes

            return plain(record_outcomes(SETTINGS, use_case, *run_date()))

        @task
        def measure_quality() -> object:
            """Measure the realised quality of the newest matured scores, beside the simple rule's."""
            from pipelines.monitoring import measure_quality

            return plain(measure_quality(SETTINGS, use_case, *run_date()))

        @task
        def measure_drift() -> object:
            """Measure how far features, scores and lists are from the training data and the weeks before."""
            from pipelines.monitoring import measure_drift

            return plain(measure_drift(SETTINGS, use_case, *run_date()))

        @task
        def compute_kpis() -> object:
            """Compute the business KPIs of the date and of the week that ends on it."""
            from pipelines.monitoring import compute_kpis

            return plain(compute_kpis(SETTINGS, use_case, *run_date()))

        @task
        def record_findings() -> object:
            """Look for shifts of the data, and class all that has moved by its cause."""
            from pipelines.monitoring import record_findings

            return plain(record_findings(SETTINGS, use_case, *run_date()))

        @task
        def decide_retraining() -> object:
            """Decide on a new model by the use case's policy, and write the decision down."""
            from pipelines.monitoring import decide_retraining

            return plain(decide_retraining(SETTINGS, use_case, *run_date()))

        @task
        def write_health_page() -> object:
            """Write the page on the model's health as of the date, for those who do not look into Airflow."""
            from pipelines.health_report import write_report

            return plain(write_report(SETTINGS, use_case, *run_date()))

        @task(outlets=[retrain_asset(use_case)])
        def request_training(decision: dict[str, Any]) -> None:
            """Wake the training for this date if the decision says so; skip otherwise, with its reason."""
            skip_unless(decision["is_requested"], decision["reason"])

        decision = decide_retraining()
        record_outcomes() >> [measure_quality(), measure_drift(), compute_kpis()] >> record_findings() >> decision
        request_training(decision)
        decision >> write_health_page()
        show_tables(dag, [use_case])


for _use_case in load_use_cases(SETTINGS).values():
    monitor_dag(_use_case)
