"""The contract with analysts: it is what the code says, and what breaks a reader needs a new major version."""

import copy
import json
from functools import partial

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from pipelines import analyst_contract, kpi_page, tables, warehouse
from pipelines.analyst_contract import CONTRACT, PAGE, Contract, amended, differences, documented, terms
from pipelines.cli import app
from pipelines.errors import ContractBroken
from pipelines.settings import PROJECT, Settings
from pipelines.use_cases import load_use_cases

OLD = {
    "scores": {
        "key": "score_date, household_id",
        "columns": {
            "household_id": {"type": "bigint", "null": "never", "meaning": "Who"},
            "score_source": {
                "type": "text", "null": "never", "meaning": "By whom", "values": {"model": "a model", "rule": "a rule"},
            },
            "reason": {"type": "text", "null": "allowed", "meaning": "Why"},
        },
    },
    "kpi": {"key": "kpi", "columns": {"kpi": {"type": "text", "null": "never", "meaning": "Figure"}}},
}  # fmt: skip


def changed(*path, to=None, at=OLD):
    """The terms with one fact set, or taken out."""
    new = copy.deepcopy(at)
    node = new
    for name in path[:-1]:
        node = node[name]
    if to is None:
        del node[path[-1]]
    else:
        node[path[-1]] = to
    return new


def renamed():
    new = copy.deepcopy(OLD)
    new["scores"]["columns"]["why"] = new["scores"]["columns"].pop("reason")
    return new


def in_scores(*path, to=None):
    return changed("scores", "columns", *path, to=to)


BREAKING = {
    "a table is gone": (changed("kpi"), "kpi removed"),
    "a column is gone": (in_scores("reason"), "scores columns reason removed"),
    "a column has another name": (renamed(), "scores columns reason removed"),
    "a column has another type": (in_scores("household_id", "type", to="text"), "'bigint' is now 'text'"),
    "null is newly allowed": (in_scores("household_id", "null", to="allowed"), "'never' is now 'allowed'"),
    "the key has lost a column": (changed("scores", "key", to="score_date"), "is now 'score_date'"),
    "a value is no longer there": (in_scores("score_source", "values", "rule"), "score_source values rule removed"),
    "a value means something else": (in_scores("score_source", "values", "rule", to="nobody"), "is now 'nobody'"),
}
HARMLESS = {
    "a table is new": changed("costs", to=OLD["kpi"]),
    "a column is new": in_scores("rank", to={"type": "integer", "null": "never", "meaning": "Place"}),
    "a value is new": in_scores("score_source", "values", "human", to="a human"),
    "null is no longer allowed": in_scores("reason", "null", to="never"),
    "a column is told in other words": in_scores("reason", "meaning", to="Why, in words"),
}


@pytest.mark.parametrize(("new", "named"), BREAKING.values(), ids=BREAKING)
def test_what_breaks_a_reader_needs_a_new_major_version(new, named):
    old = Contract("2.3", {"2.3": ["…"]}, OLD)
    with pytest.raises(ContractBroken) as refused:
        amended(old, new)
    assert named in refused.value.found
    raised = amended(old, new, is_major=True)
    assert (raised.version, raised.tables) == ("3.0", new)
    assert named in "; ".join(raised.changes["3.0"])


@pytest.mark.parametrize("new", HARMLESS.values(), ids=HARMLESS)
def test_what_breaks_no_reader_raises_the_minor_version_even_where_a_major_one_is_allowed(new):
    for is_major in (False, True):
        raised = amended(Contract("2.3", {"2.3": ["…"]}, OLD), new, is_major=is_major)
        assert (raised.version, list(raised.changes), raised.tables) == ("2.4", ["2.3", "2.4"], new)
        assert len(raised.changes["2.4"]) == 1


def test_no_change_leaves_the_version_alone_and_the_first_contract_is_1_0():
    old = Contract("2.3", {"2.3": ["…"]}, OLD)
    assert amended(old, copy.deepcopy(OLD), is_major=True) is old
    assert amended(None, OLD).version == "1.0"


def test_each_change_is_told_once_and_by_its_highest_name():
    new = renamed()
    new["costs"] = OLD["kpi"]
    assert differences(OLD, new) == (
        ["scores columns reason removed"],
        ["scores columns why added", "costs added"],
    )


def test_the_committed_contract_and_page_are_what_the_code_says():
    contract = analyst_contract.read_contract()
    ours = terms(load_use_cases(Settings(use_cases=())))
    assert differences(contract.tables, ours) == ([], []), "make docs; what breaks readers: nightjar contract --major"
    page = (PROJECT / PAGE).read_text()
    assert page == documented(page, contract), "make docs"
    kpis = kpi_page.as_page(load_use_cases(Settings(use_cases=())))
    assert (PROJECT / kpi_page.PAGE).read_text() == kpis, "make docs"


def test_every_column_that_analysts_read_has_a_meaning_and_every_table_is_on_the_page():
    page = (PROJECT / PAGE).read_text()
    for name, table in analyst_contract.read_contract().tables.items():
        assert f"### `{name}`" in page
        for column, told in table["columns"].items():
            assert told["meaning"], f"{name}.{column} needs a comment"


def test_a_table_is_either_read_by_analysts_or_withheld_by_name():
    assert set(tables.METADATA.tables) >= analyst_contract.WITHHELD
    assert not analyst_contract.WITHHELD & analyst_contract.read_contract().tables.keys()


def test_the_warehouse_has_the_tables_views_and_columns_of_the_contract(settings):
    warehouse.create_tables(settings, list(load_use_cases(settings).values()))
    with warehouse.open_warehouse(settings) as connection:
        inspector = sa.inspect(connection)
        for name, table in analyst_contract.read_contract().tables.items():
            assert {column["name"] for column in inspector.get_columns(name)} == set(table["columns"]), name


@pytest.fixture
def project(tmp_path):
    """A project with the page alone."""
    (tmp_path / "docs").mkdir()
    (tmp_path / PAGE).write_text(
        "# Page\n<!-- begin kpi__daily -->\nold\n<!-- end -->\n<!-- begin rest -->\n<!-- end -->"
    )
    return tmp_path


def test_writing_the_contract_fills_the_page_and_puts_tables_without_a_place_at_its_end(settings, project):
    contract = analyst_contract.write_contract(settings, project)
    assert (contract.version, analyst_contract.read_contract(project)) == ("1.0", contract)
    page = (project / PAGE).read_text()
    assert page.startswith("# Page\n<!-- begin kpi__daily -->\nKey: `use_case`, `kpi_date`, `kpi`.")
    assert "### `scores__category_propensity`\nKey: `score_date`, `household_id`, `rank`." in page
    assert analyst_contract.write_contract(settings, project) == contract
    assert (project / PAGE).read_text() == page


def test_a_contract_that_was_changed_by_hand_is_refused_and_not_built_upon(settings, project):
    analyst_contract.write_contract(settings, project)
    told = json.loads((project / CONTRACT).read_text())
    told["tables"]["kpi__daily"]["columns"]["value"]["null"] = "never"
    (project / CONTRACT).write_text(json.dumps(told))
    with pytest.raises(ContractBroken, match="by hand"):
        analyst_contract.write_contract(settings, project)


def test_the_command_writes_what_the_code_says_and_tells_the_version(project, monkeypatch):
    monkeypatch.setattr(analyst_contract, "write_contract", partial(analyst_contract.write_contract, project=project))
    shown = CliRunner().invoke(app, ["contract"])
    assert (shown.exit_code, shown.output) == (0, "version 1.0\n")
    assert analyst_contract.read_contract(project).tables == analyst_contract.read_contract().tables
