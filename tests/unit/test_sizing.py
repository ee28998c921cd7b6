"""What more households would need, worked out by hand; and the page shows what the figures give."""

import re

import pytest

from benchmarks import sizing
from benchmarks.night_sizes import MONITORING, Cost, read_figures
from pipelines.settings import PROJECT

DOCS = PROJECT / "docs"


def cost(cpu_s, rows=0):
    return Cost(wall_s=1, cpu_s=cpu_s, peak_mib=1, rows=rows)


@pytest.fixture
def found():
    """Two million candidates of 20 times 2,469 households; a night of one time has a tenth of a million."""
    large = {"sql": cost(50), "features": cost(56), "scores": cost(71, 2_000_000), "publish": cost(14)}
    large |= {part: cost(2) for part in MONITORING}
    return {1: {"scores": cost(1, 100_000)}, 20: large}


def test_what_a_million_candidates_cost_is_taken_from_the_largest_size(found):
    each, seconds = sizing.seconds_of(found)
    assert each == pytest.approx(2_000_000 / 49_380)
    assert (seconds["sql"], seconds["snapshot"], seconds["publish"]) == (25, 3, 7)
    assert seconds["scores"] == pytest.approx(113.5)  # 71 / 2 · 22.7 / 7.1
    assert seconds["monitor"] == 4
    assert seconds["ingest"] == pytest.approx(0.8425 / 1.0000, abs=1e-3)  # 307.5 s / 365 days, a million candidates


def test_workers_storage_and_price_of_ten_million_households_are_those_worked_out_by_hand(found):
    # 10 million · 40.502 = 405.02 million candidates; 25 + 113.5 s each million are 15.583 h, of 1.6 h a worker.
    needed = sizing.needs(found, 10)
    assert needed["candidates a night, million"] == pytest.approx(405.022, abs=1e-3)
    assert needed["partitions"] == 406
    assert needed["**workers** of 2 processors and 4 GiB for an hour"] == 10
    assert needed["rows that readers get, million"] == 100
    assert needed["lake, GB a night"] == pytest.approx(21.871, abs=1e-3)  # 405.022 million · 54 bytes
    assert needed["warehouse, GB a night"] == pytest.approx(31.3)
    assert needed["warehouse, TB with the default of days kept"] == pytest.approx(34.43)
    assert needed["its rows, million"] == pytest.approx(1.821123)  # of 300,000 in place of 100,000 candidates
    assert needed["a training on the default sample, CPU hours"] == pytest.approx(285.1 * 3 / 3600)
    assert sizing.needs(found, 1000)["its rows, million"] == needed["its rows, million"]
    alone = sum(value for name, value in needed.items() if name.startswith("in one process"))
    hours = needed["**a night**, CPU hours"]
    assert hours == pytest.approx(15.5829 + alone, abs=1e-3)
    assert needed["**a night**, €"] == pytest.approx(hours * 0.04 + 4 * (10 + alone) * 0.005)


def test_what_one_process_does_is_ordered_by_what_becomes_too_slow_first(found):
    last = sizing.as_markdown(found).split("\n\n")[1].splitlines()[2:]
    most = [float(line.split("|")[2].replace(",", "")) for line in last]
    assert most == sorted(most)
    assert f"| {sizing.ALONE['publish']} | 25.4 |" in last  # 7,200 s / 7 s / 40.502 candidates


def test_the_page_shows_what_the_recorded_figures_give():
    (shown,) = re.findall(r"<!-- begin sizing -->\n(.*?)\n<!-- end -->", (DOCS / "sizing.md").read_text(), re.DOTALL)
    assert shown == sizing.as_markdown(read_figures(DOCS / "performance.json"))
