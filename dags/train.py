"""Trains a challenger, and makes it champion if it is good enough.

**What** Lets one run train for a date: a second trigger for it is written down as coalesced and its run is skipped,
with the reason; so is a run whose data are at fault. It then builds the weekly feature snapshots and labels that are
missing, joins them point in time with Feast, cross-validates in time order against the simple rules, fits and
calibrates a LightGBM model, registers it in MLflow, judges it against the champion on rows that neither knows, and
promotes it if it passes. Where the setting `NIGHTJAR_PROMOTION` is `approval`, `ask_approval` waits for the answer of
somebody other than who started the run, and silence means no. `announce_champion` is skipped, with the reason, when
gate or person refuses.

**When, and why then** When `monitor__<use case>` has asked for it for a business date, or by hand: give the
date in the form as *Train with data up to*, or as the partition key. There is no calendar of its own; the age
of the champion is one of the reasons for which the monitor asks. *Train anyway* overrules the ledger of requests.

**Reads** the core tables up to the date. **Writes** `features__*` and `labels__<use case>` in the lake, a run
and a model version in MLflow, the trigger in `ops__retrain_decisions`, `ops__promotion_log`, and the version's model
card (see *Model cards*).

**When it fails** The champion stays and the nights go on with it. The log's last lines name the error and the
remedy; clear the failed task once the cause is mended. A model that gate or person refused is no failure:
compare it with the champion in MLflow. Clear `ask_approval` to ask again.
"""

from typing import Any

from airflow.sdk import DAG, Param, PartitionedAssetTimetable, get_current_context, task

from nightjar_dags import (
    announce,
    dag_arguments,
    date_param,
    model_asset,
    plain,
    retrain_asset,
    run_date,
    skip_unless,
)
from nightjar_openlineage import show_tables
from nightjar_promotion import add_promotion, patience, requester
from pipelines.settings import load_settings
from pipelines.use_case import UseCase
from pipelines.use_cases import load_use_cases

SETTINGS = load_settings()
AS_OF = date_param(
    None,
    "Train with data up to",
    "Last business date whose rows the training may see, such as 2017-11-12. "
    "Leave it empty when the run has a partition key, which then says the same.",
)
SEARCH_MINUTES = Param(
    0,
    "Minutes for a search of hyper-parameters; 0 takes those of the use case.",
    title="Minutes of search",
    type="number",
    minimum=0,
    maximum=30,
)
ANYWAY = Param(
    default=False,
    description="Train even if this date was trained already, or its data are at fault.",
    title="Train anyway",
    type="boolean",
)


def train_dag(use_case: UseCase) -> None:
    """The DAG that trains and promotes a model of a use case."""
    with DAG(
        f"train__{use_case.name}",
        schedule=PartitionedAssetTimetable(assets=retrain_asset(use_case)),
        params={"as_of": AS_OF, "search_minutes": SEARCH_MINUTES, "anyway": ANYWAY},
        **dag_arguments(__doc__, use_case.owner, use_case.name, patience=patience(SETTINGS)),
    ) as dag:

        @task
        def admit_training() -> None:
            """Let this run train unless another one does, or the data are at fault; skip otherwise, with the reason."""
            from pipelines.retrain_ledger import admit

            anyway = get_current_context()["params"]["anyway"]
            report = admit(SETTINGS, use_case, *run_date(), requester(), anyway=anyway)
            skip_unless(report.is_admitted, report.reason)

        @task
        def train_model() -> object:
            """Build what is missing of the training set, train, compare with the simple rules, register."""
            from pipelines.training import train

            minutes = get_current_context()["params"]["search_minutes"]
            return plain(train(SETTINGS, use_case, *run_date(), search_minutes=minutes))

        @task(outlets=[model_asset(use_case)])
        def announce_champion(promoted: dict[str, Any]) -> None:
            """Tell the readers of the asset that there is a new champion; skip if it was refused."""
            skip_unless(promoted["is_promoted"], promoted["reason"])
            announce(model_asset(use_case), run_date()[0], model_version=promoted["model_version"])

        trained = train_model()
        admit_training() >> trained
        announce_champion(add_promotion(SETTINGS, use_case, trained, run_date, with_ablation=True))
        show_tables(dag, [use_case])


for _use_case in load_use_cases(SETTINGS).values():
    train_dag(_use_case)
