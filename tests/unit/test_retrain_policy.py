from dataclasses import replace
from typing import Any

import pytest
from corner_shop import day

from pipelines.retrain_policy import Cause, Evidence, Matured, Request, judge
from pipelines.use_case import RetrainPolicy

POLICY = RetrainPolicy(
    horizon_days=28,
    usd_per_nat_week=10_000,
    staleness_nats_per_week=0.0001,
    usual_nats=0.0005,
    shift_nats=0.0005,
    training_usd=10,
    risk_usd=5,
    champion_max_age_days=56,
    cooldown_days=7,
    max_per_30_days=2,
)
NOW = day(28)
# Four weeks old: .0004 nats for its age, for four weeks more: 16 US$. Its rates were right.
OLD = Evidence(as_of=NOW, model_version="1", trained=day(0))
YOUNG = replace(OLD, trained=day(14))  # .0002 nats for two weeks: 4 US$
SHIFT = Cause("covariate shift: spend of all since 2017-05-01", "spend has moved", is_proven=False)
CONCEPT = Cause("concept shift: rate_ratio of all since 2017-05-01", "households buy otherwise")
# Training saw one purchase and 2 $ in half of the pairs, two purchases and 4 $ in the others.


def decided(evidence: Evidence) -> str:
    return judge(POLICY, evidence).action


def asked(number: int, verdict: str = "", *keys: str) -> Request:
    return Request(day(number), frozenset(keys), verdict)


def matured(trained: int, first: int, *avoidable: float) -> list[Matured]:
    """Of a model that was trained on that day, a week apart."""
    return [Matured(day(first + 7 * number), day(trained), value) for number, value in enumerate(avoidable)]


def gain_of(evidence: Evidence) -> Any:
    return pytest.approx(judge(POLICY, evidence).gain_usd)


def test_a_model_is_replaced_when_the_gain_exceeds_the_cost() -> None:
    verdict = judge(POLICY, OLD)
    assert (verdict.action, verdict.gain_usd, verdict.cost_usd) == ("request", pytest.approx(16.0), 15)
    assert decided(replace(OLD, trained=day(1))) == "none"  # 27 days: 14.9 US$


def test_a_new_model_is_taken_to_serve_as_long_as_the_old_one_and_no_longer_than_the_horizon() -> None:
    assert gain_of(replace(OLD, trained=day(0))) == 0.0001 * 4 * 10_000 * 4
    assert gain_of(replace(OLD, trained=day(-14))) == 0.0001 * 6 * 10_000 * 4


def test_wrong_rates_of_its_matured_weeks_count_where_they_are_worse_than_its_age() -> None:
    wrong = replace(YOUNG, matured=matured(14, 21, 0.0019))
    assert gain_of(wrong) == 2 * (0.0019 - 0.0005) * 10_000 * 2  # lost in its first week, and so twice by the second
    assert decided(wrong) == "request"
    assert gain_of(replace(YOUNG, matured=matured(14, 15, 0.0003, 0.0005))) == 4


def test_what_earlier_models_lost_by_their_age_is_expected_of_the_new_one() -> None:
    # The model before lost .0012, .0016 and .0020 in its third, fourth and fifth week: .0004 a week beyond the usual.
    evidence = replace(YOUNG, matured=matured(-14, 7, 0.0017, 0.0021, 0.0025))
    assert gain_of(evidence) == pytest.approx(0.0004 * 2 * 10_000 * 2)


def test_only_the_last_four_weeks_of_figures_count() -> None:
    evidence = replace(OLD, trained=day(-30), matured=matured(-30, -20, 0.9, 0.9, 0.0005, 0.0005, 0.0005, 0.0005))
    assert gain_of(evidence) == 0.0001 * 58 / 7 * 10_000 * 4


