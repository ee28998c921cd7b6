"""Checks as values: every check runs, and one place decides."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date

from pipelines.errors import ChecksFailed


@dataclass(frozen=True)
class Check:
    """The outcome of one check on one table partition."""

    name: str
    success: bool
    observed: object
    expected: object
    is_blocking: bool = True

    def __str__(self) -> str:
        return f"{self.name}: expected {self.expected}, observed {self.observed}"


def merged(parts: Sequence[Sequence[Check]]) -> list[Check]:
    """The same checks on each of several parts as checks on the whole: what holds for all, seen where it does not."""
    if len(parts) == 1:
        return list(parts[0])
    whole = []
    for same in zip(*parts, strict=True):
        failed = [check for check in same if not check.success]
        seen = "; ".join(dict.fromkeys(str(check.observed) for check in failed or same))
        whole.append(replace(same[0], success=not failed, observed=seen))
    return whole


def require(
    checks: Iterable[Check], *, where: str, remedy: str, error: type[ChecksFailed] = ChecksFailed
) -> Sequence[Check]:
    """The checks, unchanged, when no blocking one failed.

    Raises:
        ChecksFailed: or that kind of it; names every blocking check that failed, with what it saw.
    """
    done = list(checks)
    failed = [check for check in done if check.is_blocking and not check.success]
    if failed:
        raise error(
            f"{len(failed)} of {len(done)} checks failed",
            where=where,
            expected="; ".join(f"{check.name}: {check.expected}" for check in failed),
            found="; ".join(f"{check.name}: {check.observed}" for check in failed),
            remedy=remedy,
        )
    return done


def log_rows(checks: Iterable[Check], *, table: str, day: date, run_id: str) -> list[dict[str, object]]:
    """A row of ops__check_log for each check; to be appended before `require` decides, so that failures are kept."""
    partition = {"run_id": run_id, "table_name": table, "business_date": day}
    return [
        partition
        | {"check_name": check.name, "observed": str(check.observed), "expected": str(check.expected)}
        | {"is_blocking": check.is_blocking, "is_success": check.success}
        for check in checks
    ]
