"""Runs Great Expectations on a frame and gives its verdicts as checks."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.checks import Check
from pipelines.errors import EngineFailure
from pipelines.pages import frame_page, write_page

if TYPE_CHECKING:
    import pandas as pd
    from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

_EXAMPLES = 3
_COUNTS = ("element_count", "unexpected_count", "unexpected_percent", "missing_count", "missing_percent")


@dataclass(frozen=True)
class Validation:
    """A check for each expectation, in their order, and the index labels of the rows that broke it.

    A check is called by the `rule_id` in the `meta` of its expectation, or else by its type and column. It
    blocks when the expectation's severity is critical, which is the default.
    """

    checks: tuple[Check, ...]
    failing_rows: Mapping[str, tuple[Hashable, ...]]


def validate(
    frame: "pd.DataFrame", expectations: "Sequence[Expectation]", *, where: str, docs: Path | None = None
) -> Validation:
    """The verdict of each expectation on the frame; `where` names the frame in errors.

    `docs` is the HTML file in which Great Expectations' rendering of the verdicts is kept, without any value of a row.

    Raises:
        EngineFailure: an expectation could not be evaluated, which says nothing about the data.
    """
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.enable_analytics(False)
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("frame")
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": frame})
    suite = gx.ExpectationSuite(name="suite", expectations=list(expectations))
    found = batch.validate(suite, result_format={"result_format": "COMPLETE"})
    by_rule = {_rule_id(result.expectation_config): result for result in found.results}
    rules = {_rule_id(expectation.configuration): expectation for expectation in expectations}
    for rule, result in by_rule.items():
        _require_evaluated(rule, result, where)
    validation = Validation(
        tuple(_as_check(rule, expectation, by_rule[rule]) for rule, expectation in rules.items()),
        {rule: tuple(by_rule[rule].result.get("unexpected_index_list") or ()) for rule in rules},
    )
    if docs:
        write_page(docs, frame_page(where, _render(found)))
    return validation


def _render(found: "ExpectationSuiteValidationResult") -> str:
    """Great Expectations' sections on the verdicts, with counts alone; `found` keeps nothing else."""
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaSectionView

    found.meta = {}
    for result in found.results:
        whole = result.result.keys() >= set(_COUNTS)  # the renderer takes all of them or none
        counts = {name: result.result[name] for name in _COUNTS if whole}
        observed = result.result.get("observed_value")
        result.result = counts | ({"observed_value": observed} if isinstance(observed, int | float) else {})
    *sections, _info = ValidationResultsPageRenderer(run_info_at_end=True).render(found).to_json_dict()["sections"]
    del sections[0]["content_blocks"][0]  # links to a page on the suite, which a site of one page has not
    view = DefaultJinjaSectionView()
    numbered = enumerate(sections, start=1)
    return "".join(view.render({"section": section, "section_loop": {"index": n}}) for n, section in numbered)


def _rule_id(configuration: "ExpectationConfiguration") -> str:
    named = (configuration.meta or {}).get("rule_id")
    if named:
        return str(named)
    column = configuration.kwargs.get("column")
    return f"{configuration.type}({column})" if column else str(configuration.type)


def _as_check(rule: str, expectation: "Expectation", result: "ExpectationValidationResult") -> Check:
    return Check(
        rule,
        bool(result.success),
        _observed(result.result),
        expectation.description or _limits(expectation.configuration.kwargs),
        is_blocking=expectation.severity == "critical",
    )


def _observed(result: Mapping[str, Any]) -> object:
    if not {"unexpected_count", "element_count"} <= result.keys():
        return result.get("observed_value", "as reported by success")
    count, of = result["unexpected_count"], result["element_count"]
    if not count:
        return f"0 of {of} rows"
    pairs = zip(result["partial_unexpected_index_list"], result["partial_unexpected_list"], strict=False)
    examples = ", ".join(f"{_plain(value)} at {index}" for index, value in list(pairs)[:_EXAMPLES])
    return f"{count} of {of} rows, such as {examples}"


def _limits(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in kwargs.items() if name not in ("column", "batch_id"))


def _require_evaluated(rule: str, result: "ExpectationValidationResult", where: str) -> None:
    reported = result.exception_info or {}
    nested = [reported] if "raised_exception" in reported else list(reported.values())
    for info in nested:
        if info.get("raised_exception"):
            raise EngineFailure(
                f"the expectation {rule} could not be evaluated",
                where=where,
                expected="a verdict on the data",
                found=info.get("exception_message"),
                remedy="the data may be fine: correct the expectation or the columns that it is given",
            )


def _plain(value: object) -> str:
    return " and ".join(map(str, value)) if isinstance(value, tuple) else str(value)
