"""The look-up: lists as published, fitted to the moment, for those who may ask, and never an empty one by mistake."""

import json
from datetime import UTC, date, datetime

import pytest
import schemathesis
import sqlalchemy as sa
from corner_shop import DAY, SHOP, day, note_publication, publish
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from postgres import without_warehouse
from schemathesis import GenerationMode

from pipelines import tables, warehouse
from pipelines.errors import InvalidSetting
from pipelines.serving import Answer, Context, LookUp, fitted
from pipelines.serving_app import HEADER, create_app
from pipelines.settings import PROJECT, Settings, load_settings
from pipelines.use_cases.category_propensity import USE_CASE

KEYS = [f"{letter}-key-of-a-caller-0123456789abcdef" for letter in "ab"]
FORENOON = datetime(2017, 5, 2, 16, tzinfo=UTC)  # day 0 was due at 07:00 in New York
POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
ME = {HEADER: KEYS[0]}


def ask(client, entity=1, headers=ME, **context):
    return client.get(f"/v1/{SHOP.name}/{entity}", params=context, headers=headers)


def items(answer):
    return [(one["item"], one["score"]) for one in answer.json()["items"]]


def client_of(settings, clock=FORENOON, **chosen):
    chosen = settings.model_copy(update=chosen)
    return TestClient(create_app(chosen, [SHOP], lambda: clock), raise_server_exceptions=False)


@pytest.fixture
def home(tmp_path):
    """Day 0 is published: of three lists milk is on two (0.9, 0.8), bread on two (0.8, 0.9), beer on one (0.9)."""
    settings = Settings(home=tmp_path / "var", serve_keys=",".join(KEYS))
    warehouse.create_tables(settings, [SHOP])
    publish(settings, 0, {1: ["MILK", "BREAD"], 2: ["BEER", "MILK"], 3: ["BREAD"]})
    note_publication(settings, 0)
    return settings


@pytest.fixture
def client(home):
    return client_of(home)


def test_a_list_is_given_as_published_with_what_it_was_made_of(database, client):
    answer = ask(client).json()

    assert answer["versions"] == {
        "score_date": str(DAY),
        "publish_id": 1,
        "model_version": "1",
        "feature_version": "f1",
    }
    assert (answer["use_case"], answer["entity"], answer["is_known"], answer["left_out"]) == (SHOP.name, 1, True, {})
    first, second = answer["items"]
    assert first == {
        "item": "MILK",
        "rank": 1,
        "published_rank": 1,
        "score": 0.9,
        "score_source": "champion",
        "reasons": ["bought before"],
        "is_low_confidence": False,
    }
    assert (second["item"], second["rank"]) == ("BREAD", 2)


def test_whom_no_list_was_published_for_gets_what_is_popular(database, client):
    answer = ask(client, 99)
    assert not answer.json()["is_known"]
    # probability over three lists: bread and milk (0.9 + 0.8) / 3, beer 0.3; equal ones by name
    assert items(answer) == [("BREAD", pytest.approx(1.7 / 3)), ("MILK", pytest.approx(1.7 / 3))]
    assert {one["score_source"] for one in answer.json()["items"]} == {"cold_start"}
    assert [name for name, _ in items(ask(client, 99, blocked="BREAD"))] == ["MILK", "BEER"]


def test_what_is_out_of_stock_or_blocked_goes_and_popular_items_take_the_places(client):
    answer = ask(client, out_of_stock=["MILK", "CAVIAR"])
    assert answer.json()["left_out"] == {"MILK": "out_of_stock"}
    assert items(answer) == [("BREAD", 0.8), ("BEER", pytest.approx(0.3))]
    assert [one["published_rank"] for one in answer.json()["items"]] == [2, None]

    everything = ask(client, out_of_stock=["MILK", "BREAD"], blocked=["BREAD", "BEER"])
    assert everything.json()["left_out"] == {"MILK": "out_of_stock", "BREAD": "blocked"}
    assert items(everything) == []


def test_what_was_just_bought_goes_where_nobody_knows_how_often_it_is_bought(client):
    assert [name for name, _ in items(ask(client, bought="MILK"))] == ["BREAD", "BEER"]


def test_what_was_just_bought_falls_to_its_usual_chance_and_what_follows_scores_no_more(client):
    own, popular = (Answer.model_validate(ask(client, entity).json()).items for entity in (1, 99))

    found, left_out = fitted(own, popular, Context(bought=["MILK"]), {"MILK": 0.5}, top_n=3)
    assert [(one.item, one.rank, one.published_rank, one.score) for one in found] == [
        ("BREAD", 1, 2, 0.8),
        ("MILK", 2, 1, 0.5),
    ]
    assert [one.is_low_confidence for one in found] == [False, True]
    assert left_out == {}
    higher, _ = fitted(own, popular, Context(bought=["MILK"]), {"MILK": 0.99}, top_n=3)
    assert [one.score for one in higher] == [0.9, 0.8]  # a purchase never makes the next one likelier
    few, _ = fitted(own[1:], popular, Context(bought=["BREAD"]), {"BREAD": 0.1}, top_n=3)
    assert [(one.item, one.score) for one in few] == [("BREAD", 0.1), ("MILK", 0.1)]


