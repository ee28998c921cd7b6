"""What a model was trained on: proof that its snapshots are untouched, a record of them, and the way back."""

import hashlib
import shutil
import subprocess
from dataclasses import dataclass
from datetime import date, timedelta
from importlib.metadata import version as installed_version
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError
from pydantic import BaseModel

from pipelines import feature_store, features, labels, lake, ledger, registry
from pipelines.engine import Versions
from pipelines.errors import EngineFailure, LineageBroken, MissingPartition, NightjarError, SnapshotRefused
from pipelines.ledger import FEATURES, LABELS, Inputs, Made
from pipelines.settings import PROJECT, Settings
from pipelines.training_set import Snapshot, load_snapshot
from pipelines.use_case import TrainingPlan, UseCase

_REMEDIES: dict[type[NightjarError], str] = {
    SnapshotRefused: "find out who changed it; then remove it: training builds it again from the core tables",
    LineageBroken: "if the SQL has changed, do it on the code that trained the model (see its lineage.json); "
    "if an erasure or a retention run has removed old core versions, this training set is gone for good: train again",
}


class TrainedOn(BaseModel, frozen=True, extra="forbid"):
    """One snapshot of a training set; `rows_sha256` hashes the rows that training saw, in their order."""

    features: Made
    labels: Made
    rows_sha256: str = ""


class Lineage(BaseModel, frozen=True, extra="forbid"):
    """Everything that a training set can be made from again."""

    use_case: str
    as_of: date
    plan: TrainingPlan
    code_version: str
    snapshots: tuple[TrainedOn, ...]

    @property
    def training_set_sha256(self) -> str:
        """Hash over the rows of all snapshots."""
        return hashlib.sha256("".join(one.rows_sha256 for one in self.snapshots).encode()).hexdigest()


@dataclass(frozen=True)
class RebuildReport:
    """A training set that is, bit for bit, what the model version was trained on."""

    model_version: str
    snapshots: int
    rows: int
    training_set_sha256: str


def current_snapshot(settings: Settings, use_case: UseCase, as_of: date, run_id: str) -> TrainedOn:
    """A date's features and labels, built where they are missing or stale, and seen to be untouched.

    Raises:
        MissingPartition, LabelsImmature: they cannot be built.
        SnapshotRefused: they are not what the ledger says.
    """
    tables = [table.name for table in use_case.feature_tables]
    steps = (
        (FEATURES, tables, features.inputs_of, features.build_features),
        (LABELS, [use_case.labels_table], labels.inputs_of, labels.build_labels),
    )
    for kind, tables, inputs_of, build in steps:
        is_there = all(_is_there(settings, kind, table, as_of) for table in tables)
        if not (is_there and ledger.is_current(settings, use_case, kind, as_of, inputs_of(settings, use_case, as_of))):
            build(settings, use_case, as_of, run_id)
    made = {kind: ledger.newest(settings, use_case, kind, as_of) for kind in (FEATURES, LABELS)}
    found = TrainedOn.model_validate(made)
    for table, content in found.features.content.items():
        _require_equal(SnapshotRefused, table, as_of, content, _snapshot_hash(settings, table, as_of))
    read = lake.content_hash(labels.read_labels(settings, use_case, as_of))
    _require_equal(SnapshotRefused, use_case.labels_table, as_of, found.labels.version, read)
    return found


def training_rows(use_case: UseCase, snapshot: Snapshot) -> pa.Table:
    """A snapshot's rows as training sees them: keys, label, value, weight and every feature."""
    rows = snapshot.rows.select(["as_of", *use_case.keys, "is_positive", "value_usd", "weight"])
    for position, feature in enumerate(use_case.features):
        rows = rows.append_column(feature, pa.array(snapshot.matrix[:, position]))
    return rows


def lineage_of(settings: Settings, use_case: UseCase, model_version: str) -> Lineage:
    """The record that a model version's training left; ArtifactRefused where it left none."""
    version = registry.get_version(settings, use_case, model_version)
    return Lineage.model_validate_json(registry.read_file(settings, use_case, version, registry.LINEAGE_FILE))


def code_version() -> str:
    """The commit of the code; the package's version where there is no repository."""
    git = shutil.which("git")
    command = [git or "git", "-C", str(PROJECT), "rev-parse", "HEAD"]
    # Fixed arguments, no shell.
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() if git else ""  # noqa: S603
    return found or f"nightjar {installed_version('nightjar')}"


