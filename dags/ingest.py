"""Brings one business date from landing into the core tables of the lake.

**What** Finds the drops of the date, checks their manifests and schemas, validates every row with Great
Expectations, puts the rows that break a rule into quarantine, replaces the partition of the date, and wakes
`score__<use case>` for the same date. Looks again at the drops of the late window before: a file corrected since,
and lines that came late, reach their own date, and the dates that they reach are scored anew.

**When, and why then** Every night at 05:00 in the stores' time zone, for the business date that ended at
midnight: all tills have closed and delivered by then. For another date, trigger it with a partition key
(*Advanced options*) or run `airflow backfill create --dag-id ingest --from-date 2017-11-23 --to-date
2017-11-26 --max-active-runs 1`, which brings in the dates from the first up to, but without, the last, in their
order: a date that comes in before an earlier one is scored twice. What was ingested anew is scored anew.

**Reads** `landing/*/date=<business date>/`. **Writes** `core__*` and `quarantine__transactions`, one
partition each, and `ops__ingest_log`. A second run for a date leaves the same rows.

**When it fails** The log's last lines name the error, the file and the remedy. Bad input (a missing drop, a
wrong manifest, a failed check) is not retried: have the drop mended and delivered again, then clear the task.
Until then readers see the scores of the day before.
"""

from airflow.sdk import DAG, CronPartitionTimetable, task

from nightjar_dags import CORE_TRANSACTIONS, PLATFORM_OWNER, announce, dag_arguments, plain, run_date, schedule_end
from nightjar_openlineage import show_tables
from pipelines.settings import load_settings

SETTINGS = load_settings()

with DAG(
    "ingest",
    schedule=CronPartitionTimetable(
        "0 5 * * *", timezone=SETTINGS.business_timezone, run_offset=-1, key_format="%Y-%m-%d"
    ),
    end_date=schedule_end(SETTINGS),
    **dag_arguments(__doc__, PLATFORM_OWNER, "core"),
) as dag:

    @task(outlets=[CORE_TRANSACTIONS])
    def ingest_day() -> object:
        """Settle the business date, and anew the days before it that late lines or a corrected file reach."""
        from pipelines.ingest import ingest

        day, run_id = run_date()
        report = ingest(SETTINGS, day, day, run_id)
        for affected in report.affected:
            announce(CORE_TRANSACTIONS, affected)
        return plain(report)

    ingest_day()
    show_tables(dag)
