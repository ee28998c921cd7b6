"""A model can compute, and nothing else: no code of it ever runs, and only what we signed is read."""

import ast
import base64
import json
import os
import pickle
import shutil
import subprocess
import sys
from datetime import date
from pathlib import Path

import lightgbm
import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives import serialization
from pydantic import SecretStr
from toy import USE_CASE

from pipelines import registry, warehouse
from pipelines.bundle import MANIFEST, SIGNATURE
from pipelines.errors import ArtifactRefused, InvalidSetting
from pipelines.publishing import publish
from pipelines.scoring import score
from pipelines.settings import PROJECT
from pipelines.signing import _private_key, sign
from pipelines.tables import INCIDENTS

NIGHT, NEXT = date(2017, 11, 19), date(2017, 11, 26)
BANNED_MODULES = {"pickle", "cPickle", "_pickle", "joblib", "cloudpickle", "dill", "marshal", "shelve", "jsonpickle"}
BANNED_CALLS = {"eval", "exec", "compile", "__import__"}
BANNED_METHODS = {"yaml.load", "pyfunc.load_model", "mlflow.pyfunc.load_model", "mlflow.lightgbm.load_model"}
BANNED_METHODS |= {"os.system", "os.popen", "numpy.load", "np.load", "pd.read_pickle"}


def scoring_path():
    """Every module below pipelines/ that scoring, publishing and the shadow import, at once or later."""
    found, todo = {}, [f"pipelines.{name}" for name in ("scoring", "publishing", "shadow", "explain", "use_cases")]
    while todo:
        name = todo.pop()
        place = PROJECT / Path(*name.split("."))
        path = place.with_suffix(".py") if place.with_suffix(".py").exists() else place / "__init__.py"
        if name in found or not path.exists():
            continue
        found[name] = ast.parse(path.read_text())
        for node in ast.walk(found[name]):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipelines"):
                todo += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def what_can_run_code(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in BANNED_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in BANNED_MODULES:
            yield node.module
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in BANNED_CALLS | BANNED_METHODS or called.endswith(".read_pickle"):
                yield called
            yield from ("shell=True" for word in node.keywords if word.arg == "shell" and ast.unparse(word) != "False")


@pytest.mark.attack("S1")
def test_nothing_on_the_scoring_path_can_run_what_a_file_says():
    modules = scoring_path()

    assert {"pipelines.bundle", "pipelines.champion", "pipelines.registry", "pipelines.lake"} < set(modules)
    assert {name: found for name, tree in modules.items() if (found := list(what_can_run_code(tree)))} == {}


@pytest.mark.attack("S1")
@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import mlflow\nmlflow.pyfunc.load_model('x')",
        "yaml.load(text)",
        "eval('1')",
        "subprocess.run('ls', shell=True)",
        "frame = pandas.read_pickle('x')",
    ],
)
def test_the_search_for_such_code_finds_it(code):
    assert list(what_can_run_code(ast.parse(code)))


WATCHED_NIGHT = """
import sys
seen = []
sys.addaudithook(lambda event, given: seen.append(str(given)) if event == "pickle.find_class" else None)
from datetime import date
from pipelines.publishing import publish
from pipelines.scoring import score
from pipelines.settings import load_settings
from pipelines.use_cases import get_use_case
settings = load_settings()
toy = get_use_case("toy_visits", settings)
scored = score(settings, toy, date(2017, 11, 19), "watched")
publish(settings, toy, date(2017, 11, 19), "watched", scored.model_version)
watched = len(seen)
import pickle, collections
pickle.loads(pickle.dumps(collections.OrderedDict()))
print(scored.score_source, watched, len(seen), seen[:watched])
"""


@pytest.mark.slow
@pytest.mark.attack("S1")
def test_a_whole_night_unpickles_nothing(toy_home):
    environment = {
        **os.environ,
        "PYTHONPATH": f"{PROJECT}:{PROJECT / 'tests'}",
        "NIGHTJAR_HOME": str(toy_home.home),
        "NIGHTJAR_USE_CASES": "toy",
        "NIGHTJAR_SIGNING_KEY": toy_home.signing_key.get_secret_value(),
    }
    shown = subprocess.run(
        [sys.executable, "-c", WATCHED_NIGHT], capture_output=True, text=True, env=environment, check=False
    )

    assert shown.returncode == 0, shown.stderr[-2000:]
    source, watched, after, *classes = shown.stdout.splitlines()[-1].split(maxsplit=3)
    assert (source, watched) == ("champion", "0"), classes
    assert int(after) > 0  # the watch does see a pickle