@pytest.mark.slow
def test_the_usual_chance_comes_from_the_online_store_unless_it_is_older_than_the_list(tmp_path):
    import pandas as pd

    from pipelines.feature_store import open_store
    from pipelines.features import end_of_day

    settings = Settings(home=tmp_path / "var")
    store = open_store(settings, USE_CASE)
    rows = [
        (1, "MILK", 180 / 7, day(0)),  # once a week
        (1, "BREAD", 2.0, day(-1)),  # of the day before
        (2, "BEER", 2.0, day(0)),
    ]
    keys = ["household_id", "product_category"]
    frame = pd.DataFrame([row[:3] for row in rows], columns=[*keys, "purchase_days_decayed_180d"])
    frame["days_since_purchase"] = 1.0
    frame["event_timestamp"] = frame["created_timestamp"] = [end_of_day(settings, row[3]) for row in rows]
    store.write_to_online_store("household_category_online", frame.astype({"purchase_days_decayed_180d": "float32"}))
    warehouse.create_tables(settings, [USE_CASE])
    publish(settings, 0, {1: ["MILK", "BREAD", "BEER"]}, use_case=USE_CASE)
    note_publication(settings, 0, use_case=USE_CASE)

    answer = LookUp(settings, USE_CASE).answer(1, Context(bought=["MILK", "BREAD", "BEER"]))
    assert [(one.item, one.score) for one in answer.items] == [("MILK", pytest.approx(0.632, abs=0.001))]  # 1 - 1/e
    assert answer.left_out == {"BREAD": "bought", "BEER": "bought"}

    (settings.feast_home / "registry.db").unlink()
    blind = LookUp(settings, USE_CASE).answer(1, Context(bought=["MILK"]))
    assert [one.item for one in blind.items] == ["BREAD", "BEER"]


def test_a_new_publication_is_given_from_then_on_and_a_refused_one_never(home, client):
    assert [name for name, _ in items(ask(client, 99))] == ["BREAD", "MILK"]
    publish(home, 1, {1: ["BEER"]}, version="2")
    note_publication(home, 1, "refused", version="3")
    note_publication(home, 1, version="2")
    note_publication(home, 1, "refused", version="3")

    answer = ask(client)
    assert answer.json()["versions"]["score_date"] == str(day(1))
    assert answer.json()["versions"]["model_version"] == "2"
    assert items(answer) == [("BEER", 0.9)]
    assert items(ask(client, 99)) == [("BEER", 0.9)]


@pytest.mark.fault("F20")
def test_a_warehouse_that_is_down_is_an_error_with_a_remedy_and_never_an_empty_list(database, home, request):
    client = client_of(home, runbook_url="https://runbook.test")
    assert ask(client).status_code == ask(client, 99).status_code == 200
    with without_warehouse(home.warehouse):
        if database == "postgresql":  # connections that are kept are lost too
            lost = f"datname = '{sa.make_url(home.warehouse).database}'"
            ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {lost}"
            assert request.getfixturevalue("postgres").execute(ended)
        lost = [ask(client), ask(client, 99), client.get("/health")]
    for answer in lost:
        assert answer.status_code == 503
        assert answer.json()["runbook"] == "https://runbook.test#the-warehouse-is-down"
        assert answer.json()["error"] == "WarehouseDown"
        assert answer.headers["Retry-After"] == "5"
    assert ask(client).status_code == client.get("/health").status_code == 200


def test_a_server_has_read_what_is_popular_before_the_first_call(home):
    with client_of(home) as client, warehouse.open_warehouse(home) as connection:
        scores = tables.scores_table(SHOP)
        connection.execute(sa.delete(scores).where(scores.c.rank == 1))
        connection.commit()
        assert [name for name, _ in items(ask(client, 99))] == ["BREAD", "MILK"]


def test_a_server_starts_without_its_warehouse_and_answers_once_it_is_there(home):
    with without_warehouse(home.warehouse), client_of(home) as client:
        assert ask(client).status_code == 503
    assert ask(client).status_code == 200


def test_before_the_first_publication_there_is_no_list(settings):
    warehouse.create_tables(settings, [SHOP])
    client = client_of(settings, serve_keys=Settings(serve_keys=KEYS[0]).serve_keys)
    assert (ask(client).status_code, ask(client).json()["error"]) == (503, "NothingToServe")
    assert client.get("/health").json()["use_cases"][SHOP.name]["is_late"]


def test_health_tells_how_new_the_lists_are_and_whether_they_are_late(home):
    on_time = client_of(home).get("/health").json()["use_cases"][SHOP.name]
    assert on_time == {"score_date": str(DAY), "due_date": str(DAY), "is_late": False}
    late = client_of(home, clock=datetime(2017, 5, 3, 16, tzinfo=UTC)).get("/health").json()["use_cases"][SHOP.name]
    assert late == {"score_date": str(DAY), "due_date": str(date(2017, 5, 2)), "is_late": True}


