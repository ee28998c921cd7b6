"""Removes what is kept long enough, and what killed steps left behind.

**What** Deletes, layer by layer, what is older than the settings `NIGHTJAR_KEEP_…_DAYS` at the business date: delivered
files, quarantine, scores of every candidate, snapshots and labels, published scores, logs, pages. Then the files of old
versions of the lake's tables, unfinished files, and files that nothing refers to.

**When, and why then** Every day at 12:00 in the stores' time zone, for the business date before: the night is over, so
nothing waits for it. What has a date is judged by it: a run for an old date removes no more than it did then. Old
versions and leftovers are judged by the age of their files, so history that was brought in today stays.

**Reads** the settings and the names and dates of everything in the home folder, landing and the lake. **Writes**
nothing but `ops__run_costs`, with a row per layer. A second run for a date finds nothing to do.

**When it fails** Nothing is at risk but disk space. `InvalidSetting`: a layer would lose what a step still needs; raise
the setting. `MissingPartition`: the date was not ingested yet; clear the task once it is.
"""

from airflow.sdk import DAG, CronPartitionTimetable, task

from nightjar_dags import PLATFORM_OWNER, dag_arguments, plain, run_date, schedule_end
from pipelines.settings import load_settings

SETTINGS = load_settings()

with DAG(
    "janitor",
    schedule=CronPartitionTimetable(
        "0 12 * * *", timezone=SETTINGS.business_timezone, run_offset=-1, key_format="%Y-%m-%d"
    ),
    end_date=schedule_end(SETTINGS),
    **dag_arguments(__doc__, PLATFORM_OWNER, "core"),
):

    @task
    def remove_old() -> object:
        """Remove what no layer need keep at the business date, and what was left behind."""
        from pipelines.retention import clean

        return plain(clean(SETTINGS, *run_date()))

    remove_old()
