"""What somebody may type into a trigger form: only a date written as YYYY-MM-DD gets through."""

import importlib

import pytest
from airflow.sdk.exceptions import ParamValidationError

from pipelines.errors import InvalidRunParameter

HOSTILE = [
    *("", " ", "today", "now()", "yesterday", "2017", "2017-11", "20171119", "2017-W46-7", "2017-13-01", "2017-02-30"),
    *("2017-11-19 ", " 2017-11-19", "2017-11-19\n", "2017-11-19T00:00:00", "2017-11-19Z", "+2017-11-19", "-2017-11-19"),
    *("2017/11/19", "19.11.2017", "11-19-2017", "2017-1-9", "2017-11-19,2017-11-20", "2017-11-19..2017-11-20"),
    *(
        "2017-11-19' OR '1'='1",
        "2017-11-19; DROP TABLE ops__ingest_log",
        "'; --",
        '"',
        "\\",
        "%00",
        "\x00",
        "2017-11-19\x00",
    ),
    *("../../etc/passwd", "date=2017-11-19/../..", "/", "C:\\", "file:///etc/passwd", "s3://elsewhere/2017-11-19"),
    *("$(id)", "`id`", "2017-11-19 && id", "| id", "{{ ds }}", "{{ var.value.secret }}", "{% raw %}", "${HOME}"),
    *("<script>alert(1)</script>", "２０１７-１１-１９", "٢٠١٧-١١-١٩", "9" * 10_000, "None", "null", "NaN"),
    *(0, 20171119, 3.5, True, [], ["2017-11-19"], {}, {"as_of": "2017-11-19"}),
]


@pytest.mark.attack("S10")
def test_hostile_dates_are_refused_by_every_form_and_by_every_task(read_dags):
    params = {(name, key): param for name, dag in read_dags().dags.items() for key, param in dag.params.items()}
    others = {"search_minutes", "model_version", "reason"}
    assert {key for _, key in params} == {"as_of", "first_date", "train_date", "last_date"} | others
    business_date = importlib.import_module("nightjar_dags").business_date

    for value in HOSTILE:
        for (_, key), param in params.items():
            if key not in others:
                with pytest.raises(ParamValidationError):
                    param.resolve(value)
        with pytest.raises(InvalidRunParameter):
            business_date(value, "a run")

    assert len(HOSTILE) >= 50


@pytest.mark.attack("S10")
def test_hostile_versions_and_minutes_are_refused(read_dags):
    dags = read_dags().dags
    version = dags["rollback__category_propensity"].params.get_param("model_version")
    minutes = dags["train__category_propensity"].params.get_param("search_minutes")
    for value in {repr(value): value for value in HOSTILE}.values():
        if not str(value).isdecimal() or isinstance(value, int) or len(value) > 9:
            with pytest.raises(ParamValidationError):
                version.resolve(value)
        if not (isinstance(value, int | float) and 0 <= value <= 30) or value is True:
            with pytest.raises(ParamValidationError):
                minutes.resolve(value)
