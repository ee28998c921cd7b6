"""A log of promotions that is tampered with, killed in the middle, or written by two at once."""

import multiprocessing
import signal
from contextlib import contextmanager

import pytest
import sqlalchemy as sa
from deliveries import in_process
from registered import GAIN, aliases, new_use_case, register
from toy import USE_CASE

from pipelines import promotion_log, registry, tables, warehouse
from pipelines.append_only import protect, unprotect
from pipelines.errors import EngineFailure, HistoryAltered, NotJudged
from pipelines.promotion import Answer, promote
from pipelines.settings import Settings

pytestmark = pytest.mark.usefixtures("database")

LOG = tables.PROMOTION_LOG
CRASHES = (
    "promotion_log.before_entry",
    "promotion_log.after_entry",
    "promotion.after_log",
    "promotion.between_aliases",
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Settings(home=tmp_path_factory.mktemp("shop"))


@pytest.fixture
def three(shop):
    """A use case with three promotions behind it, and the numbers of their entries."""
    use_case, champion = new_use_case(), None
    for _ in range(3):
        version = register(shop, use_case, GAIN, champion=champion)
        promote(shop, use_case, version, "night")
        champion = version
    assert promotion_log.verify(shop, use_case) == 3
    return use_case, [row["promotion_id"] for row in promotion_log.history(shop, use_case)]


@contextmanager
def as_owner(settings):
    """A connection of somebody who may drop triggers, and who covers the tracks."""
    with warehouse.open_warehouse(settings) as connection:
        unprotect(connection, LOG.name)
        yield connection
        protect(connection, LOG.name)


@pytest.mark.attack("S4")
@pytest.mark.parametrize(
    "statement", ["UPDATE ops__promotion_log SET actor = 'nobody'", "DELETE FROM ops__promotion_log"]
)
def test_the_database_refuses_to_change_or_remove_an_entry(shop, three, statement):
    with pytest.raises(EngineFailure, match="append-only"), warehouse.open_warehouse(shop) as connection:
        connection.execute(sa.text(statement))
    assert promotion_log.verify(shop, three[0]) == 3


@pytest.mark.attack("S4")
@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("actor", "asha"), ("trainer", "otto"), ("reason", "because"), ("evidence", "[]"), ("action", "rollback")),
        *(("from_version", "9"), ("to_version", "9"), ("run_id", "x"), ("recorded_at", "2017-11-19 00:00:00.000000")),
        *(("is_promoted", False), ("entry_hash", "f" * 64), ("previous_hash", "e" * 64)),
    ],
)
def test_an_entry_that_was_edited_is_named(shop, three, column, value):
    use_case, numbers = three
    with as_owner(shop) as owner:
        owner.execute(sa.text(f"UPDATE {LOG} SET {column} = :v WHERE promotion_id = {numbers[1]}"), {"v": value})

    with pytest.raises(HistoryAltered, match=f"promotion_id={numbers[1]}\n"):
        promotion_log.verify(shop, use_case)


@pytest.mark.attack("S4")
def test_a_deleted_entry_is_told_by_the_one_after_it(shop, three):
    use_case, numbers = three
    with as_owner(shop) as owner:
        owner.execute(sa.delete(LOG).where(LOG.c.promotion_id == numbers[1]))

    with pytest.raises(HistoryAltered, match=f"(?s)an entry before this one is missing.*promotion_id={numbers[2]}\n"):
        promotion_log.verify(shop, use_case)


@pytest.mark.attack("S4")
def test_entries_in_another_order_are_named(shop, three):
    use_case, (first, second, _) = three
    with as_owner(shop) as owner:
        for old, new in ((first, -1), (second, first), (-1, second)):
            owner.execute(sa.update(LOG).where(LOG.c.promotion_id == old).values(promotion_id=new))

    with pytest.raises(HistoryAltered, match=f"promotion_id={first}\n"):
        promotion_log.verify(shop, use_case)


@pytest.mark.attack("S4")
@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_tail_that_was_cut_off_is_missed_and_nothing_is_written_over_it(shop, three, kept):
    use_case, numbers = three
    with as_owner(shop) as owner:
        owner.execute(sa.delete(LOG).where(LOG.c.promotion_id.in_(numbers[kept:])))

    with pytest.raises(HistoryAltered, match=f"promotion_id={numbers[kept - 1] if kept else 'none'}\n"):
        promotion_log.verify(shop, use_case)
    champion = aliases(shop, use_case)[0]
    next_one = register(shop, use_case, GAIN, champion="2" if kept == 2 else "1" if kept == 1 else champion)
    with pytest.raises(HistoryAltered):
        promote(shop, use_case, next_one, "night")


@pytest.mark.attack("S4")
def test_an_entry_that_was_forged_behind_the_last_is_told(shop, three):
    use_case, _ = three
    newest = promotion_log.history(shop, use_case)[-1]
    forged = {name: value for name, value in newest.items() if name != "promotion_id"}
    forged |= {"actor": "asha", "previous_hash": newest["entry_hash"]}
    forged["entry_hash"] = promotion_log._hash(forged)
    with warehouse.open_warehouse(shop) as connection:
        warehouse.append_rows(connection, LOG, [forged])

    with pytest.raises(HistoryAltered, match="or it is forged"):
        promotion_log.verify(shop, use_case)


@pytest.mark.attack("S4")
def test_a_champion_that_was_made_behind_the_log_is_told(shop, three):
    use_case, _ = three
    registry.set_alias(shop, use_case, registry.CHAMPION, "1")

    with pytest.raises(HistoryAltered, match=r"(?s)moved by other means.*expected: 3\n  found:    1"):
        promotion_log.verify(shop, use_case)


@pytest.mark.parametrize("point", CRASHES)
def test_whatever_point_of_a_promotion_a_kill_hits_the_next_run_ends_as_if_nothing_was(shop, three, point):
    use_case, _ = three
    better = register(shop, use_case, GAIN, champion="3")

    code, _ = in_process(promote_at, shop.home, use_case.name, better, NIGHTJAR_CRASH_AT=point)

    assert code == -signal.SIGKILL
    assert aliases(shop, use_case)[0] == "3", "the old champion goes on"
    assert promote(shop, use_case, better, "again").is_promoted
    assert aliases(shop, use_case) == (better, "3")
    assert promotion_log.verify(shop, use_case) == 4
    assert (
        registry.model_tag(shop, use_case, promotion_log.TAG) == promotion_log.history(shop, use_case)[-1]["entry_hash"]
    )


def test_of_two_promotions_at_once_one_wins_and_the_chain_does_not_fork(shop, three):
    use_case, _ = three
    rivals = [register(shop, use_case, GAIN, champion="3") for _ in range(2)]
    context = multiprocessing.get_context("forkserver")
    start = context.Barrier(2)
    both = [context.Process(target=promote_at, args=(shop.home, use_case.name, one, start)) for one in rivals]
    for process in both:
        process.start()
    for process in both:
        process.join(120)

    assert sorted(process.exitcode for process in both) == [0, 7]
    winner = rivals[[process.exitcode for process in both].index(0)]
    assert aliases(shop, use_case) == (winner, "3")
    assert promotion_log.verify(shop, use_case) == 4


def promote_at(home, name, version, start=None):
    settings, use_case = Settings(home=home), USE_CASE.model_copy(update={"name": name})
    promotion_log.history(settings, use_case)  # imports what is slow to import
    registry.find_alias(settings, use_case, registry.CHAMPION)
    if start:
        start.wait()
    try:
        promote(settings, use_case, version, "at once", Answer("asha", is_approved=True, reason="now"))
    except NotJudged:
        raise SystemExit(7) from None
