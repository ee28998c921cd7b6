"""The page for analysts: its queries answer what it says they answer, on nights that really ran."""

import os
import re
import shutil
import subprocess
import sys
from datetime import date

import pytest
import sqlalchemy as sa
from postgres import warehouse_of
from toy import USE_CASE
from typer.testing import CliRunner

from pipelines import analyst_contract, features, monitoring, registry, tables, warehouse
from pipelines.cli import app
from pipelines.errors import NotPublished, PublicationAltered
from pipelines.export import verify
from pipelines.publishing import publish
from pipelines.scoring import score
from pipelines.settings import PROJECT
from pipelines.use_cases import load_use_cases

pytestmark = pytest.mark.slow
PAGE = (PROJECT / analyst_contract.PAGE).read_text()
# The page is about the reference use case; the toy's tables differ in names alone.
NAMES = {"category_propensity": "toy_visits", "product_category": "store_id", "_at_10": "_at_3"}
FIRST, SECOND, MATURED, LAST = date(2017, 11, 19), date(2017, 11, 20), date(2017, 11, 26), date(2017, 11, 27)


def queries():
    """The page's queries by the heading above them; the second below a heading has a 2 behind it, and so on."""
    found = {}
    heading = ""
    for part in re.split(r"^(## [^\n]*|```sql\n.*?^```)$", PAGE, flags=re.MULTILINE | re.DOTALL):
        if part.startswith("## "):
            heading, number = part.removeprefix("## "), 1
        elif part.startswith("```sql"):
            found[heading if number == 1 else f"{heading} {number}"] = part.removeprefix("```sql\n").removesuffix("```")
            number += 1
    return found


def promote_by_hand(settings):
    """Judge and promote version 2, in a process that knows nothing of the home that this one is a copy of."""
    told = {"HOME": settings.home, "USE_CASES": "toy", "SIGNING_KEY": settings.signing_key.get_secret_value()}
    variables = {f"NIGHTJAR_{name}": str(value) for name, value in told.items()}
    subprocess.run(
        [sys.executable, "-m", "pipelines.cli", "model", "promote", "2", "--use-case", USE_CASE.name,
         "--date", str(MATURED), "--reason", "newer"],
        env={**os.environ, "PYTHONPATH": f"{PROJECT}:{PROJECT}/tests", **variables},
        check=True,
    )  # fmt: skip


@pytest.fixture(scope="module")
def home(toy_copy):
    """Four nights: two by version 1, then one without a registry, then one by a version that somebody restored."""
    settings = toy_copy()
    for day in (SECOND, LAST):
        features.build_features(settings, USE_CASE, day, "night")
    for day in (FIRST, SECOND, MATURED, LAST):
        night = (
            settings.model_copy(update={"mlflow_tracking_uri": "http://127.0.0.1:9"}) if day == MATURED else settings
        )
        if day == LAST:
            promote_by_hand(settings)
            registry.set_alias(settings, USE_CASE, registry.CHAMPION, "2")
        publish(night, USE_CASE, day, f"night {day}", score(night, USE_CASE, day, f"night {day}").model_version)
    for day in (MATURED, LAST):
        monitoring.record_outcomes(settings, USE_CASE, day, "monitor")
        monitoring.measure_quality(settings, USE_CASE, day, "monitor")
        monitoring.compute_kpis(settings, USE_CASE, day, "monitor")
    monitoring.measure_drift(settings, USE_CASE, FIRST, "monitor")
    return settings


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def place(request, home, tmp_path_factory):
    """The home, and the same with its warehouse on PostgreSQL."""
    if request.param == "sqlite" or request.config.getoption("--warehouse") == "postgresql":
        return home
    copy = tmp_path_factory.mktemp("copy")
    shutil.copy(home.home / "warehouse.db", copy)
    return home.model_copy(update={"warehouse_url": warehouse_of(request.getfixturevalue("postgres").url(), copy)})


