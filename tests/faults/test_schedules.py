"""Whatever is delivered and ingested in whatever order: the same tables in the end, no row lost, none doubled."""

import pickle
import random
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deliveries import a_line, after, as_csv, as_parquet, put, put_day, require_sound, tables_of
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipelines import validation
from pipelines.ingest import ingest
from pipelines.settings import Settings

DAYS = (0, 1, 2, 3, 4)  # the last is beyond the late window of the first
GOOD = 1000
BAD = ({"quantity": -1}, {"store_id": None}, {"sales_value": 1e12})
RANGES = ((0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (0, 1), (1, 2), (3, 4), (2, 4), (0, 3))
LAST = (((0, 4),), ((0, 4),), ((0, 2), (3, 4)), ((0, 0), (1, 4)), ((0, 3), (4, 4)))


@dataclass(frozen=True)
class World:
    """By day, the versions of its drop, each a tuple of files: name, form, and positions of lines in `lines`."""

    lines: tuple[dict[str, Any], ...]
    drops: dict[int, list[dict[str, list[int]]]]


@pytest.fixture(autouse=True)
def judged_once(monkeypatch):
    """Great Expectations judges each frame once in a session: its verdict is a function of the frame."""
    judge = validation.validate

    def remembered(frame, expectations, *, where, docs=None):
        key = pickle.dumps((frame.to_dict("split"), [type(rule).__name__ for rule in expectations]))
        if key not in VERDICTS:
            VERDICTS[key] = judge(frame, expectations, where=where)
        return VERDICTS[key]

    monkeypatch.setattr(validation, "validate", remembered)


VERDICTS: dict[bytes, Any] = {}


def a_world(chance: random.Random) -> World:
    """Five drops, some with an earlier version, of good, bad, late, repeated and contradicting lines."""
    lines: list[dict[str, Any]] = []
    drops: dict[int, list[dict[str, list[int]]]] = {}
    for day in DAYS:
        lines.append(a_line(GOOD + day, after(day)))  # one line that is good beyond doubt
        own = len(lines) - 1
        for number in range(chance.randint(1, 3)):
            lines.append(_a_random_line(chance, day, 10 * day + number, lines))
        drops[day] = [_a_drop(chance, own, len(lines), drops) for _ in range(chance.choice((1, 1, 2)))]
    return World(tuple(lines), drops)


def _a_random_line(chance, day, basket, lines):
    kind = chance.choice(("good", "good", "bad", "late", "copy", "other"))
    if kind == "bad":
        return a_line(basket, after(day), **chance.choice(BAD))
    if kind == "late":  # for a date that is ingested, or so old that it is no longer wanted
        return a_line(basket, after(chance.choice([-9, *(earlier for earlier in DAYS if earlier < day)])))
    if kind == "copy":
        return chance.choice(lines)
    if kind == "other":  # says otherwise of a line that is there, but not of the one that is good beyond doubt
        others = [line for line in lines if line["basket_id"] < GOOD] or [a_line(basket, after(day))]
        return {**chance.choice(others), "quantity": 2}
    return a_line(basket, after(day))


def _a_drop(chance, own, end, drops):
    """Files by name: the day's own lines in one or two files, and perhaps a copy of a file of an earlier drop."""
    rest = [number for number in range(own + 1, end) if chance.random() < 0.8]
    cut = chance.randint(0, len(rest))
    files = {"a.parquet": [own, *rest[:cut]]}
    if rest[cut:]:
        files[chance.choice(("b.parquet", "b.csv"))] = rest[cut:]
    earlier = [file for versions in drops.values() for file in versions[-1].items()]
    if earlier and chance.random() < 0.3:
        name, copied = chance.choice(earlier)
        files[f"copy_{name}"] = copied
    return files


def a_schedule(chance: random.Random, world: World) -> list[tuple[Any, ...]]:
    """Deliveries and ingests in any order; at the end each date is ingested once more, when all is delivered."""
    deliveries = [(day, version) for day in DAYS for version in range(len(world.drops[day]))]
    chance.shuffle(deliveries)
    deliveries.sort(key=lambda delivery: delivery[1])  # a correction comes after what it corrects
    steps: list[tuple[Any, ...]] = []
    here: set[int] = set()
    for day, version in deliveries:
        steps.append(("deliver", day, version))
        here.add(day)
        possible = [span for span in RANGES if set(range(span[0], span[1] + 1)) <= here]
        if chance.random() < 0.2:
            steps.append(("ingest", *chance.choice(possible)))
    last = chance.choice(LAST)
    return [*steps, *(("ingest", *span) for span in chance.sample(last, len(last)))]


def new_home(home: Path) -> Settings:
    settings = Settings(home=home, ingest_chunk_days=31)
    for day in DAYS:
        put_day(settings, after(day))
    for day in DAYS:
        shutil.rmtree(settings.landing.folder / "transactions" / f"date={after(day)}")
    return settings


def deliver(settings: Settings, world: World, day: int, version: int) -> None:
    files = {}
    for name, numbers in world.drops[day][version].items():
        rows = [world.lines[number] for number in numbers]
        files[name] = as_csv(rows) if name.endswith("csv") else as_parquet(rows)
    counts = {name: len(numbers) for name, numbers in world.drops[day][version].items()}
    put(settings, after(day), files, rows=counts)


def follow(settings: Settings, world: World, steps: list[tuple[Any, ...]]) -> dict[str, Any]:
    """The tables at the end of a schedule."""
    for number, (step, *arguments) in enumerate(steps):
        if step == "deliver":
            deliver(settings, world, *arguments)
        else:
            ingest(settings, after(arguments[0]), after(arguments[1]), f"run {number}")
    return tables_of(settings)


def in_canonical_order(home: Path, world: World) -> dict[str, Any]:
    """The tables when all is delivered in its last version first, and ingested once by date."""
    finals = [("deliver", day, len(world.drops[day]) - 1) for day in DAYS]
    return follow(new_home(home), world, [*finals, ("ingest", 0, 4)])


def require_nothing_lost(world: World, found: dict[str, Any]) -> None:
    """Each delivered line that is new is in core or in quarantine, once: counted here from the deliveries alone."""
    files = [[world.lines[n] for n in numbers] for day in DAYS for numbers in world.drops[day][-1].values()]
    lines = [str(line) for file in files for line in file]
    told = Counter()
    for row in found["reconciliation"]:
        told.update({name: row[f"rows_{name}"] for name in ("delivered", "kept", "quarantined", "duplicate")})
    assert told["delivered"] == len(lines) == told["kept"] + told["quarantined"] + told["duplicate"]
    assert told["kept"] == len(found["core__transactions"])
    assert told["quarantined"] == len(found["quarantine__transactions"])
    # A line that came too late is quarantined in each drop that brings it; any other counts once, whoever brings it.
    assert len(set(lines)) <= told["kept"] + told["quarantined"] <= len(lines)


@pytest.mark.fault("F16")
@pytest.mark.parametrize("part", range(8))
def test_two_hundred_random_schedules_of_deliveries_lose_no_row_and_double_none(tmp_path, part, is_thorough):
    world = a_world(random.Random(part % 4))  # what was judged once is remembered
    expected = in_canonical_order(tmp_path / "canonical", world)
    require_nothing_lost(world, expected)
    for number in range(25 if is_thorough else 5):
        home = new_home(tmp_path / str(number))
        steps = a_schedule(random.Random(1000 * part + number), world)

        found = follow(home, world, steps)

        assert found == expected, (number, steps)
        require_sound(home)


@pytest.mark.fault("F16")
@given(st.randoms(use_true_random=False))
@hypothesis_settings(max_examples=6, deadline=None, derandomize=True, database=None,
                     phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip
def test_any_mixture_of_copies_corrections_late_and_bad_lines_in_any_order_ends_in_the_same_tables(
    tmp_path_factory, chance
):
    folder = tmp_path_factory.mktemp("any")
    world = a_world(chance)
    home = new_home(folder / "any order")

    found = follow(home, world, a_schedule(chance, world))

    assert found == in_canonical_order(folder / "canonical", world)
    require_nothing_lost(world, found)
    require_sound(home)
