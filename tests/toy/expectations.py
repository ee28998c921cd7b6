"""What must be true of the features and the published scores of the toy."""

from great_expectations import expectations as gxe
from great_expectations.expectations.expectation import Expectation


def features(table: str) -> list[Expectation]:
    """Expectations of one feature table's snapshot, by the table's name."""
    return {
        "features__toy_household_store": [
            gxe.ExpectCompoundColumnsToBeUnique(column_list=["household_id", "store_id"]),
            gxe.ExpectColumnValuesToBeBetween(column="days_since_visit", min_value=0, max_value=83),
        ],
        "features__toy_household": [gxe.ExpectColumnValuesToBeUnique(column="household_id")],
    }[table]


def published_scores() -> list[Expectation]:
    """Expectations of one date's rows for readers."""
    return [
        gxe.ExpectColumnValuesToNotBeNull(column="score"),
        gxe.ExpectColumnValuesToBeBetween(column="score", min_value=0, max_value=1),
        gxe.ExpectColumnPairValuesToBeEqual(column_A="rank", column_B="expected_rank"),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["household_id", "store_id"]),
    ]