def rebuild_training_set(
    settings: Settings, use_case: UseCase, model_version: str, out: Path | None = None
) -> RebuildReport:
    """Make a model's training set again, in a lake of its own; `out` gets the rows of all snapshots.

    Raises:
        LineageBroken: a part of it is gone or differs; names the part.
        ArtifactRefused: the model's record of its training set is missing.
    """
    lineage = lineage_of(settings, use_case, model_version)
    then = use_case.model_copy(update={"training": lineage.plan})
    with TemporaryDirectory(prefix="rebuild-", dir=settings.home) as folder:
        scratch = settings.model_copy(update={"home": Path(folder), "lake_uri": ""})
        store = feature_store.open_store(scratch, then)
        parts = []
        for one in lineage.snapshots:
            as_of = one.features.as_of
            try:
                _recompute(settings, scratch, then, one)
                parts.append(training_rows(then, load_snapshot(scratch, then, store, as_of, only_sampled=True)))
            except (duckdb.Error, DeltaError, EngineFailure, MissingPartition, OSError) as error:
                _require_equal(LineageBroken, "core tables", as_of, "their old versions", str(error).splitlines()[0])
            _require_equal(LineageBroken, "rows", as_of, one.rows_sha256, lake.content_hash(parts[-1]))
    together = pa.concat_tables(parts)
    if out:
        pq.write_table(together, out)
    return RebuildReport(model_version, len(parts), together.num_rows, lineage.training_set_sha256)


def _recompute(settings: Settings, scratch: Settings, use_case: UseCase, one: TrainedOn) -> None:
    """Write a date's features and labels to the scratch lake, as they were."""
    as_of, last = one.features.as_of, one.features.as_of + timedelta(days=use_case.horizon_days)
    versions = _versions(one.features, features.inputs_of(settings, use_case, as_of))
    for table, rows in features.compute_snapshot(settings, use_case, as_of, versions):
        written = lake.replace_snapshot(scratch.lake, table.name, rows, as_of)
        _require_equal(LineageBroken, table.name, as_of, one.features.content[table.name], written.version)
    now = ledger.inputs_up_to(settings, last, labels.definition_of(use_case))
    candidates = labels.candidates_sql(scratch, use_case, as_of)
    rows = labels.compute_labels(settings, use_case, as_of, candidates, _versions(one.labels, now))
    _require_equal(LineageBroken, use_case.labels_table, as_of, one.labels.version, lake.content_hash(rows))
    labels.replace_labels(scratch, use_case, as_of, rows)


def _versions(made: Made, now: Inputs) -> Versions:
    """The core versions to read: the recorded ones, or today's where no day that counts was replaced since."""
    _require_equal(
        LineageBroken, f"SQL of {', '.join(made.content)}", made.as_of, made.inputs.definition, now.definition
    )
    return now.core_versions if now.files == made.inputs.files else made.inputs.core_versions


def _is_there(settings: Settings, kind: str, table: str, as_of: date) -> bool:
    """Whether the date has its file; beside a Delta table's present files lie those of its old versions."""
    if kind == FEATURES:
        return settings.lake.exists(lake.snapshot_name(table, as_of))
    try:
        return bool(lake.files_of(settings.lake, table, first=as_of, last=as_of, partition="as_of"))
    except FileNotFoundError:
        return False


def _snapshot_hash(settings: Settings, table: str, as_of: date) -> str:
    """Hash of what the date's file holds; its own mark is not believed, and a file beside it is told of."""
    path, _ = lake.require_snapshot(settings.lake, table, as_of)
    strangers = sorted(str(file) for file in path.parent.parent.glob("*/*.parquet") if file.name != path.name)
    if strangers:
        return f"files of unknown origin: {', '.join(strangers)}"
    try:
        return lake.content_hash(pq.read_table(path, partitioning=None))
    except (pa.ArrowException, OSError) as error:
        return f"unreadable: {error}"


def _require_equal(kind: type[NightjarError], part: str, as_of: date, expected: str, found: str) -> None:
    if found != expected:
        what, where = "the content is not what it was when the ledger took its hash", f"{part}, as_of={as_of}"
        raise kind(what, where=where, expected=expected, found=found, remedy=_REMEDIES[kind])
