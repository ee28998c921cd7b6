"""What runs beside Airflow on a cluster: fenced in as in compose.yaml, and all that it names exists."""

import os
import re
import subprocess
import sys

import pytest
import typer
import yaml

from pipelines.cli import app
from pipelines.settings import PREFIX, PROJECT, Settings, load_settings

KIT = PROJECT / "docker"
BESIDE, DASK = (
    yaml.safe_load((KIT / f"{name}.yaml").read_text())["items"] for name in ("kubernetes", "kubernetes-dask")
)
ITEMS = [*BESIDE, *DASK]
VALUES = yaml.safe_load((KIT / "helm-values.yaml").read_text())
COMPOSE = yaml.safe_load((KIT / "compose.yaml").read_text())["services"]
PAGE = (PROJECT / "docs" / "deploying.md").read_text().replace("\\\n", " ")
# Each secret that the page makes: its keys, and the file in docker/secrets/ that each is made from.
MADE = {
    name: {source.partition("=")[0]: source.rpartition("=")[2] for source in re.findall(r"--from-file=(\S+)", told)}
    for name, told in re.findall(r"kubectl create secret generic (\S+) (.*)", PAGE)
}


def named(kind):
    return {item["metadata"]["name"]: item for item in ITEMS if item["kind"] == kind}


PODS = {name: item["spec"]["template"]["spec"] for name, item in named("Deployment").items()}


DASK_PODS = {item["metadata"]["name"] for item in DASK if item["kind"] == "Deployment"}


def container_of(name):
    (container,) = PODS[name]["containers"]
    return container


def variables(name):
    """What the container's environment says."""
    container = container_of(name)
    shared = [named("ConfigMap")[source["configMapRef"]["name"]]["data"] for source in container.get("envFrom", ())]
    own = {each["name"]: each["value"] for each in container.get("env", ())}
    return {variable: value for given in (*shared, own) for variable, value in given.items()}


def secret_files(name):
    """The secret and the key that each file is from; a secret of which no item is named is there with all its keys."""
    volumes = [volume for volume in PODS[name]["volumes"] if volume["name"] == "secrets"]
    found = {}
    for secret in (source["secret"] for volume in volumes for source in volume["projected"]["sources"]):
        whole = [{"key": key, "path": key} for key in MADE[secret["name"]]]
        found |= {item["path"]: (secret["name"], item["key"]) for item in secret.get("items", whole)}
    return found


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """The folder of secrets, as somebody draws it who deploys."""
    folder = tmp_path_factory.mktemp("kit") / "secrets"
    subprocess.run([sys.executable, str(KIT / "draw_secrets.py"), str(folder)], check=True)
    return folder


def test_what_compose_runs_beside_airflow_runs_on_a_cluster_too():
    assert {"serve", "metrics", "watch", "dask-scheduler", "dask-worker"} == PODS.keys()
    for name in PODS.keys() & COMPOSE.keys():
        words = [word for word in container_of(name)["args"] if word not in ("--host", "0.0.0.0", "--port", "9464")]
        assert words == [word for word in COMPOSE[name]["command"] if word not in ("--host", "0.0.0.0", "--port")]


