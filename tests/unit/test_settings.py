"""Settings: what is misspelt, out of range or unknown is refused by name."""

import pytest

from pipelines.errors import InvalidSetting, InvalidUseCase, UnknownUseCase
from pipelines.settings import DEMO_KEY, Settings, load_settings
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


SECRET = "a secret of more than 32 characters, 5f1c"


@pytest.mark.attack("S12")
@pytest.mark.parametrize("variable", ["NIGHTJAR_PSEUDONYM_KEY", "NIGHTJAR_SIGNING_KEY"])
@pytest.mark.parametrize("key", [None, "", "short and sweet, not quite 32 ch", DEMO_KEY])
def test_outside_the_demo_an_empty_short_or_known_key_is_refused_and_not_shown(monkeypatch, key, variable):
    monkeypatch.delenv("NIGHTJAR_DEMO")
    for name in ("NIGHTJAR_PSEUDONYM_KEY", "NIGHTJAR_SIGNING_KEY"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.delenv(variable)
    if key is not None:
        monkeypatch.setenv(variable, key[:31] if key != DEMO_KEY else key)

    with pytest.raises(InvalidSetting) as refused:
        load_settings()

    assert refused.value.where == f"environment variable {variable}"
    assert not key or key[:31] not in str(refused.value)


@pytest.mark.attack("S12")
def test_a_demo_says_so_and_then_needs_no_key_of_its_own(monkeypatch):
    monkeypatch.setenv("NIGHTJAR_DEMO", "true")
    assert load_settings().key == DEMO_KEY.encode()


@pytest.mark.attack("S11")
def test_no_error_and_no_repr_shows_a_key(monkeypatch):
    monkeypatch.delenv("NIGHTJAR_DEMO")
    for name in ("NIGHTJAR_PSEUDONYM_KEY", "NIGHTJAR_SIGNING_KEY"):
        monkeypatch.setenv(name, SECRET)
    settings = load_settings()
    assert settings.key == settings.signing_secret == SECRET.encode()
    monkeypatch.setenv("NIGHTJAR_THREADS", "many")
    with pytest.raises(InvalidSetting) as refused:
        load_settings()
    shown = [repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())]
    chain = [refused.value, refused.value.__cause__]
    for text in shown + [str(error) for error in chain] + [repr(error) for error in chain]:
        assert SECRET not in text
    with pytest.raises(ValueError, match="frozen") as frozen:
        settings.pseudonym_key = "x"
    assert SECRET not in str(frozen.value)
    assert isinstance(settings, Settings)


@pytest.mark.parametrize(
    "variable", ["NIGHTJAR_KEEP_LANDING_DAYS", "NIGHTJAR_KEEP_VERSIONS_DAYS", "NIGHTJAR_LEFTOVER_HOURS"]
)
def test_a_negative_time_to_keep_something_is_refused(monkeypatch, variable):
    monkeypatch.setenv(variable, "-1")
    with pytest.raises(InvalidSetting, match=variable):
        load_settings()


@pytest.mark.attack("S12")
def test_a_machine_that_only_reads_models_needs_no_secret_to_sign_with(monkeypatch):
    monkeypatch.delenv("NIGHTJAR_DEMO")
    monkeypatch.setenv("NIGHTJAR_PSEUDONYM_KEY", SECRET)
    monkeypatch.setenv("NIGHTJAR_VERIFY_KEY", "ab" * 32)
    assert load_settings().signing_secret == b""


@pytest.mark.attack("S12")
def test_secrets_come_from_files_of_a_folder_and_a_variable_goes_before_its_file(monkeypatch, tmp_path):
    monkeypatch.delenv("NIGHTJAR_DEMO")
    (tmp_path / "nightjar_pseudonym_key").write_text(f"{SECRET}\n")
    (tmp_path / "nightjar_signing_key").write_text("a file's secret of more than 32 characters")
    monkeypatch.setenv("NIGHTJAR_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("NIGHTJAR_SIGNING_KEY", SECRET[::-1])
    settings = load_settings()
    assert (settings.key, settings.signing_secret) == (SECRET.encode(), SECRET[::-1].encode())

    (tmp_path / "nightjar_pseudonym_key").write_text("short")
    with pytest.raises(InvalidSetting, match="NIGHTJAR_PSEUDONYM_KEY"):
        load_settings()
    monkeypatch.setenv("NIGHTJAR_SECRETS_DIR", str(tmp_path / "absent"))
    with pytest.raises(InvalidSetting, match="NIGHTJAR_SECRETS_DIR"):
        load_settings()


@pytest.mark.attack("S12")
@pytest.mark.parametrize("key", ["x" * 40, "01" * 20, "abcde" * 8])
def test_a_key_of_few_different_characters_is_refused(monkeypatch, key):
    monkeypatch.delenv("NIGHTJAR_DEMO")
    monkeypatch.setenv("NIGHTJAR_PSEUDONYM_KEY", key)
    with pytest.raises(InvalidSetting, match="random characters"):
        load_settings()


@pytest.mark.attack("S12")
@pytest.mark.parametrize(
    ("variable", "scheme"),
    [
        ("NIGHTJAR_WAREHOUSE_URL", "postgresql"),
        ("NIGHTJAR_MLFLOW_TRACKING_URI", "postgresql"),
        ("NIGHTJAR_REDIS_URL", "rediss"),
    ],
)
@pytest.mark.parametrize("password", ["", "postgres", "aaaaaaaaaaaaaaaa", "12345678901"])
def test_outside_the_demo_an_address_with_a_weak_password_is_refused_and_not_shown(
    monkeypatch, variable, scheme, password
):
    for name in ("NIGHTJAR_PSEUDONYM_KEY", "NIGHTJAR_SIGNING_KEY"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv(variable, f"{scheme}://user_of_ours:{password}@db/nightjar")
    assert load_settings().demo
    monkeypatch.delenv("NIGHTJAR_DEMO")
    with pytest.raises(InvalidSetting) as refused:
        load_settings()
    assert refused.value.where == f"environment variable {variable}"
    assert "user_of_ours" not in f"{refused.value}{refused.value.__cause__}{refused.value.__cause__!r}"

    monkeypatch.setenv(variable, f"{scheme}://user_of_ours@db/nightjar")  # it comes by other ways, such as .pgpass
    load_settings()
    monkeypatch.setenv(variable, f"{scheme}://user_of_ours:5f1c-9d03-aa7e@db/nightjar")
    assert "5f1c-9d03-aa7e" not in repr(load_settings())


@pytest.mark.attack("S20")
def test_what_a_process_writes_once_it_knows_its_settings_is_its_owners_alone(tmp_path):
    load_settings()
    (tmp_path / "after").touch(0o666)
    (tmp_path / "folder").mkdir()
    assert [oct((tmp_path / name).stat().st_mode)[-3:] for name in ("after", "folder")] == ["600", "700"]
