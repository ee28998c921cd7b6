"""The audit: figures that can be checked by eye, and each bound on both of its sides."""

import pyarrow as pa
import pytest
from corner_shop import LISTS, SHOP, day, keep_scores, know_features, open_shop, rows_of, sell

from pipelines import audit, partitions, tables, warehouse
from pipelines.audit import Figures, Night
from pipelines.errors import AuditRefused
from pipelines.publishing import Force, publish
from pipelines.use_case import AuditPolicy

LOG = tables.PUBLISH_LOG
SCORES = tables.scores_table(SHOP)
USUAL = Figures(rows=2000, entities=200, cold_start=0.05, scores=(0.5, 0.5), items={"MILK": 0.6, "BEER": 0.4})
SMALL = SHOP.model_copy(update={"audit": AuditPolicy(min_entities=1)})


@pytest.fixture
def shop(settings):
    open_shop(settings)
    return settings


def compared(now, *, version="1", before=USUAL, overlap=0.9, on=3):
    """Names of the checks that failed: those that block, and those that warn."""
    nights = [Night(day(number), "1", before) for number in (2, 1, 0)]
    checks = audit.comparisons(SHOP, day(on), version, now, nights, overlap)
    failed = [check for check in checks if not check.success]
    return {one.name for one in failed if one.is_blocking}, {one.name for one in failed if not one.is_blocking}


def test_the_figures_of_a_night_are_counted(settings):
    rows = pa.table(
        {
            "household_id": [1, 1, 2, 3],
            "product_category": ["MILK", "BEER", "MILK", "MILK"],
            "score": [0.99, 0.11, 0.12, 1.0],
            "score_source": ["champion", "cold_start", "champion", "champion"],
        }
    )

    found = audit.figures(settings, SHOP, rows)

    assert (found.rows, found.entities, found.cold_start) == (4, 3, 0.25)
    assert {place: share for place, share in enumerate(found.scores) if share} == {2: 0.5, 19: 0.5}
    assert found.items == {"MILK": 0.75, "BEER": 0.25}


def test_a_night_like_those_before_it_passes():
    assert compared(USUAL) == (set(), set())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rows": 1599}, "rows"),
        ({"rows": 2401}, "rows"),
        ({"entities": 159}, "entities"),
        ({"scores": (0.66, 0.34)}, "shift of the scores (PSI)"),  # .16 · ln 1.32 + .16 · ln 1.47 = .106
        ({"items": {"MILK": 0.49, "BEER": 0.51}}, "rows that went to other items"),
        ({"items": {"MILK": 0.6, "BEER": 0.29, "EGGS": 0.11}}, "rows that went to other items"),
        ({"cold_start": 0.16}, "rise of rows that nobody scored"),
    ],
)
def test_a_night_unlike_those_before_it_is_named(change, named):
    assert compared(USUAL.model_copy(update=change)) == ({named}, set())


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 1601},
        {"rows": 2399},
        {"entities": 161},
        {"scores": (0.65, 0.35)},
        {"items": {"MILK": 0.51, "BEER": 0.49}},
        {"cold_start": 0.14},
    ],
)
def test_a_little_less_passes(change):
    assert compared(USUAL.model_copy(update=change)) == (set(), set())


def test_lists_that_are_all_new_are_named():
    assert compared(USUAL, overlap=0.49) == ({"share of the lists that stays"}, set())


def test_another_model_may_change_scores_and_lists_but_not_the_size():
    now = USUAL.model_copy(update={"scores": (0.9, 0.1), "rows": 1000})

    assert compared(now, version="2", overlap=0.1) == (
        {"rows"},
        {"shift of the scores (PSI)", "share of the lists that stays"},
    )


def test_after_a_gap_of_more_than_three_days_scores_and_lists_only_warn():
    now = USUAL.model_copy(update={"scores": (0.9, 0.1), "rows": 1000})

    assert compared(now, on=5) == ({"rows", "shift of the scores (PSI)"}, set())
    assert compared(now, on=6) == ({"rows"}, {"shift of the scores (PSI)"})


def test_a_small_night_is_no_measure():
    assert compared(USUAL, before=USUAL.model_copy(update={"entities": 99, "rows": 10})) == (set(), set())


def test_the_overlap_counts_what_stays_of_each_list(settings):
    def lists(*rows):
        return pa.table({"household_id": [who for who, _ in rows], "product_category": [what for _, what in rows]})

    before = lists((1, "MILK"), (1, "BEER"), (2, "MILK"), (2, "BEER"), (3, "MILK"))
    now = lists((1, "MILK"), (1, "BEER"), (2, "MILK"), (2, "EGGS"), (4, "MILK"))

    assert audit.list_overlap(settings, SHOP, before, now) == pytest.approx((1 + 0.5) / 2)  # 3 has none any more
    assert audit.list_overlap(settings, SHOP, before, lists((9, "MILK"))) is None


