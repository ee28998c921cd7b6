"""The engine over the lake: what it says when it may not have the memory that it needs."""

import pytest

from pipelines.engine import open_engine
from pipelines.errors import EngineFailure
from pipelines.settings import Settings


def test_a_statement_that_needs_more_memory_than_it_may_have_names_the_setting(tmp_path):
    settings = Settings(home=tmp_path, demo=True, duckdb_memory_limit_mib=128)
    with pytest.raises(EngineFailure) as failed, open_engine(settings) as connection:
        connection.sql("SELECT len(list(number)) FROM range(100_000_000) AS numbers(number)").fetchall()
    assert failed.value.where == "NIGHTJAR_DUCKDB_MEMORY_LIMIT_MIB=128"
    assert "Out of Memory" in failed.value.found
