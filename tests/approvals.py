"""A real Airflow in which a model of the toy use case waits for somebody's answer."""

import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from toy import USE_CASE

from local_stack.airflow_server import APPROVER, USER, VIEWER, Airflow, ready_airflow, start_airflow, stop_airflow
from pipelines import promotion_log

DAG_ID = f"train__{USE_CASE.name}"
QUESTION = f"/api/v2/dags/{DAG_ID}/dagRuns/{{}}/taskInstances/ask_approval/-1/hitlDetails"
TRAINED = "2017-11-12"


class Person(Airflow):
    """Somebody who is logged in."""

    def answer(self, run_id, option, reason=""):
        """Answer the question that a run asks."""
        body = {"chosen_options": [option], "params_input": {"reason": reason}}
        self._call("PATCH", QUESTION.format(run_id), body)

    def answer_until(self, run_id, option, reason, **wanted):
        """Answer as a person does, who reads before, and again if asked again, until the tasks are in these states.

        Airflow 3.3 takes an answer that comes before its scheduler has noted the question (5 s and more) for a crash
        of the task, and asks again.
        """

        def answer_if_asked():
            if self.states(run_id)["ask_approval"] == "awaiting_input":
                time.sleep(15)  # a reader's time, longer than the scheduler takes to note the question
                self.answer(run_id, option, reason)

        self.wait_for(run_id, meanwhile=answer_if_asked, **wanted)

    def ask_again(self, run_id):
        """Clear the question and what follows from it, once the scheduler has closed the run: it forgets them else."""
        self.wait_until_closed(run_id)
        body = {"dag_run_id": run_id, "task_ids": ["ask_approval"], "include_downstream": True}
        body |= {"dry_run": False, "only_failed": False, "reset_dag_runs": True}
        self._call("POST", f"/api/v2/dags/{DAG_ID}/clearTaskInstances", body)

    def question(self, run_id):
        """Subject and text of the question."""
        found = self.get(QUESTION.format(run_id))
        return found["subject"], found["body"]

    def states(self, run_id):
        """State of each task of a run."""
        instances = self.get(f"/api/v2/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances")["task_instances"]
        return {each["task_id"]: each["state"] for each in instances}

    def wait_until_closed(self, run_id, patience_s=180):
        """Return once the run itself is over, some seconds after its last task."""
        deadline = time.monotonic() + patience_s
        while self.get(f"/api/v2/dags/{DAG_ID}/dagRuns/{run_id}")["state"] not in ("success", "failed"):
            assert time.monotonic() < deadline, f"the run is not over after {patience_s} s"
            time.sleep(0.5)  # between two looks; the deadline above ends it

    def wait_for(self, run_id, meanwhile=lambda: None, patience_s=300, **wanted):
        """Return once the tasks are in these states."""
        deadline, found = time.monotonic() + patience_s, {}
        while time.monotonic() < deadline:
            found = self.states(run_id)
            if wanted.items() <= found.items():
                return
            assert "failed" not in found.values(), found
            meanwhile()
            time.sleep(0.5)
        raise AssertionError(f"wanted {wanted}, found {found}")


@dataclass
class Waiting:
    """A run, triggered by the administrator, whose model waits for an answer; and the people."""

    settings: object
    run_id: str
    admin: Person
    approver: Person
    viewer: Person

    def newest(self):
        """What was written down last: action, who decided, who trained, why."""
        row = promotion_log.history(self.settings, USE_CASE)[-1]
        return tuple(row[name] for name in ("action", "actor", "trainer", "reason"))


@contextmanager
def waiting_run(settings, timeout_hours):
    """Train the toy in a real Airflow, up to the question; the home must hold its data."""
    people = []
    try:
        with pytest.MonkeyPatch.context() as patch:
            tests = str(Path(__file__).parent)
            patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [tests, os.environ.get("PYTHONPATH")])))
            patch.setenv("NIGHTJAR_USE_CASES", "toy")
            patch.setenv("NIGHTJAR_PROMOTION", "approval")
            patch.setenv("NIGHTJAR_APPROVAL_TIMEOUT_HOURS", str(timeout_hours))
            with ready_airflow(settings, start_airflow(settings), [DAG_ID]) as airflow:
                server = airflow.server
        passwords = json.loads((settings.home / "airflow" / "passwords.json").read_text())
        people = [Person(server, passwords[name], name) for name in (USER, APPROVER, VIEWER)]
        for person in people:
            person._log_in()
        admin = people[0]
        admin.switch([DAG_ID], is_on=True)
        run_id = admin.trigger(DAG_ID, as_of=TRAINED)
        admin.wait_for(run_id, ask_approval="awaiting_input")
        yield Waiting(settings, run_id, *people)
    finally:
        for person in people:
            person.__exit__()
        stop_airflow(settings)