def verdicts(settings, run_id):
    rows = [row for row in rows_of(settings, tables.CHECK_LOG) if row["run_id"] == run_id]
    return {row["check_name"]: (row["is_success"], row["observed"]) for row in rows}


def test_lists_are_audited_some_entities_at_a_time(shop, monkeypatch):
    keep_scores(shop, LISTS)
    whole = publish(shop, SHOP, day(0), "whole", "1")
    monkeypatch.setattr(partitions, "MOST_ROWS", 4)  # a quarter of them, one row, in a frame: so each household alone

    parts = publish(shop, SHOP, day(0), "parts", "1", force=Force("ana", "to see"))

    told, again = verdicts(shop, "whole"), verdicts(shop, "parts")
    assert parts.content_hash == whole.content_hash
    assert {name: success for name, (success, _) in again.items()} == dict.fromkeys(told, True)
    assert told["expect_column_values_to_not_be_null(score)"][1] == "0 of 3 rows"
    assert again["expect_column_values_to_not_be_null(score)"][1] == "0 of 2 rows; 0 of 1 rows"


def test_a_fault_in_one_of_the_parts_is_one_of_the_night(shop, monkeypatch):
    keep_scores(shop, [(1, "BREAD", 1.9, 1), (1, "BEER", 0.6, 2), (2, "BEER", 0.4, 1)])
    monkeypatch.setattr(partitions, "MOST_ROWS", 4)

    with pytest.raises(AuditRefused, match=r"1 of 2 rows, such as 1\.9"):
        publish(shop, SHOP, day(0), "parts", "1")

    assert not verdicts(shop, "parts")["expect_column_values_to_be_between(score)"][0]


def test_nights_are_compared_with_the_newest_publication_of_each_of_the_last_dates(shop):
    entry = {"run_id": "r", "use_case": SHOP.name, "rows": 1, "content_hash": "h", "feature_version": "f1"}
    entry |= {"actor": "nightjar", "reason": ""}
    told = [
        (0, "published", "1"),
        (0, "forced", "2"),
        (1, "refused", "3"),
        (-20, "published", "4"),
        (5, "published", "5"),
    ]
    with warehouse.open_warehouse(shop) as connection:
        for number, status, version in told:
            figures = f'{{"figures": {USUAL.model_dump_json()}}}'
            row = {"score_date": day(number), "status": status, "model_version": version, "audit": figures}
            warehouse.append_rows(connection, LOG, [entry | row])

        nights = audit.last_nights(connection, SHOP, day(2))

    assert nights == [Night(day(0), "2", USUAL)]


def test_a_night_that_collapsed_is_refused_and_written_down_until_somebody_decides_otherwise(shop):
    keep_scores(shop, LISTS)
    publish(shop, SMALL, day(0), "first", "1")
    sell(shop, 1, purchases=[(1, 1, 2, "9.00")])
    know_features(shop, 1, "f1")
    twice = [(who, what, score, rank) for who in range(1, 9) for _, what, score, rank in LISTS[:2]]
    keep_scores(shop, twice, 1)

    with pytest.raises(AuditRefused, match=r"rows: 16 \(\+433.3%\)") as refused:
        publish(shop, SMALL, day(1), "second", "1")

    assert "--force --reason" in refused.value.remedy
    seen = [(row["score_date"], row["status"], row["rows"]) for row in rows_of(shop, LOG)]
    assert seen == [(day(0), "published", 3), (day(1), "refused", 16)]
    assert "entities: expected within 20% of 2, observed 8 (+300.0%)" in rows_of(shop, LOG)[-1]["reason"]
    assert {row["score_date"] for row in rows_of(shop, SCORES)} == {day(0)}

    publish(shop, SMALL, day(1), "third", "1", Force("ann", "a new town"))

    last = rows_of(shop, LOG)[-1]
    assert (last["status"], last["actor"], last["rows"]) == ("forced", "ann", 16)
    assert last["reason"].startswith("a new town; against: rows: expected within 20%")
    assert len([row for row in rows_of(shop, SCORES) if row["score_date"] == day(1)]) == 16
    checks = rows_of(shop, tables.CHECK_LOG)
    assert [row["is_success"] for row in checks if row["check_name"] == "rows" and row["run_id"] == "second"] == [False]


@pytest.mark.parametrize(("version", "named"), [("f0", "features"), ("f1", None)])
def test_scores_of_features_that_were_built_again_are_stale(shop, version, named):
    keep_scores(shop, LISTS)
    know_features(shop, 0, version)
    if named is None:
        assert publish(shop, SHOP, day(0), "run", "1").is_changed
    else:
        with pytest.raises(AuditRefused, match="features: f1"):
            publish(shop, SHOP, day(0), "run", "1")
