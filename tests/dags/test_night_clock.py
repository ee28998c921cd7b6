"""One run for each business date, whatever the clocks do: the timetable is asked each hour, as a scheduler asks it."""

from datetime import UTC, date, datetime, timedelta

import pytest
from airflow.serialization.decoders import decode_timetable
from airflow.serialization.encoders import encode_timetable
from airflow.timetables import trigger
from airflow.timetables.base import TimeRestriction
from pendulum import instance

pytestmark = pytest.mark.fault("F15")


@pytest.mark.parametrize("odd", [date(2017, 3, 12), date(2017, 11, 5), date(2020, 2, 29), date(2016, 12, 31)], ids=str)
@pytest.mark.parametrize("dag_id", ["ingest", "deadline"])
def test_each_business_date_gets_one_run_over_odd_days_and_jumps_of_the_clock(read_dags, monkeypatch, dag_id, odd):
    timetable = decode_timetable(encode_timetable(read_dags().dags[dag_id].timetable))  # as the scheduler has it
    start = datetime(odd.year, odd.month, odd.day, tzinfo=UTC) - timedelta(days=3)
    restriction = TimeRestriction(earliest=instance(start), latest=None, catchup=False)
    hours = [start + timedelta(hours=hour) for hour in range(24 * 7)]
    hours = [now - timedelta(hours=back) for now in hours for back in (0, 1)]  # the clock is put back, each hour
    last, keys = None, []
    for now in hours:
        monkeypatch.setattr(trigger, "utcnow", lambda now=now: instance(now))
        due = timetable.next_dagrun_info_v2(last_dagrun_info=last, restriction=restriction)
        if due is not None and due.run_after <= now:
            keys.append(due.partition_key)
            last = due

    first = date.fromisoformat(keys[0])
    assert keys == [str(first + timedelta(days=number)) for number in range(len(keys))]
    assert first < odd < date.fromisoformat(keys[-1])
