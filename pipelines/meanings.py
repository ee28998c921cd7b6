"""What the warehouse's tables mean to a reader, and those columns that mean the same in several."""

TABLES = {
    "kpi__daily": "What the predictions were worth, day by day",
    "kpi__weekly": "What the predictions were worth, over seven days",
    "monitor__metrics": "How good the published scores were and how far the data have moved, for each score date",
    "ops__ingest_log": "Each time that a file's rows of a date were settled, with what became of them",
    "ops__tombstones": "Households that were erased: their rows are never taken in again",
    "ops__check_log": "Every check of data, models and publications, with what was seen and what was expected",
    "ops__quarantine_drops": "Quarantined rows that somebody dropped for good",
    "ops__snapshot_log": "Every feature snapshot and set of labels, with the content hashes that it was made from",
    "ops__access_log": "Who erased a household or translated pseudonyms, and why",
    "ops__publish_log": "Every publication and every refusal, with the content hash and the figures of its audit",
    "ops__publish_fences": "The newest attempt to publish each date: an earlier one may publish no more",
    "ops__promotion_log": "Who made which model version champion, or refused to, and why: a chain of hashes",
    "ops__incidents": "What keeps readers from what they should see, from its first date until it is resolved",
    "ops__retrain_decisions": "Whether a new model was asked for, and on what evidence",
    "ops__run_costs": "What each step of each run cost",
}
COLUMNS = {
    "recorded_at": "When the row was written, UTC",
    "use_case": "Use case",
    "score_date": "Business date of the scores",
    "reason": "Why, in words",
    "check_name": "Name of the check",
    "is_success": "Whether the check passed",
    "step": "Step, and its use case",
    "rows": "Published rows",
    "content_hash": "SHA-256 of the rows without run_id",
    "model_version": "Model version of the rows",
    "feature_version": "Feature version of the rows",
    "rows_kept": "Rows of the file that the lake table holds",
    "rows_quarantined": "Rows put into quarantine",
}
