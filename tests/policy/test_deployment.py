"""The deployment kit: what it names exists, what it starts is fenced in, and no secret has a default."""

import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
import yaml
from prometheus_client import generate_latest

from pipelines import roles, schema, warehouse
from pipelines.serving import LookUp
from pipelines.settings import PREFIX, PROJECT, Settings, load_settings
from pipelines.telemetry import open_registry
from pipelines.use_cases import load_use_cases

KIT = PROJECT / "docker"
NAMES = {PREFIX + name.upper() for name in Settings.model_fields}
COMPOSE = yaml.safe_load((KIT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
VALUES = yaml.safe_load((KIT / "helm-values.yaml").read_text())
EXAMPLE = dict(re.findall(r"^#?([A-Z][A-Z0-9_]+)=(.*)$", (KIT / "env.example").read_text(), re.MULTILINE))
PARTS = ("apiServer", "scheduler", "dagProcessor", "triggerer")  # of the chart, besides workers


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder of secrets, as somebody draws it who deploys."""
    folder = tmp_path_factory.mktemp("kit") / "secrets"
    subprocess.run([sys.executable, str(KIT / "draw_secrets.py"), str(folder)], check=True)
    return folder


def secrets_of(service):
    """Source and target of the service's secrets."""
    told = [{"source": each, "target": each} if isinstance(each, str) else each for each in service.get("secrets", ())]
    return {each["source"]: each["target"] for each in told}


def variables():
    """Every variable that the kit gives to a process, with its value."""
    for name, service in SERVICES.items():
        for variable, value in (service.get("environment") or {}).items():
            yield name, variable, str(value)
    told = [each for part in (VALUES, VALUES["workers"], *(VALUES[part] for part in PARTS)) for each in part["env"]]
    yield from (("helm", each["name"], str(each["value"])) for each in told)


def test_the_example_names_every_setting_once_and_no_other():
    lines = re.findall(rf"^#?({PREFIX}[A-Z0-9_]+)=", (KIT / "env.example").read_text(), re.MULTILINE)
    assert sorted(lines) == sorted(NAMES)


def test_the_example_shows_the_defaults_and_with_nothing_filled_in_they_hold(monkeypatch):
    for name, value in EXAMPLE.items():
        if name.startswith(PREFIX) and name != f"{PREFIX}DEMO":
            monkeypatch.setenv(name, value)
    shown = load_settings().model_dump(exclude={"home", "demo"})
    assert shown == Settings(_env_file=None, **{"home": "x", "demo": True}).model_dump(exclude={"home", "demo"})


def test_every_setting_that_the_kit_gives_exists():
    given = {variable for _, variable, _ in variables() if variable.startswith(PREFIX)}
    assert len(given) > 5
    assert given <= NAMES


def test_every_variable_of_compose_is_in_the_example():
    used = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", (KIT / "compose.yaml").read_text()))
    assert used - NAMES == {name for name in EXAMPLE if not name.startswith(PREFIX)}


@pytest.mark.attack("S20")
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_fenced_in(name):
    service = SERVICES[name]
    limits = service["deploy"]["resources"]["limits"]
    assert limits["cpus"] and limits["memory"] and service["pids_limit"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("cap_add", []) == [] or name == "s3"
    assert not {"privileged", "pid", "ipc", "devices"} & service.keys()
    assert re.fullmatch(r"\$\{IMAGE_[A-Z0-9]+:\?.+\}", service["image"])  # no default: a digest is asked for
    assert not any("docker.sock" in volume for volume in service.get("volumes", ()))
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")


def test_a_service_that_stays_has_a_check_of_its_health_and_one_that_ends_has_none():
    stay = {name for name, service in SERVICES.items() if service["restart"] == "unless-stopped"}
    assert {name for name in SERVICES if "test" in SERVICES[name].get("healthcheck", {})} == stay - {"watch"}
    assert "HEALTHCHECK" in (KIT / "Dockerfile").read_text()  # that of the image, for `nightjar watch`
    assert all(SERVICES[name]["healthcheck"] == {"disable": True} for name in SERVICES.keys() - stay)


@pytest.mark.attack("S12")
def test_no_secret_is_given_by_value():
    for where, variable, value in variables():
        if re.search(r"PASSWORD|SECRET|_KEY|TOKEN|CREDENTIALS|DATABASE|BROKER|BACKEND|CONN|_URL|_URI", variable):
            harmless = re.fullmatch(
                r"(cat )?/[a-z0-9_/-]+|s3://[a-z/-]+|https?://[a-z0-9.:/-]+|\$\{[^}]+\}|sqlite://|", value
            )
            assert harmless, f"{where} {variable} {value}"
    filled = {name for name, value in EXAMPLE.items() if value and f"\n{name}=" in (KIT / "env.example").read_text()}
    assert filled == {f"{PREFIX}BUSINESS_TIMEZONE"}


@pytest.mark.attack("S12")
def test_every_secret_of_compose_is_drawn_anew_by_each_deployment(drawn, tmp_path):
    assert set(COMPOSE["secrets"]) == {file.name for file in drawn.iterdir()}
    assert {source for service in SERVICES.values() for source in secrets_of(service)} == set(COMPOSE["secrets"])
    assert oct(drawn.stat().st_mode)[-3:] == "700"
    again = tmp_path / "secrets"
    subprocess.run([sys.executable, str(KIT / "draw_secrets.py"), str(again)], check=True)
    for file in drawn.iterdir():
        assert file.read_text() != (again / file.name).read_text()
        assert not file.read_text().endswith("\n") or file.suffix == ".conf"
    left = {file.name: file.read_text() for file in again.iterdir()}
    assert subprocess.run(
        [sys.executable, str(KIT / "draw_secrets.py"), str(again)], check=False, capture_output=True
    ).returncode
    assert {file.name: file.read_text() for file in again.iterdir()} == left


@pytest.mark.attack("S13")
def test_a_worker_knows_no_key_of_airflow_and_nobody_else_can_sign_models():
    def know(secret):
        return {name for name, service in SERVICES.items() if secret in secrets_of(service)}

    assert not [secret for secret in secrets_of(SERVICES["worker"]) if secret.startswith("airflow_")]
    assert not [
        name for name in SERVICES["worker"]["environment"] if re.search("SQL_ALCHEMY|JWT|FERNET|SECRET_KEY", name)
    ]
    assert know("nightjar_signing_key") == know("warehouse_url_worker") == {"worker"}
    assert know("warehouse_url_owner") == {"setup-warehouse"}
    assert know("redis_url_online_writer") == {"worker"}
    assert secrets_of(SERVICES["serve"]).keys() == {
        "nightjar_serve_keys",
        "redis_url_online_reader",
        "warehouse_url_reader",
    }
    assert know("postgres_password") == know("databases.sql") == {"postgres"}


def test_those_that_page_are_told_where_and_the_others_need_no_channel():
    told = {
        name: (service.get("environment") or {}).get(f"{PREFIX}PAGE_CHANNELS") for name, service in SERVICES.items()
    }
    assert {name for name, value in told.items() if value} == {"dag-processor", "worker", "watch"}
    silent = {name for name, service in SERVICES.items() if service.get("env_file")} - {
        "dag-processor",
        "worker",
        "watch",
    }
    assert {told[name] for name in silent} == {""}


@pytest.mark.attack("S12")
@pytest.mark.parametrize("name", ["scheduler", "worker", "watch", "serve", "setup-warehouse"])
def test_what_was_drawn_is_good_enough_to_start(name, drawn, tmp_path, monkeypatch):
    monkeypatch.delenv(f"{PREFIX}DEMO")
    monkeypatch.setenv(f"{PREFIX}PAGE_CHANNELS", "slack")  # docker/.env reaches all
    for source, target in secrets_of(SERVICES[name]).items():
        (tmp_path / target).write_text((drawn / source).read_text())
    for variable, value in SERVICES[name]["environment"].items():
        given = "" if str(value).startswith("${") else str(value)
        monkeypatch.setenv(variable, given.replace("/run/secrets", str(tmp_path)))
    monkeypatch.setenv(f"{PREFIX}VERIFY_KEY", "ab" * 32)
    assert load_settings().warehouse.startswith("postgresql+psycopg://nightjar_")
    if name == "scheduler":
        for option, value in re.findall(
            r"^ +(AIRFLOW__(?!CORE__AUTH)\w+)=(\S+)", (KIT / "Dockerfile").read_text(), re.MULTILINE
        ):
            monkeypatch.setenv(option, value)
        monkeypatch.delenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD")  # its driver is in the image alone
        monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", f"{PROJECT}:{PROJECT / 'plugins'}")
        code = "from nightjar_security import problems; print(*problems(), sep='\\n')"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_databases_give_each_login_its_work_and_no_more(drawn, postgres, tmp_path):
    statements = [line for line in (drawn / "databases.sql").read_text().splitlines() if not exists(postgres, line)]
    for statement in statements:
        postgres.execute(statement)
    settings = {
        user: Settings(home=tmp_path, warehouse_url=address(drawn, postgres, user))
        for user in ("owner", "worker", "reader")
    }
    use_cases = list(load_use_cases(settings["owner"]).values())
    warehouse.create_tables(settings["owner"], use_cases)
    with warehouse.open_warehouse(settings["owner"]) as connection:
        schema.wait_for_schema(connection)
        roles.make_roles(connection)
    with warehouse.open_warehouse(settings["reader"], only_reads=True) as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM scores__category_propensity_latest")) == 0
    for user, forbidden in (("worker", "DELETE FROM ops__publish_log"), ("reader", "DELETE FROM kpi__daily")):
        with (
            psycopg.connect(settings[user].warehouse.replace("+psycopg", "")) as connection,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            connection.execute(forbidden)
    figures = generate_latest(open_registry(settings["reader"], use_cases)).decode()
    assert "nightjar_up 1.0" in figures  # `nightjar metrics` needs no more than an analyst
    assert LookUp(settings["reader"], use_cases[0]).newest() is None  # nor does `nightjar serve`
    elsewhere = settings["worker"].warehouse.replace("+psycopg", "").removesuffix("/nightjar") + "/airflow"
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        psycopg.connect(elsewhere)


def exists(postgres, statement):
    """Whether another test has made the group role already: roles belong to the server."""
    made = re.match(r"CREATE ROLE (\w+) NOLOGIN", statement)
    return bool(made and postgres.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{made[1]}'"))


def address(drawn, postgres, user):
    return (drawn / f"warehouse_url_{user}").read_text().replace("postgres:5432", f"127.0.0.1:{postgres.port}")


@pytest.mark.attack("S20")
def test_the_image_has_no_base_of_its_own_and_no_root():
    text = (KIT / "Dockerfile").read_text()
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"${BASE}"}
    assert "\nARG BASE\n" in text
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE) == ["50000:0"]
    assert "--require-hashes" in text
    done = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), KIT / "Dockerfile"], check=False, capture_output=True, text=True
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.attack("S11")
def test_only_named_folders_reach_a_build():
    lines = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    named = {line.removeprefix("!") for line in lines if line.startswith("!")}
    assert named == {"dags", "expectations", "feature_repo", "pipelines", "plugins"} | {
        f"requirements{kind}.txt" for kind in ("", "-deploy", "-dev")
    }


def test_the_chart_runs_this_image_fenced_in_and_every_part_has_limits():
    assert VALUES["executor"] == "KubernetesExecutor"
    assert VALUES["securityContexts"]["containers"]["readOnlyRootFilesystem"] is True
    assert VALUES["securityContexts"]["pod"]["runAsNonRoot"] is True
    for part in ("workers", *PARTS, "migrateDatabaseJob"):
        assert {"cpu", "memory"} <= VALUES[part]["resources"]["limits"].keys(), part
    assert not any(VALUES["enableBuiltInSecretEnvVars"].values())
    assert not VALUES["postgresql"]["enabled"]


@pytest.mark.attack("S13")
def test_a_worker_of_the_chart_mounts_no_key_of_airflow():
    mounted = {part: {each["name"] for each in VALUES[part]["extraVolumes"]} for part in ("workers", *PARTS)}
    assert mounted.pop("workers") == {"nightjar-worker"}
    assert all(names == {"airflow-keys", "nightjar-reader"} for names in mounted.values())
    for part in ("workers", *PARTS):
        assert {each["name"] for each in VALUES[part]["extraVolumeMounts"]} == {
            each["name"] for each in VALUES[part]["extraVolumes"]
        }
