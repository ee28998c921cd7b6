"""Makes an earlier model version champion again, and shows readers its scores for the dates that a bad one spoilt.

**What** Loads the version and verifies its signature, moves the alias `champion` back to it, leaves no challenger,
writes the rollback down, and publishes the version's scores for each published score date between the two dates: those
that it left when it was champion or challenger, new ones where it left none. Without dates only the alias moves.

**When, and why then** By hand, when a champion turns out bad: give the version, the dates and the reason in the form.
Versions are in MLflow and in `nightjar model history`. There is no schedule: only a person knows.

**Reads** the registry, the feature snapshots and the stored scores of the dates. **Writes** `ops__promotion_log`,
`scores__<use case>` in lake and warehouse, and `ops__publish_log`. A second run with the same form leaves the same
rows.

**When it fails** The log's last lines name the error and the remedy. `ArtifactRefused` or `UnknownVersion`: nothing was
done; choose another version. `MissingPartition`: the version is champion, but the date that the error names lost its
features; `nightjar features --date` builds them, then clear the task.
"""

from typing import Any

from airflow.sdk import DAG, Param, get_current_context, task

from nightjar_dags import announce, business_date, dag_arguments, date_param, model_asset, plain
from nightjar_openlineage import show_tables
from nightjar_promotion import requester
from pipelines.settings import load_settings
from pipelines.use_case import UseCase
from pipelines.use_cases import load_use_cases

SETTINGS = load_settings()
PARAMS = {
    "model_version": Param(
        description="Model version that is to be champion again.",
        title="Back to version",
        type="string",
        pattern=r"^[1-9]\d{0,8}$",
    ),
    "first_date": date_param(
        None, "First score date", "First score date to publish again; empty, with the last: none."
    ),
    "last_date": date_param(None, "Last score date", "Last score date to publish again."),
    "reason": Param(
        description="Why; it is kept in the log of promotions.",
        title="Reason",
        type="string",
        minLength=3,
        maxLength=500,
    ),
}


def rollback_dag(use_case: UseCase) -> None:
    """The DAG that takes a use case back to an earlier model."""
    with DAG(
        f"rollback__{use_case.name}",
        schedule=None,
        params=PARAMS,
        **dag_arguments(__doc__, use_case.owner, use_case.name),
    ) as dag:

        @task
        def restore_version() -> object:
            """Verify the version, make it champion, and publish its scores for the dates of the form."""
            from pipelines.rollback import RollbackOrder, roll_back

            context = get_current_context()
            given, run_id = context["params"], context["run_id"]
            dates = [
                given[name] and business_date(given[name], f"run {run_id}, {name}")
                for name in ("first_date", "last_date")
            ]
            order = RollbackOrder(given["model_version"], requester(), given["reason"], *dates)
            return plain(roll_back(SETTINGS, use_case, order, run_id))

        @task(outlets=[model_asset(use_case)])
        def announce_champion(restored: dict[str, Any]) -> None:
            """Tell the readers of the asset that an earlier version is champion again."""
            trained = business_date(restored["trained_as_of"], "the restored model")
            announce(model_asset(use_case), trained, model_version=restored["model_version"])

        announce_champion(restore_version())
        show_tables(dag, [use_case])


for _use_case in load_use_cases(SETTINGS).values():
    rollback_dag(_use_case)
