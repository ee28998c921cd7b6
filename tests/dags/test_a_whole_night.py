"""History, a champion and a night outside the demo leave no secret, no person, and nothing that others may read."""

import base64
import gzip
import os
import re
import secrets
import stat
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from toy import USE_CASE

from pipelines import tables, warehouse
from pipelines.landing import land
from pipelines.settings import PREFIX, Settings, load_settings

pytestmark = pytest.mark.slow
DATES = {"first_date": "2017-07-03", "train_date": "2017-11-12", "last_date": "2017-11-12"}
NIGHT = date(2017, 11, 13)
ELSEWHERE = ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "AIRFLOW_VAR_TOKEN", "OPENLINEAGE_API_KEY")


@pytest.fixture
def canaries(monkeypatch):
    """A secret of its own for everything that may be one; by variable."""
    of_ours = [name for name, field in Settings.model_fields.items() if field.annotation is SecretStr]
    assert {"pseudonym_key", "signing_key"} <= set(of_ours)
    drawn = {name: secrets.token_urlsafe(30) for name in (*(f"{PREFIX}{one.upper()}" for one in of_ours), *ELSEWHERE)}
    monkeypatch.delenv(f"{PREFIX}DEMO")
    for name, value in drawn.items():
        monkeypatch.setenv(name, value)
    password = secrets.token_urlsafe(30)
    monkeypatch.setenv("AIRFLOW_CONN_SHOP", f"postgres://somebody:{password}@shop.invalid/till")
    return {**drawn, "AIRFLOW_CONN_SHOP": password}


def readable(file):
    """What somebody can read in a file: its bytes, and those that it packs."""
    content = file.read_bytes()
    if file.suffix == ".gz":
        content += gzip.decompress(content)
    if file.suffix == ".parquet":
        rows = pq.read_table(file, partitioning=None)
        words = [name for name in rows.column_names if str(rows.schema.field(name).type) in ("string", "large_string")]
        content += repr(rows.schema).encode()
        content += "\n".join(str(value) for name in words for value in rows[name].unique().to_pylist()).encode()
    return content


def disguises(secret):
    """The secret as it is, and as it may have been written down."""
    plain = secret.encode()
    return [plain, base64.b64encode(plain).rstrip(b"="), plain.hex().encode()]


@pytest.mark.attack("S11")
@pytest.mark.attack("S16")
@pytest.mark.attack("S20")
def test_a_whole_night_leaves_no_secret_and_no_person_and_nothing_for_others(settings, run_dag, canaries, capfd):
    variables, others = {f"{PREFIX}USE_CASES": "toy"}, "category_propensity\\..*"
    land(load_settings().model_copy(update={"home": settings.home}), NIGHT, NIGHT)
    runs = [
        run_dag("bootstrap", variables=variables, mark_success=others, **DATES),
        *(run_dag(name, str(NIGHT), variables) for name in ("ingest", "score__toy_visits", "monitor__toy_visits")),
        run_dag("train__toy_visits", variables=variables, as_of="2017-11-12"),
    ]
    assert {task.state for run in runs for task in run.values()} <= {"success", "skipped"}

    logged = capfd.readouterr()
    airflow = Path(os.environ["AIRFLOW_HOME"])
    own = {airflow / name for name in ("keys.json", "passwords.json")}
    files = [
        file for root in (settings.home, airflow) for file in root.rglob("*") if file.is_file() and file not in own
    ]
    assert len(files) > 100
    places = {str(file): readable(file) for file in files} | {"the log": (logged.out + logged.err).encode()}
    assert b"step ended" in places["the log"], "the steps tell Airflow's log"
    assert not [
        (place, name)
        for name, secret in canaries.items()
        for form in disguises(secret)
        for place, content in places.items()
        if form in content
    ]

    with warehouse.open_warehouse(load_settings()) as connection:
        people = set(connection.scalars(sa.select(tables.scores_table(USE_CASE).c.household_id)))
    assert len(people) > 1000
    told = {place: content for place, content in places.items() if place == "the log" or place.endswith(".log")}
    for content in told.values():
        assert not {int(number) for number in re.findall(rb"-?\d{9,}", content)} & people
        plain = re.sub(rb"\x1b\[\d*m", b"", content)  # without the colours of a terminal
        assert not re.findall(rb"household(?:_id)?[^\w\n]{1,4}\d+", plain)

    shared = [
        place for place in (settings.home, *settings.home.rglob("*")) if stat.S_IMODE(place.stat().st_mode) & 0o077
    ]
    assert not shared
