"""A model as files: LightGBM's text, and a signed manifest that says what they are; nothing in it can run."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import lightgbm
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.errors import ArtifactRefused
from pipelines.features import definition_of
from pipelines.model import Calibration, Component, Model, Reliability
from pipelines.settings import PROJECT, Settings
from pipelines.signing import require_signed, sign
from pipelines.use_case import UseCase

FOLDER, MANIFEST, SIGNATURE = "bundle", "manifest.json", "manifest.sig"
Fetch = Callable[[str], bytes]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TreesFile(_Frozen):
    """One component of a model: its file and what it weighs."""

    name: str
    file: str = Field(pattern=r"^[a-z]+\.txt$")
    sha256: str
    weight: float


class Feature(_Frozen):
    """A column that the trees read: its name and type, in the order of the list. Codes of categories: none is used."""

    name: str
    type: str = "float32"


class ModelFacts(_Frozen):
    """Everything that must be known of a model before its trees are read."""

    use_case: str
    kind: str
    trained_as_of: date
    last_label_date: date
    features: tuple[Feature, ...]
    feature_definition: str = Field(description="Hash of the SQL of the features")
    components: tuple[TreesFile, ...] = Field(min_length=1)
    calibration: Calibration
    reliability: Reliability
    lightgbm_version: str
    requirements_sha256: str


def write_bundle(settings: Settings, model: Model, facts: Mapping[str, object], folder: Path) -> str:
    """Write the files of a model, signed, and give the SHA-256 of its manifest.

    `facts` are those of `ModelFacts` that neither the model nor the machine knows itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    components = []
    for part in model.components:
        # How many threads have grown the trees is no property of theirs, and must not change the model's hash.
        content = re.sub(r"\[num_threads: \d+\]", "[num_threads: 0]", part.booster.model_to_string()).encode()
        file = f"{part.name}.txt"
        (folder / file).write_bytes(content)
        components.append(TreesFile(name=part.name, file=file, sha256=_sha256(content), weight=part.weight))
    manifest = ModelFacts.model_validate(
        {
            **facts,
            "features": tuple(Feature(name=name) for name in model.features),
            "components": tuple(components),
            "calibration": model.calibration,
            "reliability": model.reliability,
            "lightgbm_version": lightgbm.__version__,
            "requirements_sha256": _sha256((PROJECT / "requirements.txt").read_bytes()),
        }
    )
    content = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True).encode()
    (folder / MANIFEST).write_bytes(content)
    (folder / SIGNATURE).write_bytes(base64.b64encode(sign(settings, content)))
    return _sha256(content)


def read_bundle(
    settings: Settings, use_case: UseCase, fetch: Fetch, where: str, manifest_sha256: str
) -> tuple[Model, ModelFacts]:
    """The model, once each file is seen to be the signed one of that manifest; nothing is parsed before.

    `fetch` gives a file of the bundle by its name.

    Raises:
        ArtifactRefused: names the file or the fact that differs.
    """
    content = fetch(MANIFEST)
    if _sha256(content) != manifest_sha256:
        raise _refusal("the manifest is not the registered one", where, manifest_sha256, _sha256(content))
    try:
        signature = base64.b64decode(fetch(SIGNATURE), validate=True)
    except ValueError:
        signature = b""
    require_signed(settings, content, signature, f"{where}, {MANIFEST}")
    try:
        facts = ModelFacts.model_validate_json(content)
    except ValidationError as error:
        problem = error.errors()[0]
        raise _refusal("the manifest is not one", where, MANIFEST, f"{problem['loc']}: {problem['msg']}") from error
    wanted = {"use_case": use_case.name, "feature_definition": feature_definition(settings, use_case)}
    for name, value in wanted.items():
        if getattr(facts, name) != value:
            raise _refusal(f"the model has another {name}", where, value, getattr(facts, name))
    features = tuple(feature.name for feature in facts.features)
    if features != use_case.features or {feature.type for feature in facts.features} != {"float32"}:
        raise _refusal("the features are not the use case's, in their order", where, use_case.features, features)
    components = tuple(_read_trees(fetch, part, features, where) for part in facts.components)
    return Model(components, facts.calibration, facts.reliability, features, use_case.entity), facts


def feature_definition(settings: Settings, use_case: UseCase) -> str:
    """Hash of the SQL from which the features are made."""
    return _sha256(definition_of(settings, use_case).encode())


def _read_trees(fetch: Fetch, part: TreesFile, features: tuple[str, ...], where: str) -> Component:
    content = fetch(part.file)
    if _sha256(content) != part.sha256:
        raise _refusal(f"{part.file} is not the signed file", where, part.sha256, _sha256(content))
    text = content.decode()
    booster = lightgbm.Booster(model_str=text)
    if tuple(booster.feature_name()) != features:
        raise _refusal("the trees were grown on other features", where, features, tuple(booster.feature_name()))
    splits = {line for line in text.splitlines() if line.startswith("num_cat=")}
    if splits - {"num_cat=0"}:
        raise _refusal("the trees split on codes of categories", where, "none: no codes are stored", splits)
    return Component(part.name, booster, part.weight)


def _refusal(what: str, where: str, expected: object, found: object) -> ArtifactRefused:
    remedy = "restore the artefact store, train a new model, or roll back to another version"
    return ArtifactRefused(what, where=where, expected=expected, found=found, remedy=remedy)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