def test_the_age_limit_holds_whatever_the_gain() -> None:
    worthless = POLICY.model_copy(update={"usd_per_nat_week": 0.0})
    assert judge(worthless, replace(OLD, as_of=day(56))).action == "none"
    assert judge(worthless, replace(OLD, as_of=day(57))).action == "request"


def test_a_shift_that_labels_prove_counts_by_itself_and_another_one_adds_to_the_gain() -> None:
    fresh = replace(OLD, trained=day(27))
    assert decided(replace(fresh, causes=[CONCEPT])) == "request"
    assert decided(replace(fresh, causes=[SHIFT])) == "request"  # .0005 nats are 20 US$
    dear = POLICY.model_copy(update={"training_usd": 30.0})
    assert judge(dear, replace(fresh, causes=[SHIFT])).action == "wait"
    assert judge(dear, replace(fresh, causes=[CONCEPT])).action == "request"


def test_where_no_model_scored_one_is_asked_for() -> None:
    verdict = judge(POLICY, replace(OLD, model_version="rule:frequency", trained=None))
    assert (verdict.action, verdict.gain_usd) == ("request", None)


@pytest.mark.parametrize("evidence", [OLD, replace(YOUNG, causes=[CONCEPT]), replace(OLD, trained=None)])
def test_data_at_fault_block_every_cause(evidence: Evidence) -> None:
    verdict = judge(POLICY, replace(evidence, faults=["the drop of 2017-05-28 is in cents"]))
    assert verdict.action == "block"
    assert "the drop of 2017-05-28 is in cents" in verdict.reason


def test_data_at_fault_are_no_cause_by_themselves() -> None:
    assert decided(replace(YOUNG, faults=["the drop of 2017-05-28 is in cents"])) == "none"


def test_a_cause_is_used_once_also_when_its_challenger_was_refused() -> None:
    shifted = replace(YOUNG, trained=day(26), causes=[CONCEPT])
    for verdict in ("promote", "refuse", "rollback"):
        assert decided(replace(shifted, requests=[asked(14, verdict, CONCEPT.key)])) == "coalesce"
    assert decided(replace(shifted, requests=[asked(14, "refuse", "another")])) == "request"


def test_a_cause_whose_training_never_got_a_verdict_may_be_used_again_after_the_cooldown() -> None:
    shifted = replace(YOUNG, trained=day(26), causes=[CONCEPT])
    assert decided(replace(shifted, requests=[asked(22, "", CONCEPT.key)])) == "coalesce"
    assert decided(replace(shifted, requests=[asked(21, "", CONCEPT.key)])) == "request"


def test_a_refused_challenger_shows_that_the_champion_was_as_good_then() -> None:
    refused = replace(OLD, requests=[asked(14, "refuse")])
    assert gain_of(refused) == 4  # as if it were two weeks old
    assert gain_of(replace(refused, requests=[asked(14, "promote")])) == 16


def test_one_training_at_a_time() -> None:
    assert decided(replace(OLD, requests=[asked(27)])) == "coalesce"  # it has no verdict yet
    assert decided(replace(OLD, requests=[asked(29)])) == "coalesce"  # asked for on a later date already


def test_cooldown_and_budget_delay() -> None:
    assert decided(replace(OLD, requests=[asked(22, "promote")])) == "wait"
    assert decided(replace(OLD, requests=[asked(21, "promote")])) == "request"
    assert decided(replace(OLD, requests=[asked(0, "promote"), asked(21, "promote")])) == "wait"
    assert decided(replace(OLD, requests=[asked(-2, "promote"), asked(21, "promote")])) == "request"


def test_equal_causes_have_an_equal_hash_and_others_another() -> None:
    both = [judge(POLICY, replace(YOUNG, causes=causes)) for causes in ([CONCEPT, SHIFT], [SHIFT, CONCEPT])]
    assert both[0].evidence_hash == both[1].evidence_hash
    assert both[0].evidence_hash != judge(POLICY, replace(YOUNG, causes=[CONCEPT])).evidence_hash