@pytest.fixture(scope="module")
def answers(place):
    """What each query of the page gives, as dictionaries, for a household with an outcome."""
    with warehouse.open_warehouse(place, only_reads=True) as connection:
        outcomes = tables.outcomes_table(USE_CASE)
        someone = connection.scalar(sa.select(outcomes.c.household_id).where(outcomes.c.is_positive).limit(1))
        found = {}
        for name, query in queries().items():
            for reference, ours in NAMES.items():
                query = query.replace(reference, ours)  # noqa: PLW2901
            told = {"household": someone} if ":household" in query else {}
            found[name] = [dict(row) for row in connection.execute(sa.text(query), told).mappings()]
    return found


def test_each_query_of_the_page_finds_something(answers):
    assert len(answers) >= 15
    assert [name for name, rows in answers.items() if not rows] == []


def test_who_gets_what_ranks_the_likeliest_first(answers):
    rows = answers["Who gets what"]
    assert [row["rank"] for row in rows[:3]] == [1, 2, 3]
    assert rows[0]["household_id"] == rows[2]["household_id"]
    assert 1 >= rows[0]["score"] >= rows[1]["score"] >= rows[2]["score"] > 0
    top = [row["households"] for row in answers["Who gets what 2"]]
    assert top == sorted(top, reverse=True)


def test_an_analyst_learns_why_a_household_got_a_category_and_what_it_was_worth(home, answers):
    why = answers["Why this row, and what was it worth"]
    assert [row["rank"] for row in why] == [1, 2, 3]
    assert re.search(r"visit", why[0]["reason_1"])
    assert {(row["model_version"], row["run_id"]) for row in why} == {("2", f"night {LAST}")}
    worth = answers["Why this row, and what was it worth 2"]
    assert {str(row["score_date"]) for row in worth} == {str(day) for day in (FIRST, SECOND, MATURED, LAST)}
    assert sum(row["value_usd"] or 0 for row in worth) > 0
    for row in worth:
        is_known = str(row["score_date"]) <= str(SECOND)
        assert (row["is_positive"] is not None) == (row["value_usd"] is not None) == is_known
    assert max(row["value_usd"] for row in worth if row["is_positive"]) > 0
    assert {row["value_usd"] for row in worth if row["is_positive"] == 0} <= {0}


def test_last_months_lists_are_judged_by_what_happened(answers):
    rows = answers["How good were last month's"]
    assert [str(row["score_date"]) for row in rows] == [str(FIRST), str(SECOND)]
    for row in rows:
        assert abs(row["predicted"] - float(row["happened"])) < 0.1
        assert row["rows_published"] > 4000
    for row in answers["How good were last month's 2"]:
        assert row["score_from"] <= row["predicted"] < row["score_from"] + 0.1
    assert sum(row["rows_published"] for row in answers["How good were last month's 2"]) == sum(
        row["rows_published"] for row in rows
    )
    assert {row["kpi"] for row in answers["How good were last month's 3"]} == {"stores_visited"}
    metrics = answers["How good were last month's 4"]
    assert {"auc", "ndcg_at_3", "drift_share"} == {row["metric"] for row in metrics}
    assert any(row["model_version"].startswith("rule:") for row in metrics)


def test_entries_and_exits_are_those_of_the_two_newest_lists(home, answers):
    scores = tables.scores_table(USE_CASE)
    with warehouse.open_warehouse(home) as connection:
        today, before = (
            set(
                connection.execute(
                    sa.select(scores.c.household_id, scores.c.store_id).where(scores.c.score_date == day)
                )
            )
            for day in (LAST, MATURED)
        )
    changes = answers["What changed since yesterday"]
    expected = sorted([(*row, "entered") for row in today - before] + [(*row, "left") for row in before - today],
                      key=lambda row: (row[0], row[2], row[1]))  # fmt: skip
    assert len(changes) == 50
    assert [(row["household_id"], row["store_id"], row["change"]) for row in changes] == expected[:50]
    assert {row["rank_today"] is None for row in changes if row["change"] == "left"} == {True}


def test_which_model_when_and_by_whose_decision(home, answers):
    published = answers["Which model when"]
    assert [row["model_version"] for row in published] == ["1", "1", "1", "2"]
    assert [row["run_id"] for row in published] == [f"night {day}" for day in (FIRST, SECOND, MATURED, LAST)]
    decided = answers["Which model when 2"]
    assert decided[-1]["to_version"] == "2"
    assert (
        decided[-1]["action"]
        in analyst_contract.read_contract().tables["ops__promotion_log"]["columns"]["action"]["values"]
    )


