import great_expectations.expectations as gxe
import pandas as pd
import pytest

from pipelines.checks import Check
from pipelines.errors import EngineFailure
from pipelines.validation import validate

FRAME = pd.DataFrame({"score": [0.1, 1.5, None, -2.0], "rank": [1, 2, 2, 3]}, index=["a", "b", "c", "d"])


def test_each_rule_gives_a_check_and_the_rows_that_broke_it():
    validation = validate(
        FRAME,
        [
            gxe.ExpectColumnValuesToBeUnique(column="rank", meta={"rule_id": "rank_unique"}),
            gxe.ExpectColumnValuesToBeBetween(column="rank", min_value=1, description="ranks begin at 1"),
            gxe.ExpectColumnValuesToBeBetween(
                column="score", min_value=0, max_value=1, meta={"rule_id": "probability"}, severity="warning"
            ),
            gxe.ExpectTableRowCountToBeBetween(min_value=5, meta={"rule_id": "rows"}),
        ],
        where="a test",
    )

    unique, begin, probability, rows = validation.checks
    assert (unique.name, unique.success, unique.is_blocking) == ("rank_unique", False, True)
    assert begin == Check("expect_column_values_to_be_between(rank)", True, "0 of 4 rows", "ranks begin at 1")
    assert (probability.success, probability.is_blocking) == (False, False)
    assert probability.observed == "2 of 4 rows, such as 1.5 at b, -2.0 at d"
    assert (rows.success, rows.observed, rows.expected) == (False, 4, "min_value 5")
    assert validation.failing_rows == {
        "rank_unique": ("b", "c"),
        "expect_column_values_to_be_between(rank)": (),
        "probability": ("b", "d"),
        "rows": (),
    }


def test_a_pair_of_values_is_told_as_two_numbers():
    order = gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="before", column_B="score", or_equal=True)

    [check] = validate(pd.DataFrame({"before": [0.5, 0.25], "score": [0.5, 0.75]}), [order], where="a test").checks

    assert check.observed == "1 of 2 rows, such as 0.25 and 0.75 at 1"


def test_more_failing_rows_than_the_examples_are_all_given():
    frame = pd.DataFrame({"score": [-1.0] * 500 + [0.5]})

    validation = validate(frame, [gxe.ExpectColumnValuesToBeBetween(column="score", min_value=0)], where="a test")

    (rows,) = validation.failing_rows.values()
    assert rows == tuple(range(500))


@pytest.mark.parametrize(
    "expectation",
    [
        gxe.ExpectColumnValuesToBeBetween(column="absent", min_value=0),
        gxe.ExpectColumnMeanToBeBetween(column="name", min_value=0),
    ],
    ids=["column absent", "mean of text"],
)
def test_a_rule_that_cannot_be_evaluated_is_no_verdict_on_the_data(expectation):
    frame = FRAME.assign(name=["x", "y", "z", "w"])

    with pytest.raises(EngineFailure) as caught:
        validate(frame, [gxe.ExpectTableRowCountToEqual(value=4), expectation], where="a test")

    assert caught.value.where == "a test"
    assert caught.value.found


def test_validation_leaves_no_file_and_draws_no_progress_bar(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    validate(FRAME, [gxe.ExpectColumnValuesToBeUnique(column="rank")], where="a test")

    assert list(tmp_path.rglob("*")) == []
    assert "Calculating Metrics" not in "".join(capfd.readouterr())


def test_the_docs_tell_every_verdict_with_counts_and_no_value_of_a_row(tmp_path):
    frame = pd.DataFrame({"household_id": [4711, 4712, 4711], "name": ["Ada", "Bob", "Bob"], "score": [0.1, 1.5, -7.5]})
    page = tmp_path / "data_docs" / "scores" / "2017-11-19.html"

    validation = validate(
        frame,
        [
            gxe.ExpectColumnValuesToBeUnique(column="household_id"),
            gxe.ExpectColumnDistinctValuesToBeInSet(column="name", value_set=["Eve"]),
            gxe.ExpectColumnValuesToBeBetween(column="score", min_value=0, description="no score is below 0"),
            gxe.ExpectTableRowCountToBeBetween(min_value=1),
        ],
        where="scores, <b>score_date</b> 2017-11-19",
        docs=page,
    )

    html = page.read_text()
    assert "<h1>scores, &lt;b&gt;score_date&lt;/b&gt; 2017-11-19</h1>" in html
    assert html.count("fa-times text-danger") == 3
    assert html.count("fa-check-circle text-success") == 1
    assert "no score is below 0" in html
    assert "2 unexpected values found" in html  # both lines of household 4711
    assert "1 unexpected values found" in html  # the score of -7.5
    for secret in ("4711", "4712", "Ada", "Bob", "-7.5", "http", "<script"):
        assert secret not in html
    assert validation.failing_rows["expect_column_values_to_be_between(score)"] == (2,)
    assert [file.name for file in page.parent.iterdir()] == ["2017-11-19.html"]


def test_a_second_validation_replaces_the_page_of_the_first(tmp_path):
    page = tmp_path / "page.html"
    for rows in (FRAME.head(2), FRAME):
        validate(rows, [gxe.ExpectTableRowCountToEqual(value=4)], where="a test", docs=page)

    assert "fa-check-circle text-success" in page.read_text()
    assert "fa-times" not in page.read_text().split("</style>")[1]
