"""On PostgreSQL each kind of step has a role that may do what the step needs, and nothing else."""

from datetime import date
from itertools import product

import psycopg
import pyarrow as pa
import pytest
import sqlalchemy as sa
from corner_shop import LISTS, SHOP, day, keep_scores, open_shop
from postgres import warehouse_of
from psycopg import sql

from pipelines import roles, schema, tables, warehouse
from pipelines.erasure import erase
from pipelines.errors import EngineFailure
from pipelines.incidents import Incident, open_incident
from pipelines.ingest import ingest
from pipelines.landing import land
from pipelines.publishing import publish
from pipelines.retention import _published
from pipelines.settings import Settings
from pipelines.steps import measured

VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "DROP")
ROLES = ("ingest", "train", "score", "monitor", "erase", "analyst")
# Written down a second time, from the purpose of each table: S, I, U, D for each of the roles above; – is nothing.
MAY = {
    #                          ingest train score monitor erase analyst
    "alembic_version":        ("S",  "S",  "S",   "S",   "S",   "–"),
    "scores__corner_shop":    ("–",  "S",  "SID", "S",   "SD",  "S"),
    "scores__corner_shop_latest": ("–", "S", "SID", "S", "SD", "S"),
    "outcomes__corner_shop":  ("–",  "S",  "S",   "SID", "SD",  "S"),
    "staging__corner_shop":   ("–",  "–",  "SID", "–",   "SD",  "–"),
    "kpi__daily":             ("–",  "S",  "S",   "SID", "–",   "S"),
    "kpi__weekly":            ("–",  "S",  "S",   "SID", "–",   "S"),
    "monitor__metrics":       ("–",  "S",  "S",   "SID", "–",   "S"),
    "monitor__findings":      ("–",  "S",  "S",   "SID", "–",   "S"),
    "ops__ingest_log":        ("SI", "S",  "S",   "S",   "SI",  "S"),
    "ops__reconciliation":    ("S",  "–",  "–",   "–",   "–",   "S"),
    "ops__check_log":         ("SI", "SI", "SI",  "SI",  "SI",  "S"),
    "ops__run_costs":         ("SI", "SI", "SI",  "SI",  "SI",  "S"),
    "ops__quarantine_drops":  ("SI", "S",  "S",   "S",   "SID", "–"),
    "ops__tombstones":        ("S",  "S",  "S",   "S",   "SID", "–"),
    "ops__access_log":        ("–",  "–",  "–",   "–",   "SI",  "–"),
    "ops__snapshot_log":      ("–",  "SI", "SI",  "SI",  "SI",  "S"),
    "ops__publish_log":       ("–",  "S",  "SI",  "S",   "SI",  "S"),
    "ops__publish_fences":    ("–",  "–",  "SIU", "–",   "S",   "–"),
    "ops__promotion_log":     ("–",  "SI", "S",   "S",   "–",   "S"),
    "ops__incidents":         ("–",  "–",  "SIU", "SIU", "–",   "S"),
    "ops__retrain_decisions": ("–",  "SID", "–",  "SID", "–",   "S"),
}  # fmt: skip


@pytest.fixture(scope="module")
def owned(postgres, tmp_path_factory):
    """A warehouse with roles, as its owner sees it; a night is published."""
    home = tmp_path_factory.mktemp("roles")
    settings = Settings(home=home, warehouse_url=warehouse_of(postgres.url(), home))
    warehouse.create_tables(settings, [SHOP])
    with warehouse.open_warehouse(settings) as connection:
        schema.wait_for_schema(connection)
        roles.make_roles(connection)
        warehouse.load_rows(connection, tables.scores_table(SHOP), night(0))
        for role in ROLES:
            login = f"{role}_login_{home.name.replace('-', '_')}"
            connection.execute(sa.text(f"DROP ROLE IF EXISTS {login}"))
            connection.execute(sa.text(f"CREATE ROLE {login} LOGIN PASSWORD 'of-the-tests' IN ROLE nightjar_{role}"))
    return settings


@pytest.fixture
def login(owned):
    """Settings of somebody who was granted one role."""

    def login(role):
        if role == "owner":
            return owned
        name = f"{role}_login_{owned.home.name.replace('-', '_')}"
        url = sa.make_url(owned.warehouse).set(username=name, password="of-the-tests")
        return owned.model_copy(update={"warehouse_url": url.render_as_string(hide_password=False)})

    return login


def night(number, households=(1, 2)):
    told = {"score_date": day(number), "rank": 1, "product_category": "MILK", "score": 0.5, "score_source": "champion"}
    told |= {"is_low_confidence": False, "model_version": "1", "feature_version": "f", "run_id": "r"}
    return pa.Table.from_pylist([told | {"household_id": who} for who in households])


def statement(verb, table, column):
    texts = {
        "SELECT": "SELECT * FROM {table} LIMIT 1",
        "INSERT": "INSERT INTO {table} SELECT * FROM {table} WHERE false",
        "UPDATE": "UPDATE {table} SET {column} = {column} WHERE false",
        "DELETE": "DELETE FROM {table} WHERE false",
        "TRUNCATE": "TRUNCATE {table}",
        "DROP": "DROP TABLE {table} CASCADE",
    }
    return sql.SQL(texts[verb]).format(table=sql.Identifier(table), column=sql.Identifier(column))


