"""Every error that Nightjar raises on purpose: what happened, where, and what to do about it."""

from typing import ClassVar


class NightjarError(Exception):
    """An error with the facts that a reader needs: what, where, expected, found and the remedy.

    `runbook` is the anchor of the section in docs/running.md that helps.
    """

    runbook: ClassVar[str] = "a-run-failed"

    def __init_subclass__(cls, *, runbook: str = "") -> None:
        cls.runbook = runbook or cls.runbook

    def __init__(self, what: str, *, where: str, expected: object = None, found: object = None, remedy: str) -> None:
        self.what, self.where, self.expected, self.found, self.remedy = what, where, expected, found, remedy
        super().__init__(what, where, expected, found, remedy)

    def __str__(self) -> str:
        lines = [f"{type(self).__name__}: {self.what}", f"  where:    {self.where}"]
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.found is not None:
            lines.append(f"  found:    {self.found}")
        return "\n".join([*lines, f"  remedy:   {self.remedy}", f"  runbook:  docs/running.md#{self.runbook}"])

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.expected, self.found, self.remedy)


def _rebuild(
    kind: type[NightjarError], what: str, where: str, expected: object, found: object, remedy: str
) -> NightjarError:
    return kind(what, where=where, expected=expected, found=found, remedy=remedy)


class BadInput(NightjarError):
    """What was given is wrong; the same call fails again until somebody mends the input."""


class InvalidSetting(BadInput, runbook="a-setting-is-wrong"):
    """A `NIGHTJAR_*` variable is misspelt, of the wrong type or out of range."""


class StorageRefused(BadInput, runbook="the-storage-does-not-answer"):
    """The object store does not know the bucket or the key, or does not let this one in."""


class WrongKey(BadInput, runbook="a-setting-is-wrong"):
    """The pseudonym key is not the one with which the lake was filled."""


class UnknownUseCase(BadInput, runbook="a-setting-is-wrong"):
    """No use case of that name is registered."""


class InvalidUseCase(BadInput, runbook="a-setting-is-wrong"):
    """A use case's definition contradicts itself or cannot be loaded."""


class InvalidRunParameter(BadInput, runbook="a-setting-is-wrong"):
    """A run was started with a partition key or a parameter that its DAG cannot use."""


class AlreadyRunning(BadInput, runbook="start-and-stop"):
    """A server that may run only once for a home folder runs already."""


class DateOutsideData(BadInput, runbook="a-date-is-missing"):
    """The date lies outside what the upstream system or the lake holds."""


class MissingDrop(BadInput, runbook="a-drop-failed-validation"):
    """The upstream system has delivered nothing for that table and date."""


class MissingManifest(BadInput, runbook="a-drop-failed-validation"):
    """The drop's folder exists but its manifest does not: the delivery is not finished."""


class WrongManifest(BadInput, runbook="a-drop-failed-validation"):
    """The manifest is unreadable or contradicts the files that it describes."""


class UnreadableFile(BadInput, runbook="a-drop-failed-validation"):
    """A delivered file is not the Parquet file that it should be."""


class MissingColumn(BadInput, runbook="a-drop-failed-validation"):
    """A delivered file lacks a column of the contract."""


class WrongType(BadInput, runbook="a-drop-failed-validation"):
    """A delivered column has another type than the contract's."""


class EmptyDay(BadInput, runbook="a-drop-failed-validation"):
    """A day without rows that its manifest does not mark as closed."""


class ChecksFailed(BadInput, runbook="a-drop-failed-validation"):
    """At least one blocking check on a table failed; nothing was written."""


class AuditRefused(ChecksFailed, runbook="the-audit-refused-the-scores"):
    """The audit found a fault in scores that were to be published; readers keep what they have."""


class MissingPartition(BadInput, runbook="a-date-is-missing"):
    """A step needs a partition that no earlier step has written."""


class DatesNotIngested(MissingPartition):
    """Dates before an ingested one are missing; another run may bring them in: a backfill ingests several at once."""


class NothingQuarantined(BadInput, runbook="a-date-is-missing"):
    """No row in quarantine matches what was asked for."""


class LabelsImmature(BadInput, runbook="a-date-is-missing"):
    """The label window of a snapshot is not over at the date for which it is asked."""


class NoChampion(BadInput, runbook="scores-came-from-a-fallback"):
    """No model version carries the alias `champion`."""


class UnknownVersion(BadInput, runbook="a-bad-model-was-promoted"):
    """No model version of that number is registered."""


class NotJudged(BadInput, runbook="a-model-waits-for-approval"):
    """A version was never before the gate, or not since the champion has changed."""


class HistoryAltered(BadInput, runbook="a-bad-model-was-promoted"):
    """The log of promotions is not as it was written, or the champion is not the one that it tells of."""


class SnapshotRefused(BadInput, runbook="a-snapshot-was-altered"):
    """A snapshot or its labels are not, bit for bit, what the ledger says was written."""


class LineageBroken(BadInput, runbook="a-snapshot-was-altered"):
    """Something that a model was trained on cannot be given back as it was."""


class WrongCall(BadInput, runbook="the-look-up-refuses-or-fails"):
    """A call of the look-up is not one of its contract."""


class WrongCallerKey(WrongCall):
    """A call of the look-up has no key, or none that it takes."""


class TooManyCalls(WrongCall):
    """A caller of the look-up asks more often than it may."""


class NothingToServe(NightjarError, runbook="the-look-up-refuses-or-fails"):
    """The look-up has no list to give: none was ever published."""


class NotPublished(BadInput, runbook="a-date-is-missing"):
    """Readers of the scores see no such row."""


class PublicationAltered(BadInput, runbook="published-rows-were-edited"):
    """Published rows are not those that the publish log tells of."""


class ContractBroken(BadInput, runbook="a-setting-is-wrong"):
    """The warehouse's tables are no longer what analysts were promised."""


class FileExists(BadInput, runbook="a-setting-is-wrong"):
    """A file that would be replaced is there already."""


class Superseded(BadInput, runbook="a-task-was-killed"):
    """An attempt to publish a date went on after a later one had begun; it has changed nothing."""


class UnknownRevision(BadInput, runbook="the-schema-is-of-another-version"):
    """The schema of the warehouse was made by a newer Nightjar."""


class ArtifactRefused(BadInput, runbook="scores-came-from-a-fallback"):
    """A stored model is not, bit for bit, the one that was registered, or its features differ."""


class EngineFailure(NightjarError):
    """A library or a server failed while it worked; the data may be fine, and a retry may help."""


class WarehouseDown(EngineFailure, runbook="the-warehouse-is-down"):
    """The warehouse cannot be reached, or does not take part: it is locked, full or shutting down."""


class StorageDown(EngineFailure, runbook="the-storage-does-not-answer"):
    """The object store, or the way to it, is down or slow; trying again may help."""


class OutdatedSchema(EngineFailure, runbook="the-schema-is-of-another-version"):
    """The schema of the warehouse was made by an older Nightjar, or not at all; it may be on its way."""


class RunFailed(NightjarError):
    """A run of a DAG that was waited for has failed, or does not end."""
