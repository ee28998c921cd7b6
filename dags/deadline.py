"""Looks whether readers have yesterday's scores when they need them, and pages if not.

**What** For each use case, asks the warehouse whether the business date is published; sends a page if it is not, and
resolves the page of a date that is. A date of which a run has failed was paged with that run: it is not paged twice.

**When, and why then** Every day at `NIGHTJAR_PUBLISH_DEADLINE` (07:00) in the stores' time zone, for the business
date before: readers begin their day. By hand: trigger with a partition key.

**Reads** the published scores and `ops__incidents`. **Writes** the pages in the home folder, nothing else.

**When it fails** Readers are not concerned; nobody looked whether the scores are late. `nightjar watch`, outside of
Airflow, looks too. A date that is late does not make it fail: there is a page.
"""

from airflow.sdk import DAG, CronPartitionTimetable, task

from nightjar_dags import PLATFORM_OWNER, dag_arguments, run_date, schedule_end
from pipelines.settings import load_settings
from pipelines.use_cases import load_use_cases

SETTINGS = load_settings()

with DAG(
    "deadline",
    schedule=CronPartitionTimetable(
        f"{SETTINGS.publish_deadline:%M %H} * * *",
        timezone=SETTINGS.business_timezone,
        run_offset=-1,
        key_format="%Y-%m-%d",
    ),
    end_date=schedule_end(SETTINGS),
    **dag_arguments(__doc__, PLATFORM_OWNER, "core"),
):

    @task
    def check_deadline() -> list[str]:
        """Page the use cases whose scores of the date readers do not have."""
        from datetime import UTC, datetime

        from pipelines.paging import deliver
        from pipelines.watch import check_published

        at = datetime.now(UTC)
        late = check_published(SETTINGS, list(load_use_cases(SETTINGS).values()), run_date()[0], at)
        deliver(SETTINGS, at)
        return late

    check_deadline()
