"""A real Airflow that does not come up at the first try: it is started once more, and nothing of the first is left."""

import os
import signal

import pytest

from local_stack.airflow_server import ready_airflow, start_airflow, stop_airflow
from local_stack.servers import family, recall
from pipelines.errors import EngineFailure

pytestmark = pytest.mark.slow


def test_an_airflow_that_dies_while_it_starts_is_started_once_more(settings):
    first = start_airflow(settings)
    try:
        os.kill(first.pid, signal.SIGKILL)
        with ready_airflow(settings, first, ["ingest"], patience_s=300) as airflow:
            assert airflow.server.pid != first.pid
            assert airflow.get("/api/v2/pools/nightjar")["slots"] == 2
            assert not family(first)
    finally:
        stop_airflow(settings)
    assert recall(settings, "airflow") is None


def test_an_airflow_that_does_not_come_up_says_how_far_it_came(settings):
    server = start_airflow(settings)
    try:
        with pytest.raises(EngineFailure) as refusal:
            ready_airflow(settings, server, ["ingest"], patience_s=0.5)
        again = recall(settings, "airflow")
        assert again.pid != server.pid
        assert refusal.value.where == again.url
        assert "the API server does not answer yet; the end of its log" in refusal.value.found
    finally:
        stop_airflow(settings)
