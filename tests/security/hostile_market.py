"""What must be true of the market with hostile names: nothing but what every table must hold."""

from great_expectations import expectations as gxe
from great_expectations.expectations.expectation import Expectation


def features(table: str) -> list[Expectation]:
    """Expectations of its only feature table."""
    return [gxe.ExpectCompoundColumnsToBeUnique(column_list=["household_id", "product_category"])]


def published_scores() -> list[Expectation]:
    """Expectations of its rows for readers."""
    return [gxe.ExpectColumnValuesToNotBeNull(column="product_category")]
