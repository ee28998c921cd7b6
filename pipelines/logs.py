"""Structured logs: one record for each thing that happened, with the step, date and model that it belongs to."""

import logging
import sys
from typing import Any

import structlog

from pipelines.settings import Settings


def open_log(settings: Settings) -> Any:
    """The log of the steps: that of the Airflow task where one runs, else standard error."""
    if not structlog.is_configured():  # inside a task Airflow has done it, and its settings say in which form
        _configure(settings)
    return structlog.get_logger("nightjar")


def _configure(settings: Settings) -> None:
    """Write on standard error, also what libraries warn of: for a reader on a terminal, else as JSON."""
    is_for_people = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Any] = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    if not is_for_people:
        last = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str)]
    structlog.configure(
        processors=[*shared, *last],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    if logging.lastResort:
        tidy = structlog.stdlib.ProcessorFormatter.remove_processors_meta
        logging.lastResort.setFormatter(
            structlog.stdlib.ProcessorFormatter(processors=[tidy, *last], foreign_pre_chain=shared)
        )