@pytest.mark.parametrize("wrong", [{}, {HEADER: ""}, {HEADER: KEYS[0][:-1]}, {HEADER: ",".join(KEYS)}, {HEADER: "é"}])
def test_who_has_no_key_gets_nothing(client, wrong):
    answer = client.get(f"/v1/{SHOP.name}/1", headers={name: value.encode() for name, value in wrong.items()})
    assert (answer.status_code, answer.json()["error"]) == (401, "WrongCallerKey")
    assert not any(key in answer.text for key in KEYS)
    assert [ask(client, headers={HEADER: key}).status_code for key in KEYS] == [200, 200]


@pytest.mark.attack("S12")
def test_without_a_sound_key_there_is_no_server(settings, monkeypatch):
    with pytest.raises(InvalidSetting, match="NIGHTJAR_SERVE_KEYS"):
        create_app(settings.model_copy(update={"demo": False}), [SHOP], lambda: FORENOON)
    for name in ("NIGHTJAR_PSEUDONYM_KEY", "NIGHTJAR_SIGNING_KEY"):
        monkeypatch.setenv(name, KEYS[0])
    monkeypatch.delenv("NIGHTJAR_DEMO")
    for weak in (f"{KEYS[0]},short", "a" * 40, "the demo's key, which everybody knows"):
        monkeypatch.setenv("NIGHTJAR_SERVE_KEYS", weak)
        with pytest.raises(InvalidSetting) as refused:
            load_settings()
        assert refused.value.where == "environment variable NIGHTJAR_SERVE_KEYS"
        assert weak not in str(refused.value)
    monkeypatch.setenv("NIGHTJAR_SERVE_KEYS", ", ".join(KEYS))
    assert load_settings().serving_keys == tuple(key.encode() for key in KEYS)


def test_who_asks_too_often_waits_and_nobody_else_does(home):
    client = client_of(home, serve_limit="2/hour")
    assert [ask(client).status_code for _ in range(3)] == [200, 200, 429]
    refused = ask(client)
    assert (refused.json()["error"], refused.headers["Retry-After"]) == ("TooManyCalls", "3600")
    assert ask(client, headers={HEADER: KEYS[1]}).status_code == 200
    strangers = [ask(client, headers={HEADER: f"guess {number}"}).status_code for number in range(3)]
    assert strangers == [401, 401, 429]


@pytest.mark.parametrize(
    ("path", "status", "where"),
    [
        ("/v1/corner_shop/me", 422, "path: entity"),
        (f"/v1/corner_shop/{2**63}", 422, "path: entity"),
        ("/v1/corner_shop/1?blockd=MILK", 422, "query: blockd"),
        ("/v1/corner_shop/1?blocked=", 422, "query: blocked: 0"),
        ("/v1/corner_shop/1?" + "&".join(f"bought={number}" for number in range(51)), 422, "query: bought"),
        ("/v1/other_shop/1", 404, "path: use_case"),
        ("/v2/corner_shop/1", 404, "GET /v2/corner_shop/1"),
    ],
)
def test_a_wrong_call_is_told_what_is_wrong_and_what_to_do(client, path, status, where):
    answer = client.get(path, headers=ME)
    assert (answer.status_code, answer.json()["where"]) == (status, where)
    assert answer.json()["what"]
    assert answer.json()["remedy"]


def test_answers_are_counted_and_timed_by_their_form(client):
    ask(client)
    ask(client, 99)
    ask(client, headers={})
    shown = client.get("/metrics").text.splitlines()
    path = 'path="/v1/{use_case}/{entity}"'
    assert f'nightjar_serve_seconds_count{{{path},status="200"}} 2.0' in shown
    assert f'nightjar_serve_seconds_count{{{path},status="401"}} 1.0' in shown
    assert 'nightjar_serve_lists_total{is_known="false",use_case="corner_shop"} 1.0' in shown


def test_the_contract_is_the_one_that_callers_were_given(client):
    assert client.get("/openapi.json").json() == json.loads((PROJECT / "contracts/serving.json").read_text())


@pytest.fixture(scope="module")
def contract(tmp_path_factory):
    settings = Settings(home=tmp_path_factory.mktemp("serving") / "var", serve_keys=KEYS[0], serve_limit="9999/second")
    warehouse.create_tables(settings, [SHOP])
    publish(settings, 0, {1: ["MILK", "BREAD"]})
    note_publication(settings, 0)
    return schemathesis.openapi.from_asgi("/openapi.json", create_app(settings, [SHOP], lambda: FORENOON))


@pytest.mark.parametrize(
    ("path", "mode"),
    [("/health", POSITIVE), ("/v1/{use_case}/{entity}", POSITIVE), ("/v1/{use_case}/{entity}", NEGATIVE)],
)
def test_whatever_is_asked_the_answer_is_one_of_the_contract(contract, path, mode):
    @hypothesis_settings(
        max_examples=15, database=None, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(contract[path]["GET"].as_strategy(generation_mode=mode))
    def answers(case):
        if mode is POSITIVE and case.path_parameters:
            case.path_parameters["use_case"] = SHOP.name  # the contract cannot know which there are
        case.call_and_validate(headers=ME)

    answers()