class Evil:
    """When it is unpickled, a file appears."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path):
    """A file that only the attacker's code would create."""
    path = tmp_path / "marker"
    pickle.loads(pickle.dumps(Evil(path)))
    assert path.exists()  # the weapon works
    path.unlink()
    return path


@pytest.fixture
def champion_bundle(toy_home):
    version = registry.get_version(toy_home, USE_CASE, "1")
    (folder,) = toy_home.mlflow_artifacts.glob(f"*/{version.mlflow_run_id}/artifacts/bundle")
    return folder


def a_pickled_mlflow_model(bundle, marker, _):
    shutil.rmtree(bundle)
    bundle.mkdir()
    evil = f"from pathlib import Path\nPath({str(marker)!r}).touch()\ndef _load_pyfunc(path): pass\n"
    (bundle / "evil.py").write_text(evil)
    flavour = {"python_function": {"loader_module": "evil", "code": ".", "python_version": "3.11"}}
    (bundle / "MLmodel").write_text(json.dumps({"flavors": flavour}))
    (bundle / "python_model.pkl").write_bytes(pickle.dumps(Evil(marker)))


def a_pickle_in_the_place_of_each_file(bundle, marker, _):
    for path in list(bundle.iterdir()):
        path.write_bytes(pickle.dumps(Evil(marker)))


def a_link_out_of_the_bundle(bundle, marker, _):
    trees = sorted(bundle.glob("*.txt"))[0]
    trees.unlink()
    trees.symlink_to("/etc/passwd")


def a_manifest_that_is_a_link(bundle, marker, _):
    (bundle / MANIFEST).unlink()
    (bundle / MANIFEST).symlink_to("/etc/passwd")


def a_manifest_that_names_a_file_elsewhere(bundle, marker, signer):
    manifest = json.loads((bundle / MANIFEST).read_text())
    for part in manifest["components"]:
        part["file"] = "../../../../evil.txt"
    content = json.dumps(manifest).encode()
    (bundle / MANIFEST).write_bytes(content)
    (bundle / SIGNATURE).write_bytes(base64.b64encode(sign(signer, content)))


def a_zip_whose_members_climb_out(bundle, marker, _):
    shutil.make_archive(str(bundle.parent / "slip"), "zip", bundle)
    shutil.rmtree(bundle)
    (bundle.parent / "slip.zip").rename(bundle.parent / "bundle")


HOSTILE = [
    a_pickled_mlflow_model,
    a_pickle_in_the_place_of_each_file,
    a_link_out_of_the_bundle,
    a_manifest_that_is_a_link,
    a_manifest_that_names_a_file_elsewhere,
    a_zip_whose_members_climb_out,
]


@pytest.mark.slow
@pytest.mark.attack("S2")
@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_bundle_is_refused_unread_and_one_incident_tells(
    toy_home, champion_bundle, marker, monkeypatch, attack
):
    stranger = toy_home.model_copy(update={"signing_key": SecretStr("the secret of somebody else, quite long")})
    attack(champion_bundle, marker, stranger)
    parsed = []
    with monkeypatch.context() as watching:
        watching.setattr(lightgbm, "Booster", lambda **given: parsed.append(given))
        with pytest.raises(ArtifactRefused):
            registry.load(toy_home, USE_CASE, registry.get_version(toy_home, USE_CASE, "1"))

        reports = [score(toy_home, USE_CASE, day, "test") for day in (NIGHT, NEXT)]
    assert parsed == []
    assert not marker.exists()
    assert {report.score_source for report in reports} == {"baseline"}
    assert publish(toy_home, USE_CASE, NEXT, "test", reports[1].model_version).entities > 2000
    with warehouse.open_warehouse(toy_home) as connection:
        rows = warehouse.read_rows(connection, sa.select(INCIDENTS))
    assert [(row["kind"], row["first_date"], row["last_date"]) for row in rows] == [("champion refused", NIGHT, NEXT)]