def test_whether_a_date_can_be_trusted(place, answers):
    incident = answers["Can I trust this date"][0]
    assert str(incident["first_date"]) == str(MATURED)
    hashes = {str(row["score_date"]): row["content_hash"] for row in answers["Can I trust this date 2"]}
    for day in (FIRST, SECOND, MATURED, LAST):
        report = verify(place, USE_CASE, day)
        assert (report.content_hash, report.run_id) == (hashes[str(day)], f"night {day}")
    for row in answers["Can I trust this date 3"]:
        assert row["is_balanced"]
        assert row["rows_kept"] + row["rows_quarantined"] == row["rows_delivered"]


def test_a_million_scores_have_a_price(answers):
    rows = answers["What a million scores cost"]
    assert [row["score_date"] for row in rows] == [str(day) for day in (FIRST, SECOND, MATURED, LAST)]
    assert all(0 < row["cpu_s_per_million"] < 10_000 for row in rows)


def test_values_that_the_contract_lists_are_those_that_occur(home):
    contract = analyst_contract.terms(load_use_cases(home))
    with warehouse.open_warehouse(home) as connection:
        for name, table in contract.items():
            for column, told in table["columns"].items():
                if "values" in told and sa.inspect(connection).has_table(name):
                    found = set(connection.scalars(sa.text(f"SELECT DISTINCT {column} FROM {name}")))
                    assert found <= set(told["values"]), f"{name}.{column}"


EDITS = {
    "a score is raised": "UPDATE {} SET score = 0.99 WHERE rank = 1 AND score_date = '2017-11-19'",
    "a row has another place": "UPDATE {} SET rank = 9 WHERE rank = 3 AND score_date = '2017-11-19'",
    "a reason is reworded": "UPDATE {} SET reason_1 = 'because' WHERE rank = 1 AND score_date = '2017-11-19'",
    "a row is gone": "DELETE FROM {} WHERE rank = 3 AND score_date = '2017-11-19'",
    "all rows are gone": "DELETE FROM {} WHERE score_date = '2017-11-19'",
    "another run has signed it": "UPDATE {} SET run_id = 'me' WHERE score_date = '2017-11-19'",
}


@pytest.mark.attack("S7")
@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edit_of_published_rows_by_hand_is_found(place, edit):
    table = USE_CASE.scores_table
    with warehouse.open_warehouse(place) as connection:
        connection.execute(sa.text(f"CREATE TABLE saved AS SELECT * FROM {table} WHERE score_date = '2017-11-19'"))
        assert connection.execute(sa.text(edit.format(table))).rowcount > 0
    try:
        with pytest.raises(PublicationAltered) as found:
            verify(place, USE_CASE, FIRST)
        assert "nightjar publish --use-case toy_visits --date 2017-11-19 --force" in found.value.remedy
        verify(place, USE_CASE, SECOND)
    finally:
        with warehouse.open_warehouse(place) as connection:
            connection.execute(sa.text(f"DELETE FROM {table} WHERE score_date = '2017-11-19'"))
            connection.execute(sa.text(f"INSERT INTO {table} SELECT * FROM saved"))
            connection.execute(sa.text("DROP TABLE saved"))
    verify(place, USE_CASE, FIRST)


@pytest.mark.attack("S7")
def test_the_command_tells_who_published_what_or_that_nothing_is_there(home, monkeypatch):
    monkeypatch.setenv("NIGHTJAR_HOME", str(home.home))
    monkeypatch.setenv("NIGHTJAR_USE_CASES", "toy")
    shown = CliRunner().invoke(app, ["verify", "--use-case", "toy_visits", "--date", str(FIRST)])
    assert (shown.exit_code, f"as run night {FIRST} published them" in shown.output) == (0, True), shown.output
    with pytest.raises(NotPublished, match="nightjar score"):
        verify(home, USE_CASE, date(2017, 11, 1))
