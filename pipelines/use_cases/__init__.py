"""The use cases that Nightjar runs; a new one is a folder here and a line in USE_CASES."""

import difflib
import importlib

from pydantic import ValidationError

from pipelines.errors import InvalidUseCase, UnknownUseCase
from pipelines.settings import Settings
from pipelines.use_case import UseCase

USE_CASES = ("pipelines.use_cases.category_propensity",)


def load_use_cases(settings: Settings) -> dict[str, UseCase]:
    """Every registered use case by name, ours first, then those of the setting `use_cases`.

    Raises:
        InvalidUseCase: a module cannot be imported, holds no USE_CASE, or two share a name.
    """
    found: dict[str, UseCase] = {}
    for module in (*USE_CASES, *settings.use_cases):
        use_case = _load(module)
        if use_case.name in found:
            raise InvalidUseCase(
                "two use cases have one name",
                where=module,
                expected="a name of its own",
                found=use_case.name,
                remedy="rename one of them",
            )
        found[use_case.name] = use_case
    return found


def get_use_case(name: str, settings: Settings) -> UseCase:
    """The use case of that name.

    Raises:
        UnknownUseCase: none has it.
    """
    known = load_use_cases(settings)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        raise UnknownUseCase(
            "no such use case",
            where=f"use case {name!r}",
            expected=f"did you mean {close[0]}?" if close else f"one of {', '.join(known)}",
            found=name,
            remedy="correct the name, or add its module to USE_CASES or NIGHTJAR_USE_CASES",
        )
    return known[name]


def late_window_days(settings: Settings) -> int:
    """How many days after its business date a line still counts: the longest that a use case asks for."""
    return max((use_case.late_window_days for use_case in load_use_cases(settings).values()), default=0)


def _load(module: str) -> UseCase:
    try:
        use_case = importlib.import_module(module).USE_CASE
    except (ImportError, AttributeError, ValidationError) as error:
        raise InvalidUseCase(
            "the use case cannot be loaded",
            where=f"module {module}",
            expected="an importable module with a valid USE_CASE",
            found=error,
            remedy="correct the module or take it out of NIGHTJAR_USE_CASES",
        ) from error
    if not isinstance(use_case, UseCase):
        raise InvalidUseCase(
            "USE_CASE is not a UseCase",
            where=f"module {module}",
            expected="an instance of pipelines.use_case.UseCase",
            found=type(use_case).__name__,
            remedy="define USE_CASE = UseCase(…)",
        )
    return use_case
