"""What differs between two model versions: data, code, parameters, features, metrics, verdicts, approvers."""

from collections.abc import Iterator

from pipelines import promotion_log, registry
from pipelines.bundle import FOLDER, MANIFEST, ModelFacts
from pipelines.errors import NotJudged
from pipelines.promotion import read_verdict
from pipelines.registry import ModelVersion
from pipelines.settings import Settings
from pipelines.use_case import UseCase

_DATA = ("as_of", "snapshot_dates", "feature_versions", "training_set_sha256", "rows")
Difference = tuple[str, str, str, str]


def model_diff(settings: Settings, use_case: UseCase, old: str, new: str) -> list[Difference]:
    """Section, name and both values of all that is not the same.

    Raises:
        UnknownVersion: one of them is not registered.
    """
    left, right = (
        dict(_facts(settings, use_case, registry.get_version(settings, use_case, version))) for version in (old, new)
    )
    keys = [*left, *(key for key in right if key not in left)]
    return [(*key, left.get(key, "–"), right.get(key, "–")) for key in sorted(keys) if left.get(key) != right.get(key)]


def _facts(settings: Settings, use_case: UseCase, version: ModelVersion) -> Iterator[tuple[tuple[str, str], str]]:
    for name, value in registry.validation_parameters(settings, version).items():
        section = "data" if name in _DATA else "code" if name == "code_version" else "parameters"
        yield (section, name), value
    manifest = ModelFacts.model_validate_json(registry.fetch(settings, use_case, version, f"{FOLDER}/{MANIFEST}"))
    yield ("code", "feature SQL"), manifest.feature_definition
    for feature in manifest.features:
        yield ("features", feature.name), feature.type
    for name, metric in registry.validation_metrics(settings, version).items():
        yield ("metrics", name), f"{metric:.5g}"
    yield ("approval", "trainer"), registry.trainer(settings, version)
    for row in promotion_log.history(settings, use_case):
        if row["to_version"] == version.version:  # the newest stays
            yield ("approval", "decision"), f"{row['action']} by {row['actor']}: {row['reason']}"
    try:
        verdict = read_verdict(settings, use_case, version)
    except NotJudged:
        return
    yield ("gate", "verdict"), verdict.reason
    for group, figures in (("quality", verdict.quality), ("gain over", verdict.gains)):
        for who, values in figures.items():
            for name, figure in values.items():
                yield ("gate", f"{group} {who} {name}"), f"{figure:.5g}"
