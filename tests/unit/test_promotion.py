"""Who becomes champion, who decided it, and what is written down of it."""

import json
from datetime import date

import pytest
from registered import GAIN, INSANE, LOSS, aliases, new_use_case, register, say

from pipelines import promotion_log, registry
from pipelines.errors import NotJudged, UnknownVersion
from pipelines.promotion import Answer, promote
from pipelines.settings import Settings

pytestmark = pytest.mark.usefixtures("database")

ASHA = Answer("asha", is_approved=True, reason="the gain is worth it")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Settings(home=tmp_path_factory.mktemp("shop"))


@pytest.fixture
def asking(shop):
    """Settings with which a person is asked."""
    return shop.model_copy(update={"promotion": "approval", "approval_timeout_hours": 30})


@pytest.fixture
def use_case():
    return new_use_case()


def log_of(settings, use_case):
    rows = promotion_log.history(settings, use_case)
    return [(row["action"], row["from_version"], row["to_version"], row["actor"], row["reason"]) for row in rows]


@pytest.fixture
def champion(shop, use_case):
    """A first version that is champion."""
    version = register(shop, use_case, GAIN)
    assert promote(shop, use_case, version, "first").is_promoted
    return version


def test_a_version_that_passed_becomes_champion_and_the_one_before_challenger(shop, use_case, champion):
    better = register(shop, use_case, GAIN, champion=champion)

    report = promote(shop, use_case, better, "night")

    assert (report.is_promoted, report.actor, report.reason) == (True, "nightjar", "all checks passed")
    assert aliases(shop, use_case) == (better, champion)
    assert log_of(shop, use_case) == [
        ("promote", None, champion, "nightjar", "all checks passed"),
        ("promote", champion, better, "nightjar", "all checks passed"),
    ]
    row = promotion_log.history(shop, use_case)[1]
    assert (row["trainer"], row["run_id"], row["is_promoted"]) == ("tina", "night", True)
    assert [check["observed"] for check in json.loads(row["evidence"])] == [GAIN.observed]
    assert promotion_log.verify(shop, use_case) == 2


@pytest.mark.fault("F29")
def test_a_version_that_failed_is_refused_with_its_numbers_and_stays_challenger(shop, use_case, champion):
    worse = register(shop, use_case, GAIN, LOSS, champion=champion)

    report = promote(shop, use_case, worse, "night")

    assert not report.is_promoted
    assert "-0.0300 [-0.0350, -0.0250]" in report.reason
    assert aliases(shop, use_case) == (champion, worse)
    assert log_of(shop, use_case)[1:] == [("refuse", champion, worse, "nightjar", report.reason)]


@pytest.mark.fault("F29")
def test_a_version_that_is_no_sane_model_is_challenger_no_longer(shop, use_case, champion):
    promote(shop, use_case, register(shop, use_case, INSANE, champion=champion), "night")

    assert aliases(shop, use_case) == (champion, None)


def test_a_version_that_nobody_judged_is_not_promoted(shop, use_case):
    version = register(shop, use_case)

    with pytest.raises(NotJudged, match="nightjar model promote 1"):
        promote(shop, use_case, version, "night")
    with pytest.raises(UnknownVersion, match="one of 1"):
        promote(shop, use_case, "7", "night")
    assert aliases(shop, use_case) == (None, version)


def test_a_verdict_against_a_former_champion_counts_no_more(shop, use_case, champion):
    slow = register(shop, use_case, GAIN, champion=champion)
    fast = register(shop, use_case, GAIN, champion=champion)
    promote(shop, use_case, fast, "night")

    with pytest.raises(NotJudged, match=f"expected: champion {champion}\n  found:    champion {fast}"):
        promote(shop, use_case, slow, "night")

    say(shop, use_case, slow, GAIN, champion=fast)
    assert promote(shop, use_case, slow, "night").is_promoted


def test_a_repeated_decision_leaves_one_row(shop, use_case, champion):
    worse = register(shop, use_case, LOSS, champion=champion)
    for _ in range(2):
        promote(shop, use_case, champion, "again")
        promote(shop, use_case, worse, "again")
    assert len(log_of(shop, use_case)) == 2

    say(shop, use_case, worse, LOSS, INSANE, champion=champion, as_of=date(2017, 11, 19))
    promote(shop, use_case, worse, "a week later")
    assert len(log_of(shop, use_case)) == 3


def test_who_is_champion_is_no_challenger_again_once_another_one_came(shop, use_case, champion):
    newest = register(shop, use_case)

    promote(shop, use_case, champion, "again")

    assert aliases(shop, use_case) == (champion, newest)


@pytest.mark.attack("S4")
@pytest.mark.parametrize("name", ["tina", "Tina"])
def test_nobody_approves_what_they_trained_themselves(asking, use_case, name):
    version = register(asking, use_case, GAIN, trainer="tina")

    report = promote(asking, use_case, version, "night", Answer(name, is_approved=True, reason="mine"))

    assert (report.is_promoted, report.actor) == (False, name)
    assert aliases(asking, use_case) == (None, version)
    assert log_of(asking, use_case)[0][:4] == ("refuse", None, version, name)
    assert "somebody else must approve" in report.reason


def test_silence_means_no_and_may_be_followed_by_a_yes(asking, use_case):
    version = register(asking, use_case, GAIN)

    silent = promote(asking, use_case, version, "night")
    refused = promote(asking, use_case, version, "night", Answer("asha", is_approved=False, reason="not in December"))
    agreed = promote(asking, use_case, version, "night", ASHA)

    assert [report.is_promoted for report in (silent, refused, agreed)] == [False, False, True]
    assert log_of(asking, use_case) == [
        ("refuse", None, version, "nightjar", "nobody answered within 30 hours"),
        ("refuse", None, version, "asha", "not in December"),
        ("promote", None, version, "asha", "the gain is worth it"),
    ]
    assert aliases(asking, use_case) == (version, None)


@pytest.mark.attack("S4")
def test_no_yes_of_a_person_overrules_the_gate(asking, use_case):
    version = register(asking, use_case, LOSS)

    report = promote(asking, use_case, version, "night", ASHA)

    assert (report.is_promoted, report.actor) == (False, "nightjar")
    assert aliases(asking, use_case) == (None, version)


def test_without_a_note_the_trainer_is_the_account_that_mlflow_saw(shop, use_case):
    client = registry.open_registry(shop)
    version = register(shop, use_case, GAIN)
    client.delete_model_version_tag(use_case.name, version, registry.TRAINER_TAG)
    client.set_tag(registry.get_version(shop, use_case, version).mlflow_run_id, "mlflow.user", "otto")

    assert registry.trainer(shop, registry.get_version(shop, use_case, version)) == "otto"
