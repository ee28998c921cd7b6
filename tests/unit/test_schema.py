"""The warehouse's schema: migrated forward and back on both databases, without losing a row."""

import multiprocessing

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from corner_shop import DAY, SHOP, log, publish, rows_of
from typer.testing import CliRunner

from pipelines import schema, tables, warehouse
from pipelines.cli import app
from pipelines.errors import UnknownRevision
from pipelines.settings import PROJECT

pytestmark = pytest.mark.usefixtures("database")
OLDEST = schema.REVISIONS[0]


def described(settings):
    """Tables, columns with their types, keys, indexes, views and triggers, as the database tells them."""
    with warehouse.open_warehouse(settings) as connection:
        inspector = sa.inspect(connection)
        told = {}
        for name in inspector.get_table_names():
            columns = [{**one, "type": str(one["type"])} for one in inspector.get_columns(name)]
            unique = sorted(map(str, inspector.get_unique_constraints(name)))
            keys = inspector.get_pk_constraint(name)["constrained_columns"]
            indexes = sorted((one["name"], one["column_names"], one["unique"]) for one in inspector.get_indexes(name))
            told[name] = (columns, keys, unique, indexes)
        views = {name: inspector.get_view_definition(name) for name in inspector.get_view_names()}
        triggers = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal"
        if connection.dialect.name == "sqlite":
            triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        return told, views, sorted(connection.scalars(sa.text(triggers)))


def migrate(settings, target):
    with warehouse.open_warehouse(settings) as connection:
        if target != "base" and target > (schema.revision(connection) or ""):
            schema.upgrade(connection, target)
        else:
            schema.downgrade(connection, target)


def differences(settings, use_cases):
    """What Alembic would change to come from the database to the tables as they are declared."""
    wanted = sa.MetaData()
    declared = [*tables.METADATA.sorted_tables]
    made = (tables.scores_table, tables.staging_table, tables.outcomes_table)
    declared += [make(one) for one in use_cases for make in made]
    for table in declared:
        table.to_metadata(wanted)
    with warehouse.open_warehouse(settings) as connection:
        options = {"compare_type": True, "compare_server_default": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), wanted)


def test_the_newest_revision_is_what_the_tables_declare(settings):
    warehouse.create_tables(settings, [SHOP])

    assert differences(settings, [SHOP]) == []


def test_a_column_that_no_migration_brings_is_noticed(settings):
    warehouse.create_tables(settings, [SHOP])
    with warehouse.open_warehouse(settings) as connection:
        connection.execute(sa.text("ALTER TABLE kpi__daily DROP COLUMN meaning"))

    [found] = differences(settings, [SHOP])
    assert (found[0], found[2], found[3].name) == ("add_column", "kpi__daily", "meaning")


def test_forward_back_to_nothing_and_forward_again_gives_the_same_schema(settings):
    warehouse.create_tables(settings, [SHOP])
    before = described(settings)
    assert "scores__corner_shop_latest" in before[1]

    migrate(settings, "base")
    assert list(described(settings)[0]) == ["alembic_version"]
    assert described(settings)[1:] == ({}, [])
    warehouse.create_tables(settings, [SHOP])

    assert described(settings) == before


def test_each_step_forward_and_back_keeps_the_rows_of_all_tables(settings):
    log(settings, 0, 1)
    publish(settings, 0, {1: ["MILK", "BREAD"], 2: ["BEER"]})
    scores = tables.scores_table(SHOP)
    before = rows_of(settings, tables.INGEST_LOG), rows_of(settings, scores)
    assert (len(before[0]), len(before[1])) == (2, 3)

    for target in (*reversed(schema.REVISIONS), *schema.REVISIONS):
        migrate(settings, target)

    assert (rows_of(settings, tables.INGEST_LOG), rows_of(settings, scores)) == before


def test_a_warehouse_from_before_there_were_migrations_is_taken_over_with_its_rows(settings):
    log(settings, 0)
    publish(settings, 0, {1: ["MILK"]})
    migrate(settings, OLDEST)
    with warehouse.open_warehouse(settings) as connection:
        connection.execute(sa.text("DROP TABLE alembic_version"))

    warehouse.create_tables(settings, [SHOP])

    assert differences(settings, [SHOP]) == []
    assert [row["product_category"] for row in rows_of(settings, tables.scores_table(SHOP))] == ["MILK"]
    assert [row["business_date"] for row in rows_of(settings, tables.INGEST_LOG)] == [DAY]


def test_a_warehouse_newer_than_the_code_is_refused_and_left_as_it_is(settings):
    warehouse.create_tables(settings, [SHOP])
    before = described(settings)
    with warehouse.open_warehouse(settings) as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))

    for step in (lambda: warehouse.create_tables(settings, []), lambda: migrate(settings, "base")):
        with pytest.raises(UnknownRevision, match="9999"):
            step()
    assert described(settings) == before


def _create(settings, barrier, answers):
    barrier.wait()
    try:
        warehouse.create_tables(settings, [SHOP])
        answers.put("created")
    except Exception as error:
        answers.put(repr(error))


def test_four_processes_that_are_the_first_at_once_make_one_schema(settings):
    with warehouse.open_warehouse(settings):
        pass  # the database itself is there
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_create, args=(settings, barrier, answers)) for _ in range(4)]
    for process in processes:
        process.start()

    assert [answers.get(timeout=60) for _ in processes] == ["created"] * 4
    for process in processes:
        process.join()
    assert differences(settings, [SHOP]) == []


def test_the_newest_revision_is_known_without_alembic_and_the_files_form_one_line():
    scripts = ScriptDirectory(str(PROJECT / "pipelines" / "migrations"))
    assert scripts.get_heads() == [schema.HEAD]
    assert [one.revision for one in reversed(list(scripts.walk_revisions()))] == schema.REVISIONS


def test_the_command_shows_takes_back_and_brings_forward(settings, monkeypatch):
    monkeypatch.setenv("NIGHTJAR_HOME", str(settings.home))
    settings.home.mkdir(parents=True, exist_ok=True)

    def said(*command):
        done = CliRunner().invoke(app, ["warehouse", *command], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    assert schema.HEAD in said("upgrade")
    assert "◂" in said("history")
    assert "base" in said("downgrade", "base", "--yes")
    assert "◂" not in said("history")
    assert CliRunner().invoke(app, ["warehouse", "downgrade", "base"], input="n\n").exit_code != 0
