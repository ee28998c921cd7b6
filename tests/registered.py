"""Model versions in a real registry, each with a verdict of the gate; no trees are needed to be promoted or refused."""

import json
from datetime import date
from uuid import uuid4

from pydantic_core import to_jsonable_python
from toy import USE_CASE

from pipelines import registry
from pipelines.checks import Check
from pipelines.gate import GateReport

GAIN = Check("NDCG over the champion", True, "+0.0100 [+0.0050, +0.0150]", "lower end at least -0.002")
LOSS = Check("NDCG over the champion", False, "-0.0300 [-0.0350, -0.0250]", "lower end at least -0.002")
INSANE = Check("sanity: different scores", False, 1, "more than 1")


def new_use_case():
    """A use case with a registered model and a log of its own."""
    return USE_CASE.model_copy(update={"name": f"toy_{uuid4().hex[:8]}"})


def register(settings, use_case, *checks, champion=None, trainer="tina"):
    """The number of a new challenger whose verdict holds these checks; without any it was not judged."""
    client = registry.open_registry(settings)
    if not client.search_registered_models(f"name = '{use_case.name}'"):
        client.create_registered_model(use_case.name)
    run = client.create_run(registry.experiment_id(settings, use_case, client))
    version = str(client.create_model_version(use_case.name, run.info.artifact_uri, run.info.run_id).version)
    registry.note_trainer(settings, use_case, version, trainer)
    registry.set_alias(settings, use_case, registry.CHALLENGER, version)
    if checks:
        say(settings, use_case, version, *checks, champion=champion)
    return version


def say(settings, use_case, version, *checks, champion=None, as_of=date(2017, 11, 12)):
    """Write the gate's verdict on a version, as the gate would."""
    failed = [check for check in checks if not check.success]
    report = GateReport(
        as_of=as_of,
        model_version=version,
        champion_version=champion,
        dates=(),
        is_passed=not failed,
        reason="; ".join(map(str, failed)) or "all checks passed",
        checks=checks,
        quality={},
        gains={},
        slices={},
    )
    run_id = registry.get_version(settings, use_case, version).mlflow_run_id
    text = json.dumps(to_jsonable_python(report))
    registry.open_registry(settings).log_text(run_id, text, registry.GATE_FILE)


def aliases(settings, use_case):
    """Version of champion and of challenger."""
    found = [registry.find_alias(settings, use_case, name) for name in (registry.CHAMPION, registry.CHALLENGER)]
    return tuple(version and version.version for version in found)