def is_allowed(connection, said):
    """Whether PostgreSQL lets the statement through; whatever it did is rolled back."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(said)
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True


@pytest.mark.attack("S8")
def test_every_role_may_do_to_every_table_what_is_written_here_and_nothing_else(owned, login):
    with warehouse.open_warehouse(owned) as connection:
        inspector = sa.inspect(connection)
        views = set(inspector.get_view_names())
        columns = {name: inspector.get_columns(name)[0]["name"] for name in (*inspector.get_table_names(), *views)}
    assert set(columns) == set(MAY), "a new table is somebody's, or nobody's, on purpose"
    wrong = []
    for position, role in enumerate(ROLES):
        url = login(role).warehouse.replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            for table, verb in product(MAY, VERBS):
                if table in views and verb != "SELECT":
                    continue  # a view of one table could be written to: the next test
                found = is_allowed(connection, statement(verb, table, columns[table]))
                expected = verb[0] in MAY[table][position] and verb in VERBS[:4]
                if found != expected:
                    wrong.append((role, verb, table, found))
    assert wrong == []


@pytest.mark.attack("S8")
def test_an_analyst_cannot_write_make_or_reach_anything_else(login):
    with psycopg.connect(login("analyst").warehouse.replace("+psycopg", ""), autocommit=True) as connection:
        assert is_allowed(connection, "SELECT * FROM scores__corner_shop_latest")
        for said in (
            "DELETE FROM scores__corner_shop_latest",
            "UPDATE scores__corner_shop_latest SET score = 1",
            "SELECT * FROM partitions.scores__corner_shop__2017_05",
            "SELECT make_partition('scores__corner_shop', '2030-01-01')",
            "SELECT drop_partitions('scores__corner_shop', '2030-01-01')",
            "CREATE TABLE public.mine (x int)",
            "CREATE TEMP TABLE mine (x int)",
            "CREATE SCHEMA mine",
            "SET ROLE nightjar_score",
            "GRANT nightjar_score TO CURRENT_USER",
            "ALTER TABLE scores__corner_shop DISABLE TRIGGER ALL",
            "COPY scores__corner_shop TO PROGRAM 'cat'",
            "SELECT pg_read_file('/etc/passwd')",
        ):
            assert not is_allowed(connection, said), said


@pytest.mark.attack("S8")
def test_each_role_does_its_own_steps(login, owned):
    score, monitor, erase = login("score"), login("monitor"), login("erase")
    with warehouse.open_warehouse(score) as connection:  # a month that is not there yet
        warehouse.replace_rows(connection, tables.scores_table(SHOP), night(40), score_date=day(40))
    warehouse.create_tables(score, [SHOP])
    assert open_incident(score, SHOP, day(0), Incident("k", "s", "c", "m", "r"), "run")
    with warehouse.open_warehouse(monitor) as connection:
        seen = connection.scalars(sa.select(tables.scores_table(SHOP).c.household_id).distinct()).all()
    assert sorted(seen) == [1, 2]
    for role in ("ingest", "train", "score", "monitor", "erase"):
        with measured(login(role), "step", "2017-05-01", "run"):
            pass
    assert _published(erase, date(2017, 6, 1)) == 2, "May as a whole"
    with pytest.raises(EngineFailure, match="permission denied"):
        _published(score, date(2018, 1, 1))
    with warehouse.open_warehouse(owned) as connection:
        left = sa.inspect(connection).get_table_names(schema="partitions")
    assert left == ["scores__corner_shop__2017_06"]


@pytest.mark.attack("S8")
def test_a_real_ingest_a_publication_and_an_erasure_run_under_their_own_roles(login, settings):
    ingesting, scoring, erasing = (
        settings.model_copy(update={"warehouse_url": login(role).warehouse}) for role in ("ingest", "score", "erase")
    )
    real = date(2017, 11, 19)
    land(ingesting, real, real)
    assert ingest(ingesting, real, real, "ingest").rows_kept > 1_000
    raw = str(1)
    assert erase(erasing, raw, real, "erase").is_complete

    open_shop(scoring.model_copy(update={"warehouse_url": login("owner").warehouse}))
    keep_scores(scoring, LISTS)
    assert publish(scoring, SHOP, day(0), "score", "1").rows == 3


def test_making_the_roles_again_changes_nothing_and_what_was_granted_by_hand_is_taken_back(owned, login):
    with warehouse.open_warehouse(owned) as connection:
        connection.execute(sa.text("GRANT DELETE ON ops__publish_log TO nightjar_score"))
        roles.make_roles(connection)

    with psycopg.connect(login("score").warehouse.replace("+psycopg", ""), autocommit=True) as connection:
        assert not is_allowed(connection, "DELETE FROM ops__publish_log")
        assert is_allowed(connection, "SELECT * FROM ops__publish_log")


def test_every_table_is_known_to_the_roles_and_says_what_it_is():
    declared = [*tables.METADATA.sorted_tables]
    declared += [make(SHOP) for make in (tables.scores_table, tables.staging_table, tables.outcomes_table)]
    for table in declared:
        assert roles.rights(table.name), table.name
        assert table.comment, table.name