@pytest.mark.attack("S2")
def test_even_our_own_signature_does_not_let_a_manifest_name_a_file_elsewhere(toy_home, champion_bundle):
    a_manifest_that_names_a_file_elsewhere(champion_bundle, None, toy_home)
    content = (champion_bundle / MANIFEST).read_bytes()
    from pipelines.bundle import read_bundle

    with pytest.raises(ArtifactRefused, match="not one"):
        read_bundle(toy_home, USE_CASE, lambda name: (champion_bundle / name).read_bytes(), "test", _hash(content))


def _hash(content):
    import hashlib

    return hashlib.sha256(content).hexdigest()


def flip_a_byte_of_the_manifest(bundle, _):
    content = bytearray((bundle / MANIFEST).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / MANIFEST).write_bytes(bytes(content))


def flip_a_byte_of_the_signature(bundle, _):
    content = bytearray(base64.b64decode((bundle / SIGNATURE).read_bytes()))
    content[0] ^= 1
    (bundle / SIGNATURE).write_bytes(base64.b64encode(bytes(content)))


def empty_the_signature(bundle, _):
    (bundle / SIGNATURE).write_bytes(b"")


def lose_the_signature(bundle, _):
    (bundle / SIGNATURE).unlink()


def sign_with_another_key(bundle, stranger):
    (bundle / SIGNATURE).write_bytes(base64.b64encode(sign(stranger, (bundle / MANIFEST).read_bytes())))


@pytest.mark.slow
@pytest.mark.attack("S3")
@pytest.mark.parametrize(
    "forge",
    [
        flip_a_byte_of_the_manifest,
        flip_a_byte_of_the_signature,
        empty_the_signature,
        lose_the_signature,
        sign_with_another_key,
    ],
)
def test_what_is_not_signed_with_our_key_is_refused(toy_home, champion_bundle, forge):
    version = registry.get_version(toy_home, USE_CASE, "1")
    registry.load(toy_home, USE_CASE, version)
    forge(champion_bundle, toy_home.model_copy(update={"signing_key": SecretStr("another secret, of 32 characters")}))

    with pytest.raises(ArtifactRefused):
        registry.load(toy_home, USE_CASE, version)


@pytest.mark.slow
@pytest.mark.attack("S3")
def test_who_only_reads_needs_no_secret_and_cannot_sign(toy_home):
    public = _private_key(toy_home).public_key().public_bytes_raw().hex()
    version = registry.get_version(toy_home, USE_CASE, "1")
    reader = toy_home.model_copy(update={"signing_key": SecretStr(""), "verify_key": public})

    assert registry.load(reader, USE_CASE, version)[0].features == USE_CASE.features
    with pytest.raises(InvalidSetting, match="signed here"):
        sign(reader, b"content")
    other = reader.model_copy(update={"verify_key": "00" * 31 + "01"})
    with pytest.raises(ArtifactRefused):
        registry.load(other, USE_CASE, version)


@pytest.mark.slow
@pytest.mark.attack("S3")
def test_the_key_is_neither_in_the_repository_nor_in_anything_that_a_run_leaves(toy_home):
    score(toy_home, USE_CASE, NIGHT, "test")
    secret = toy_home.signing_key.get_secret_value().encode()
    seed = _private_key(toy_home).private_bytes(
        serialization.Encoding.Raw, serialization.PrivateFormat.Raw, serialization.NoEncryption()
    )
    wanted = [
        form for key in (secret, seed) for form in (key, key.hex().encode(), base64.b64encode(key).rstrip(b"=")[:-1])
    ]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=True).stdout
    files = [PROJECT / name for name in listed.decode().split("\0") if name]
    left = [path for path in toy_home.home.rglob("*") if "core__" not in str(path)]
    read = [path for path in files + left if path.is_file()]

    assert len(read) > 200
    assert [
        str(path) for path in read for content in [path.read_bytes()] if any(one in content for one in wanted)
    ] == []
