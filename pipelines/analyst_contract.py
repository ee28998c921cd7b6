"""The contract with analysts: what they may read, what each column means, and which change needs which version."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from pipelines import kpi_page, tables
from pipelines.errors import ContractBroken
from pipelines.reconciliation import RECONCILIATION_VIEW
from pipelines.settings import PROJECT, Settings
from pipelines.storage import replacing
from pipelines.use_case import UseCase
from pipelines.use_cases import load_use_cases

CONTRACT, PAGE = "contracts/warehouse.json", "docs/analysts.md"
WITHHELD = {  # what no analyst needs: who was erased, who translated ids, single rows in quarantine, and locks
    "ops__publish_fences",
    "ops__tombstones",
    "ops__access_log",
    "ops__quarantine_drops",
}
NEVER = "never"
_BLOCK = re.compile(r"<!-- begin ([a-z_]+) -->\n.*?<!-- end -->", re.DOTALL)
_VALUES: dict[str, dict[str, str]] = {
    "score_source": {
        "champion": "the champion among the models; a category that the household bought before",
        "cached": "the last champion that could be verified, since today's cannot be had: a model of some weeks ago",
        "baseline": "a simple rule, since there is no model: its ranking, and the rate at which such rows were bought "
        "a week ago",
        "cold_start": "nobody: a popular category fills a list that is short of categories bought before, in the "
        "household's income segment where it is known; its score is no higher than that of the row above",
    },
    "monitor__metrics.status": {
        "ok": "within the threshold",
        "warn": "beyond the threshold in this window; not often enough to count",
        "alert": "beyond the threshold",
        "info": "there is nothing to compare it with",
    },
    "clock": {
        "data": "of what was delivered",
        "prediction": "of what was computed from it",
        "label": "of what came true: known when the label window and the late window are over",
    },
    "monitor__findings.cause": {
        "data fault": "the data are wrong: nothing may be learnt from them",
        "pipeline change": "the model, its features or the code have changed, the world has not",
        "season": "the calendar or a promotion explains it",
        "covariate shift": "the households or the shops have changed; what follows from their past has not",
        "concept shift": "what follows from the same past has changed",
    },
    "monitor__findings.action": {
        "block": "no training may start; the source is to be mended",
        "inform": "nothing but to know it",
        "retrain": "it counts when the policy decides on a new model",
    },
    "ops__retrain_decisions.action": {
        "none": "nothing gave cause",
        "request": "a new model was asked for",
        "wait": "there is cause, but cooldown, budget or the expected gain say no",
        "coalesce": "there is cause, and a training for it was asked for already",
        "block": "there is cause, but the data are at fault",
    },
    "ops__ingest_log.status": {
        "replaced": "the rows took the place of the date's earlier ones",
        "unchanged": "the same rows were there already",
        "duplicate": "the same file was ingested before; nothing was done",
        "late": "the file came after the late window; its rows are not used",
        "replayed": "rows in quarantine were judged again, and some pass now",
        "dropped": "somebody dropped rows from quarantine for good",
        "erased": "the rows of a household that asked for it were taken out of the file",
    },
    "ops__snapshot_log.kind": {"features": "what was known of each candidate", "labels": "what came of it"},
    "ops__publish_log.status": {
        "published": "all checks passed; readers see the rows",
        "forced": "somebody published against the audit; readers see the rows",
        "refused": "the audit refused the rows; readers keep what they saw",
        "erased": "a household's rows were taken out of what readers see",
    },
    "ops__promotion_log.action": {
        "promote": "a version became champion",
        "refuse": "the gate or a person said no; the champion stayed",
        "rollback": "an earlier version is champion again",
    },
}


@dataclass(frozen=True)
class Contract:
    """All tables that analysts read, as of a version `major.minor`, and what each version has changed.

    By table: `key`, and by column: `type` (on PostgreSQL), `null`, `meaning` and, of a fixed list of values, `values`.
    """

    version: str
    changes: Mapping[str, list[str]]
    tables: Mapping[str, Any]


def readable(use_cases: Mapping[str, UseCase]) -> dict[str, sa.Table]:
    """The tables and views that analysts read, by name."""
    found = [table for table in tables.METADATA.sorted_tables if table.name not in WITHHELD]
    for use_case in use_cases.values():
        scores = tables.scores_table(use_case)
        latest = scores.to_metadata(sa.MetaData(), name=f"{scores.name}_latest")
        found += [scores, latest, tables.outcomes_table(use_case)]
    return {table.name: table for table in sorted([*found, RECONCILIATION_VIEW], key=lambda table: table.name)}


def terms(use_cases: Mapping[str, UseCase]) -> dict[str, Any]:
    """What the code says of each table that analysts read."""
    return {
        name: {
            "key": ", ".join(column.name for column in table.primary_key),
            "columns": {column.name: _column_terms(column, use_cases) for column in table.columns},
        }
        for name, table in readable(use_cases).items()
    }


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """What breaks a query or a conclusion that was right with the old terms, and what does not."""
    was, is_ = dict(_facts(old)), dict(_facts(new))
    breaking: dict[str, None] = {}
    others: dict[str, None] = {}
    for path in [*was, *(path for path in is_ if path not in was)]:
        if path not in is_:
            breaking[f"{_first_missing(path, is_)} removed"] = None
        elif path not in was:
            others[f"{_first_missing(path, was)} added"] = None
        elif was[path] != is_[path]:
            is_harmless = path[3:] == ("meaning",) or (path[3:], is_[path]) == (("null",), NEVER)
            (others if is_harmless else breaking)[f"{' '.join(path)}: {was[path]!r} is now {is_[path]!r}"] = None
    return list(breaking), list(others)


def read_contract(project: Path = PROJECT) -> Contract | None:
    """The contract as it is written down; none before it was first written.

    Raises:
        ContractBroken: somebody has changed the file by hand.
    """
    path = project / CONTRACT
    if not path.exists():
        return None
    told = json.loads(path.read_text())
    seal, contract = told.pop("sha256"), Contract(**told)
    if _seal(contract) != seal:
        raise ContractBroken(
            "the contract was changed by hand",
            where=str(path),
            expected=f"a contract of SHA-256 {seal}",
            found=_seal(contract),
            remedy="take the file back from version control, change the tables in the code, then make docs",
        )
    return contract


def amended(old: Contract | None, new: Mapping[str, Any], *, is_major: bool = False) -> Contract:
    """The contract of the new terms: as it was where nothing has changed, else of the next version.

    Raises:
        ContractBroken: a change breaks what analysts have built, and a new major version was not asked for.
    """
    if old is None:
        return Contract("1.0", {"1.0": ["first version"]}, new)
    breaking, others = differences(old.tables, new)
    if breaking and not is_major:
        raise ContractBroken(
            "a change breaks what analysts have built on the warehouse",
            where=f"contract of version {old.version}",
            expected="only additions within a major version",
            found="; ".join(breaking),
            remedy="keep the old column beside the new one; or tell the analysts, then nightjar contract --major",
        )
    if not breaking and not others:
        return old
    major, minor = map(int, old.version.split("."))
    version = f"{major + 1}.0" if breaking else f"{major}.{minor + 1}"
    return Contract(version, {**old.changes, version: [*breaking, *others]}, new)


def documented(page: str, contract: Contract) -> str:
    """The page for analysts, with the contract's facts between its markers; `rest` is what has no place of its own."""
    own = {name for name in _BLOCK.findall(page) if name in contract.tables}
    told = {name: _as_markdown(table) for name, table in contract.tables.items()}
    told |= {f"{name}_latest": f"The columns of `{name}`." for name in told if f"{name}_latest" in told}
    rest = [f"### `{name}`\n{text}" for name, text in told.items() if name not in own]
    history = [f"- {version}: {'; '.join(changes)}" for version, changes in contract.changes.items()]
    told |= {"rest": "\n\n".join(rest), "versions": "\n".join(history)}
    return _BLOCK.sub(lambda found: f"<!-- begin {found[1]} -->\n{told[found[1]]}\n<!-- end -->", page)


