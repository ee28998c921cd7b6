"""The tasks between a trained model and a champion: judge, ask a person where the setting says so, promote."""

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import Param, XComArg, get_current_context, task

from nightjar_dags import plain, skip_unless
from pipelines.settings import Settings
from pipelines.use_case import UseCase

APPROVE, REJECT = "Approve", "Reject"


def patience(settings: Settings) -> timedelta:
    """How long a run that trains may take, the wait for an answer included."""
    waiting = settings.approval_timeout_hours if settings.promotion == "approval" else 0
    return timedelta(hours=6 + waiting)


def requester() -> str:
    """Who started the run of this task; nightjar: another DAG or the schedule did."""
    return str(get_current_context()["dag_run"].triggering_user_name or "nightjar")


def add_promotion(
    settings: Settings,
    use_case: UseCase,
    trained: XComArg,
    run: Callable[[], tuple[date, str]],
    *,
    with_ablation: bool,
) -> XComArg:
    """The task that makes a trained version champion or writes down why not, behind those that it rests on.

    `run` gives the date by which the version is judged, and the id of the run. The version's model card is written
    beside; its ablation takes minutes.
    """

    @task(multiple_outputs=True)
    def judge_model(trained: dict[str, Any]) -> dict[str, Any]:
        """Compare the new version with champion and simple rule, on rows that none of them has learnt from."""
        from pipelines import registry
        from pipelines.gate import judge

        version = trained["model_version"]
        registry.note_trainer(settings, use_case, version, requester())
        report = judge(settings, use_case, version, *run())
        return {
            "model_version": version,
            "is_passed": report.is_passed,
            "reason": report.reason,
            "subject": f"Shall version {version} of {use_case.title} be champion?",
            "body": _evidence(use_case, plain(report)),
        }

    @task(trigger_rule="none_failed_min_one_success")  # without an answer where the gate refused, not without verdict
    def promote_model(judged: dict[str, Any], answered: dict[str, Any] | None) -> object:
        """Make the version champion, or write down who refused it and why."""
        from pipelines.promotion import Answer, promote

        person, answer = (answered or {}).get("responded_by_user"), None
        if person:
            reason = (answered or {}).get("params_input", {}).get("reason") or ""
            answer = Answer(person["name"], (answered or {})["chosen_options"] == [APPROVE], reason)
        return plain(promote(settings, use_case, judged["model_version"], run()[1], answer))

    @task
    def write_model_card(judged: dict[str, Any]) -> object:
        """Write what the version is good for, and for whom not; nothing waits for it."""
        from pipelines.model_card import write_card

        return plain(write_card(settings, use_case, judged["model_version"], *run(), with_ablation=with_ablation))

    judged = judge_model(trained)
    write_model_card(judged)
    return promote_model(judged, _ask(settings, judged) if settings.promotion == "approval" else None)


def _ask(settings: Settings, judged: XComArg) -> XComArg:
    judge_id = judged.operator.task_id

    def skip_if_refused(context: Any) -> None:
        verdict = context["ti"].xcom_pull(task_ids=judge_id)
        skip_unless(verdict["is_passed"], f"the gate refused it: {verdict['reason']}")

    return HITLOperator(
        task_id="ask_approval",
        subject=judged["subject"],
        body=judged["body"],
        options=[APPROVE, REJECT],
        defaults=REJECT,
        params={"reason": Param("", "Why; it is kept.", title="Reason", type="string", maxLength=500)},
        response_timeout=timedelta(hours=settings.approval_timeout_hours),
        pre_execute=skip_if_refused,
        doc_md="Wait for somebody other than the trainer to read the evidence and answer; silence means no.",
    ).output


def _evidence(use_case: UseCase, report: Any) -> str:
    """The verdict as Markdown."""
    from nightjar_pages import URL

    version, champion = report["model_version"], report["champion_version"]
    rows = [
        f"| {check['name']} | {check['observed']} | {check['expected']} | {'yes' if check['success'] else 'no'} |"
        for check in report["checks"]
    ]
    told = (
        f"{use_case.question}\n\nBy {report['as_of']}, against {f'version {champion}' if champion else 'no champion'}. "
        f"Everything is on its [model card]({URL}/model_cards/{use_case.name}/v{version}.html)."
    )
    return "\n".join([told, "", "| check | observed | asked for | passed |", "|---|---|---|---|", *rows])
