"""A warehouse after two nights of the corner shop, with figures that a person can check by eye."""

from datetime import timedelta

from corner_shop import SHOP, day, log, publish

from pipelines import tables, warehouse
from pipelines.incidents import Incident, open_incident
from pipelines.ingest import COUNTS
from pipelines.pseudonyms import key_id

FIGURES = {"partition_key": str(day(1)), "wall_s": 10.0, "cpu_s": 5.0, "peak_memory_mib": 100.0, "model_version": "1"}


def fill(settings):
    """Day 1 was ingested twice; of its four lists one is a cold start and one a rule's; publishing failed once."""
    log(settings, 0)
    first = dict.fromkeys(COUNTS, 0) | {"rows_in": 50, "rows_kept": 50}
    second = first | {"rows_in": 100, "rows_kept": 96, "rows_quarantined": 3, "rows_duplicate": 1}
    place = {"run_id": "r", "table_name": "core__transactions", "business_date": day(1), "status": "replaced"}
    place |= {"table_version": "1", "key_id": key_id(settings)}
    costs = [
        ("features__corner_shop", True, 40, 0.01),
        ("scores__corner_shop", True, 200, 0.02),
        ("publish__corner_shop", False, None, 0.003),
        ("publish__corner_shop", True, 4, 0.007),
        ("ingest", True, 96, 0.5),
    ]
    publish(settings, 0, {1: ["MILK"]})
    publish(settings, 1, {household: ["MILK"] for household in (1, 2, 3, 4)})
    scores = tables.scores_table(SHOP)
    with warehouse.open_warehouse(settings) as connection:
        warehouse.append_rows(
            connection, tables.INGEST_LOG, [place | first | {"attempt": 1}, place | second | {"attempt": 2}]
        )
        for step, is_success, rows, euros in costs:
            row = FIGURES | {"run_id": "r", "step": step, "is_success": is_success, "rows": rows, "euros": euros}
            warehouse.append_rows(connection, tables.RUN_COSTS, [row])
        for household, score, source in (
            (1, 0.1, "champion"),
            (2, 0.2, "champion"),
            (3, 0.3, "baseline"),
            (4, 0.4, "cold_start"),
        ):
            mine = scores.update().where(scores.c.household_id == household, scores.c.score_date == day(1))
            connection.execute(mine.values(score=score, score_source=source))
        note_publication(connection)
    told = Incident("registry down", "mlflow", "refused", "a rule's scores", "start it")
    open_incident(settings, SHOP, day(1), told, "r")


def note_publication(connection):
    """A line in the publish log, which says that what readers see has changed."""
    entry = {"run_id": "r", "use_case": SHOP.name, "score_date": day(1), "rows": 4, "content_hash": "0"}
    told = {
        "model_version": "1",
        "feature_version": "f",
        "status": "published",
        "actor": "nightjar",
        "reason": "",
        "audit": "",
    }
    warehouse.append_rows(connection, tables.PUBLISH_LOG, [entry | told])


NEXT_DAY = day(1) + timedelta(days=1)
