"""The model of a night: the champion, else the last verified copy of a champion, else none."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines import registry
from pipelines.bundle import FOLDER, read_bundle
from pipelines.errors import ArtifactRefused, EngineFailure, NightjarError, NoChampion, UnknownVersion
from pipelines.model import Model
from pipelines.settings import Settings
from pipelines.storage import replacing
from pipelines.use_case import UseCase

CHAMPION, CACHED, BASELINE = "champion", "cached", "baseline"
RULE_PREFIX = "rule:"  # in the place of a model's version where a simple rule scored
_KEPT = 2


class _Copy(BaseModel):
    """The files of a model's bundle, by name; read like those of the registry, and believed as little."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest_sha256: str
    files: dict[str, str]


@dataclass(frozen=True)
class Chosen:
    """What scores a night, pinned; without a model it is the baseline rule.

    `champion` is the version that the registry calls so, if it answers; `problem` what kept it from being read.
    """

    model: Model | None
    version: str
    source: str
    champion: str = ""
    problem: NightjarError | None = None


def choose_model(settings: Settings, use_case: UseCase) -> Chosen:
    """The registry's champion, else the last verified copy, else none; each is verified before it is parsed.

    A copy of the very version that the registry calls champion still counts as the champion.
    """
    wanted, manifest = "", ""
    try:
        named = registry.champion(settings, use_case)
        wanted, manifest = named.version, named.tags.get(registry.BUNDLE_TAG, "none")
        return Chosen(_load_and_keep(settings, use_case, named), wanted, CHAMPION, wanted)
    except (NoChampion, EngineFailure, ArtifactRefused) as error:
        problem = error
    for path in sorted(_copies(settings, use_case), key=lambda path: path.stem != wanted):
        is_champion = path.stem == wanted
        try:
            model = read_copy(settings, use_case, path.stem, manifest if is_champion else "")
        except ArtifactRefused:
            continue
        return Chosen(model, path.stem, CHAMPION if is_champion else CACHED, wanted, problem)
    return Chosen(None, RULE_PREFIX + use_case.baseline_rule, BASELINE, wanted, problem)


def load_version(settings: Settings, use_case: UseCase, version: str) -> Model:
    """That very version, from the registry or, where that fails, from its copy.

    Raises:
        EngineFailure, ArtifactRefused, UnknownVersion: the registry cannot give it, and there is no copy.
    """
    try:
        return registry.load(settings, use_case, registry.get_version(settings, use_case, version))[0]
    except (EngineFailure, ArtifactRefused, UnknownVersion):
        if not _place(settings, use_case, version).exists():
            raise
        return read_copy(settings, use_case, version)


def read_copy(settings: Settings, use_case: UseCase, version: str, manifest_sha256: str = "") -> Model:
    """The model of a local copy, once its signature and hashes are seen to be right.

    Raises:
        ArtifactRefused: they are not, or the copy cannot be read.
    """
    path = _place(settings, use_case, version)
    where = f"copy of model {use_case.name}, version {version}"
    remedy = f"remove {path}: the next night scored by the champion makes a new one"
    try:
        copy = _Copy.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        found = str(error).splitlines()[0]
        raise ArtifactRefused("the copy cannot be read", where=where, found=found, remedy=remedy) from error

    def fetch(name: str) -> bytes:
        if name not in copy.files:
            raise ArtifactRefused("the copy is not whole", where=where, expected=name, found="none", remedy=remedy)
        return copy.files[name].encode()

    return read_bundle(settings, use_case, fetch, where, manifest_sha256 or copy.manifest_sha256)[0]


def _load_and_keep(settings: Settings, use_case: UseCase, version: registry.ModelVersion) -> Model:
    files: dict[str, str] = {}

    def fetch(name: str) -> bytes:
        content = registry.fetch(settings, use_case, version, f"{FOLDER}/{name}")
        files[name] = content.decode(errors="replace")
        return content

    manifest = version.tags.get(registry.BUNDLE_TAG, "none")
    where = f"model {use_case.name}, version {version.version}"
    model, _ = read_bundle(settings, use_case, fetch, where, manifest)
    with replacing(_place(settings, use_case, version.version)) as unfinished:
        unfinished.write_text(_Copy(manifest_sha256=manifest, files=files).model_dump_json())
    for old in _copies(settings, use_case)[_KEPT:]:
        old.unlink(missing_ok=True)
    return model


def _copies(settings: Settings, use_case: UseCase) -> list[Path]:
    """Copies of the versions that were champion when they scored, the last one first."""
    found = _place(settings, use_case, "").parent.glob("[0-9]*.json")
    return sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)


def _place(settings: Settings, use_case: UseCase, version: str) -> Path:
    return settings.home / "models" / use_case.name / f"{version}.json"