@pytest.mark.attack("S20")
@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_fenced_in_as_the_chart_fences_its_own(name):
    container = container_of(name)
    assert PODS[name]["securityContext"] == VALUES["securityContexts"]["pod"]
    assert container["securityContext"] == VALUES["securityContexts"]["containers"]
    assert container["resources"]["limits"].keys() == {"cpu", "memory"} == container["resources"]["requests"].keys()
    assert container["image"].startswith("registry.example/nightjar@sha256:")
    assert "livenessProbe" in container
    assert PODS[name]["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & PODS[name].keys()
    kinds = {kind for volume in PODS[name]["volumes"] for kind in volume.keys() - {"name"}}
    assert kinds <= {"emptyDir", "persistentVolumeClaim", "secret", "projected", "configMap"}
    mounted = {each["name"]: each for each in container["volumeMounts"]}
    assert mounted.keys() == {volume["name"] for volume in PODS[name]["volumes"]}
    assert all(each["readOnly"] for each in mounted.values() if each["name"] == "secrets")


def test_the_claim_is_that_of_the_chart_and_only_who_pages_writes_into_it():
    (claim,) = [volume["persistentVolumeClaim"] for volume in VALUES["volumes"] if volume["name"] == "home"]
    (place,) = [each["mountPath"] for each in VALUES["volumeMounts"] if each["name"] == "home"]
    writers = set()
    for name in PODS.keys() - DASK_PODS:
        for each in container_of(name)["volumeMounts"]:
            if each["name"] == "home":
                (found,) = [volume for volume in PODS[name]["volumes"] if volume["name"] == "home"]
                assert found["persistentVolumeClaim"]["claimName"] == claim["claimName"]
                assert each["mountPath"] == place
                writers |= set() if each.get("readOnly") else {name}
    assert "watch" in writers
    assert not writers & {"serve", "metrics"}


@pytest.mark.parametrize("name", sorted(PODS.keys() - DASK_PODS))
def test_a_command_is_one_of_ours_with_options_that_it_has(name):
    program, command, *options = container_of(name)["args"]
    assert program == "nightjar"
    group = typer.main.get_command(app)
    context = group.commands[command].make_context(command, options)  # refuses what it does not know
    port = context.params.get("port")
    assert [each["containerPort"] for each in container_of(name).get("ports", ())] == [port] * (port is not None)


@pytest.mark.parametrize("name", named("Service"))
def test_a_service_finds_its_pods_and_gives_no_pod_a_setting(name):
    spec = named("Service")[name]["spec"]
    assert spec["selector"] == named("Deployment")[name]["spec"]["selector"]["matchLabels"]
    assert spec["selector"].items() <= named("Deployment")[name]["spec"]["template"]["metadata"]["labels"].items()
    (port,) = spec["ports"]
    assert port["port"] == container_of(name)["ports"][0]["containerPort"]
    assert not name.replace("-", "_").upper().startswith(PREFIX.rstrip("_"))


def test_only_prometheus_asks_for_figures():
    policy = named("NetworkPolicy")["metrics"]["spec"]
    assert policy["podSelector"] == named("Deployment")["metrics"]["spec"]["selector"]
    assert [each.keys() for rule in policy["ingress"] for each in rule["from"]] == [{"namespaceSelector"}]


def test_every_setting_exists_and_agrees_with_the_chart():
    names = {PREFIX + name.upper() for name in Settings.model_fields}
    chart = {each["name"]: each["value"] for each in VALUES["env"]}
    for name in PODS:
        ours = variables(name)
        assert {key for key in ours if key.startswith(PREFIX)} <= names
        assert {key: value for key, value in ours.items() if key in chart} == {
            key: chart[key] for key in ours.keys() & chart
        }
    assert {name for name in PODS.keys() - DASK_PODS if container_of(name).get("env")} == {"watch"}  # it alone pages


@pytest.mark.attack("S12")
def test_every_secret_is_one_that_the_page_makes_of_what_is_drawn(drawn):
    files = {file.name for file in drawn.iterdir()}
    assert {file for keys in MADE.values() for file in keys.values()} <= files
    for name in PODS:
        for secret, key in secret_files(name).values():
            assert key in MADE[secret], f"{name}: {secret}"
    chart = [VALUES["workers"], *(VALUES[part] for part in ("apiServer", "scheduler", "dagProcessor", "triggerer"))]
    assert {each["secret"]["secretName"] for part in chart for each in part["extraVolumes"]} <= MADE.keys()


@pytest.mark.attack("S13")
def test_no_pod_beside_airflow_can_sign_models_or_write_into_the_warehouse():
    for name in PODS:
        made_from = {MADE[secret][key] for secret, key in secret_files(name).values()}
        assert not made_from & {"nightjar_signing_key", "warehouse_url_worker", "warehouse_url_owner"}
        assert not {file for file in made_from if file.startswith("airflow_")}


@pytest.mark.attack("S12")
@pytest.mark.parametrize("name", sorted(PODS.keys() - {"dask-scheduler"}))
def test_what_was_drawn_is_good_enough_to_start(name, drawn, tmp_path, monkeypatch):
    for variable in [each for each in os.environ if each.startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    for path, (secret, key) in secret_files(name).items():
        (tmp_path / path).write_text((drawn / MADE[secret][key]).read_text())
    for variable, value in variables(name).items():
        monkeypatch.setenv(variable, value.replace("/run/secrets/nightjar", str(tmp_path)))
    (place,) = [each["mountPath"] for each in container_of(name)["volumeMounts"] if each["name"] == "secrets"]
    assert variables(name)[f"{PREFIX}SECRETS_DIR"] == place
    monkeypatch.setenv(f"{PREFIX}VERIFY_KEY", "ab" * 32)
    settings = load_settings()
    if name == "dask-worker":
        assert settings.warehouse.startswith("sqlite:")  # its own, and empty
        return
    assert "nightjar_reader:" in settings.warehouse
    assert bool(settings.serving_keys) == (name == "serve")
    assert settings.redis_url.startswith("redis://online_reader:") == (name == "serve")


def test_only_steps_and_workers_reach_a_dask_cluster():
    allowed = {}
    for name in DASK_PODS:
        policy = named("NetworkPolicy")[name]["spec"]
        assert policy["podSelector"] == named("Deployment")[name]["spec"]["selector"]
        allowed[name] = [one["podSelector"]["matchLabels"] for rule in policy["ingress"] for one in rule["from"]]
    steps = {"tier": "airflow", "component": "worker"}
    scheduler, worker = ({"app.kubernetes.io/name": name} for name in ("dask-scheduler", "dask-worker"))
    assert allowed == {"dask-scheduler": [worker, steps], "dask-worker": [worker, scheduler]}


def test_workers_of_dask_have_the_image_and_the_lake_of_the_steps_and_no_secret_but_its_key():
    chart = {each["name"]: each["value"] for each in VALUES["env"]}
    assert chart["NIGHTJAR_DASK_SCHEDULER"] == container_of("dask-worker")["args"][2]
    assert variables("dask-worker")["NIGHTJAR_LAKE_URI"] == chart["NIGHTJAR_LAKE_URI"]
    assert container_of("dask-scheduler")["image"] == container_of("dask-worker")["image"]
    assert secret_files("dask-worker").keys() == {"s3_credentials", "nightjar_pseudonym_key"}
    assert MADE["nightjar-dask"]["nightjar_pseudonym_key"] == "nightjar_serve_keys"
    assert not secret_files("dask-scheduler")
