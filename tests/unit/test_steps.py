"""The frame of the steps: what it writes down of a step, and what it logs."""

import json
import sys

import pytest
import sqlalchemy as sa
import structlog

from pipelines import steps, tables, warehouse
from pipelines.errors import ChecksFailed, EngineFailure
from pipelines.settings import PREFIX
from pipelines.steps import euros, measured


@pytest.fixture
def home(settings):
    warehouse.create_tables(settings, [])
    return settings


@pytest.fixture
def records(monkeypatch):
    """What was logged so far; Airflow, if another test has imported it, has set up a log of its own."""
    structlog.reset_defaults()
    yield lambda captured: [json.loads(line) for line in captured.readouterr().err.splitlines()]
    structlog.reset_defaults()


def costs(settings):
    with warehouse.open_warehouse(settings) as connection:
        return warehouse.read_rows(connection, sa.select(tables.RUN_COSTS).order_by("cost_id"))


def test_a_step_leaves_its_rows_model_time_memory_and_price(home):
    with measured(home, "scores__bread", "2017-11-19", "night-1") as cost:
        cost.rows, cost.model_version = 210, "3"
        sum(range(1_000_000))

    (row,) = costs(home)
    assert (row["run_id"], row["step"], row["partition_key"]) == ("night-1", "scores__bread", "2017-11-19")
    assert (row["rows"], row["model_version"], row["is_success"]) == (210, "3", True)
    assert 0 < row["cpu_s"] < 60
    assert row["euros"] == pytest.approx(euros(home, row["wall_s"], row["cpu_s"], row["peak_memory_mib"]))


def test_a_price_is_processor_time_plus_memory_for_as_long_as_the_step_ran(settings):
    table = settings.model_copy(update={"euros_per_cpu_hour": 0.10, "euros_per_gib_hour": 0.01})
    # two hours with three hours of processor time and 4 GiB: 3 × 0.10 + 2 × 4 × 0.01
    assert euros(table, wall_s=7200, cpu_s=10_800, peak_memory_mib=4096) == pytest.approx(0.38)


def test_a_failed_step_costs_too_and_fails_with_its_own_error(home):
    with pytest.raises(ChecksFailed), measured(home, "publish__bread", "2017-11-19", "night-1"):
        raise ChecksFailed("too few rows", where="scores", remedy="look")
    assert [(row["step"], row["is_success"], row["rows"]) for row in costs(home)] == [("publish__bread", False, None)]


def test_a_step_that_fails_before_there_are_tables_fails_with_its_own_error(settings):
    with pytest.raises(ChecksFailed), measured(settings, "ingest", "2017-11-19", "night-1"):
        raise ChecksFailed("too few rows", where="scores", remedy="look")


def test_where_the_warehouse_may_be_down_a_failed_step_does_not_wait_for_it_again(home):
    with pytest.raises(EngineFailure), measured(home, "publish__bread", "2017-11-19", "night-1"):
        raise EngineFailure("the warehouse is gone", where="warehouse", remedy="wait")
    assert costs(home) == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can begin a process's peak memory anew")
def test_each_step_has_a_peak_of_its_own_and_that_of_the_steps_inside_it(home):
    with measured(home, "outer", "2017-11-19", "r"):
        with measured(home, "large", "2017-11-19", "r"):
            bytes(b"x" * 300_000_000)
        with measured(home, "small", "2017-11-19", "r"):
            pass
    with measured(home, "after", "2017-11-19", "r"):
        pass
    peak = {row["step"]: row["peak_memory_mib"] for row in costs(home)}
    assert peak["outer"] >= peak["large"] > peak["small"] + 200
    assert peak["after"] < peak["large"] - 200


def test_a_step_is_not_taken_for_another_inside_it_that_has_cost_the_same(home, monkeypatch, tmp_path):
    (tmp_path / "status").write_text("VmHWM:\t1024 kB\n")
    monkeypatch.setattr(steps, "_PROCESS", tmp_path)

    with measured(home, "outer", "2017-11-19", "night-1") as outer:
        with measured(home, "inner", "2017-11-19", "night-1"):
            pass
        outer.rows = 3

    assert [(row["step"], row["rows"]) for row in costs(home)] == [("inner", None), ("outer", 3)]


def test_the_log_has_a_record_for_start_and_end_with_all_that_tells_one_step_from_another(home, records, capsys):
    with measured(home, "scores__bread", "2017-11-19", "night-1") as cost:
        cost.rows, cost.model_version = 210, "3"
        structlog.get_logger().warning("the oven is warm")

    started, within, ended = records(capsys)
    place = {"run_id": "night-1", "step": "scores__bread", "business_date": "2017-11-19", "use_case": "bread"}
    for record in (started, within, ended):
        assert place.items() <= record.items()
    events = [record["event"] for record in (started, within, ended)]
    assert events == ["step started", "the oven is warm", "step ended"]
    assert (ended["rows"], ended["model_version"], ended["level"]) == (210, "3", "info")
    assert {"wall_s", "cpu_s", "peak_memory_mib", "euros"} < set(ended)


def test_the_record_of_a_failure_names_error_place_and_remedy_but_not_what_was_found(home, records, capsys):
    with pytest.raises(ChecksFailed), measured(home, "publish__bread", "2017-11-19", "night-1"):
        raise ChecksFailed("too few rows", where="scores__bread", found="household 2070", remedy="look")

    failed = records(capsys)[-1]
    assert (failed["event"], failed["level"], failed["error"]) == ("step failed", "error", "ChecksFailed")
    assert (failed["what"], failed["where"], failed["remedy"]) == ("too few rows", "scores__bread", "look")
    assert "2070" not in json.dumps(failed)


def test_somebody_at_a_terminal_reads_lines_instead_of_json(home, records, capsys):
    at_a_terminal = home.model_copy(update={"log_format": "console"})
    with measured(at_a_terminal, "ingest", "2017-11-19", "night-1"):
        pass
    ended = capsys.readouterr().err.splitlines()[-1]
    assert "step ended" in ended
    assert "business_date=2017-11-19" in ended


def test_a_form_of_the_log_that_does_not_exist_is_refused(monkeypatch):
    from pipelines.errors import InvalidSetting
    from pipelines.settings import load_settings

    monkeypatch.setenv(f"{PREFIX}LOG_FORMAT", "xml")
    with pytest.raises(InvalidSetting, match="NIGHTJAR_LOG_FORMAT"):
        load_settings()
