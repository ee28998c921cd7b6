"""Settings: what is misspelt, out of range or unknown is refused by name."""

import pytest

from pipelines.errors import InvalidSetting, InvalidUseCase, UnknownUseCase
from pipelines.settings import load_settings
from pipelines.use_cases import get_use_case, load_use_cases


def test_a_misspelt_setting_is_refused_with_the_name_that_was_meant(monkeypatch):
    monkeypatch.setenv("NIGHTJAR_HOMES", "/tmp/x")
    with pytest.raises(InvalidSetting, match="did you mean NIGHTJAR_HOME"):
        load_settings()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NIGHTJAR_DUCKDB_MEMORY_LIMIT_MIB", "12"),
        ("NIGHTJAR_THREADS", "many"),
        ("NIGHTJAR_BUSINESS_TIMEZONE", "Mars/Olympus"),
        ("NIGHTJAR_SCHEDULE_END_DATE", "tomorrow"),
        ("NIGHTJAR_INGEST_CHUNK_DAYS", "0"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_its_variable(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(InvalidSetting) as refused:
        load_settings()
    assert variable in refused.value.where
    assert value in str(refused.value.found)


def test_an_empty_variable_means_the_default(monkeypatch):
    monkeypatch.setenv("NIGHTJAR_THREADS", "")
    assert load_settings().threads == 2


def test_an_unknown_use_case_is_refused_with_the_nearest_name(settings):
    with pytest.raises(UnknownUseCase, match="did you mean category_propensity"):
        get_use_case("category_propensty", settings)


def test_a_use_case_module_that_does_not_exist_is_refused(settings):
    broken = settings.model_copy(update={"use_cases": ("no_such_module",)})
    with pytest.raises(InvalidUseCase, match="no_such_module"):
        load_use_cases(broken)
