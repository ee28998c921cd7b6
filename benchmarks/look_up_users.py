"""Callers of the look-up for Locust: most ask for a list, some with a context, some for whom none was published."""

import os
import random

from locust import FastHttpUser, between, task

TOLD = {name: int(os.environ[name]) for name in ("LISTS", "ONLINE", "FIRST", "STEP")}


class Caller(FastHttpUser):
    """One of the shop fronts that ask at the same time."""

    # By chance: with a fixed rhythm the first hiccup brings all callers in step, and each then waits for the others.
    wait_time = between(0, 2 / float(os.environ["CALLS_PER_CALLER"]))

    def on_start(self) -> None:
        """Take the key, and a moment of one's own: Locust starts a second's callers at once."""
        self.client.client.default_headers["X-API-Key"] = os.environ["CALLER_KEY"]
        self.wait()  # type: ignore[no-untyped-call]  # Locust gives it no types

    @task(8)
    def ask(self) -> None:
        """The list as published."""
        self.call("plain", random.randrange(TOLD["LISTS"]))  # noqa: S311  # chance, no secret

    @task(1)
    def ask_with_context(self) -> None:
        """The list of somebody whose features are in the online store and who has just bought the first item."""
        number = random.randrange(TOLD["ONLINE"])  # noqa: S311  # chance, no secret
        bought, gone = (f"CATEGORY%20{(10 * number + rank) % 300}" for rank in (1, 2))
        self.call("context", number, f"?bought={bought}&out_of_stock={gone}&blocked=CATEGORY%205")

    @task(1)
    def ask_for_a_stranger(self) -> None:
        """The list for somebody whom nobody knows."""
        self.call("stranger", TOLD["LISTS"])

    def call(self, name: str, number: int, context: str = "") -> None:
        """Ask for the list of the entity of that number."""
        entity = TOLD["FIRST"] + TOLD["STEP"] * number
        self.client.get(f"{os.environ['CALLED_PATH']}/{entity}{context}", name=name)