def write_contract(settings: Settings, project: Path = PROJECT, *, is_major: bool = False) -> Contract:
    """Write down what the code says of the warehouse, in the contract and in the pages for analysts and on KPIs.

    Raises:
        ContractBroken: see `amended` and `read_contract`; nothing is written.
    """
    ours = load_use_cases(settings.model_copy(update={"use_cases": ()}))
    contract = amended(read_contract(project), terms(ours), is_major=is_major)
    text = json.dumps({"sha256": _seal(contract), **asdict(contract)}, indent=1, ensure_ascii=False)
    page = documented((project / PAGE).read_text(), contract)
    for name, content in ((CONTRACT, f"{text}\n"), (PAGE, page), (kpi_page.PAGE, kpi_page.as_page(ours))):
        with replacing(project / name) as unfinished:
            unfinished.write_text(content)
    return contract


def _seal(contract: Contract) -> str:
    return hashlib.sha256(json.dumps(asdict(contract)).encode()).hexdigest()


def _column_terms(column: sa.Column[Any], use_cases: Mapping[str, UseCase]) -> dict[str, Any]:
    table = column.table.name
    values = _VALUES.get(f"{table}.{column.name}") or _VALUES.get(column.name)
    if column.name == "kpi":
        kpis = [kpi for use_case in use_cases.values() for kpi in use_case.kpis]
        values = {kpi.name: f"{kpi.meaning} ({kpi.unit})" for kpi in kpis if kpi.is_daily or table == "kpi__weekly"}
    return {
        "type": column.type.compile(dialect=postgresql.dialect()).lower(),  # type: ignore[no-untyped-call]
        "null": "allowed" if column.nullable else NEVER,
        "meaning": column.comment or "",
    } | ({"values": values} if values else {})


def _facts(node: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, below in node.items():
        if isinstance(below, str):
            yield (*path, name), below
        else:
            yield from _facts(below, (*path, name))


def _first_missing(path: tuple[str, ...], facts: Mapping[tuple[str, ...], str]) -> str:
    known = {other[:length] for other in facts for length in range(1, len(other) + 1)}
    return " ".join(next(path[:length] for length in range(1, len(path) + 1) if path[:length] not in known))


def _as_markdown(table: Mapping[str, Any]) -> str:
    lines = [f"Key: `{table['key'].replace(', ', '`, `')}`.", "", "| column | type | meaning |", "|---|---|---|"]
    for name, column in table["columns"].items():
        null = "" if column["null"] == NEVER else ", null allowed"
        lines.append(f"| `{name}` | {column['type']}{null} | {column['meaning']} |")
    for name, column in table["columns"].items():
        if "values" in column:
            lines += ["", f"| `{name}` | meaning |", "|---|---|"]
            lines += [f"| `{value}` | {meaning} |" for value, meaning in column["values"].items()]
    return "\n".join(lines)
