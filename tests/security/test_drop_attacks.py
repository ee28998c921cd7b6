"""Files, names and parameters that somebody chose in order to get in."""

import csv
import gzip
import io
import json
import resource

import pytest
import sqlalchemy as sa
from deliveries import (
    DAY,
    SQL,
    a_line,
    after,
    as_csv,
    baskets,
    core,
    in_process,
    ingest_at,
    put,
    put_day,
    quarantined,
    redeem_nothing,
    require_sound,
    rows_of,
    tables_of,
)

from pipelines import tables, warehouse
from pipelines.contracts import DROPS
from pipelines.errors import BadInput, UnreadableFile, WrongManifest
from pipelines.ingest import ingest
from pipelines.settings import Settings


@pytest.mark.attack("S9")
def test_sql_in_names_of_files_products_and_folders_is_nothing_but_text(tmp_path, settings):
    home = tmp_path / "it's; DROP TABLE x --" / "var"
    settings = settings.model_copy(update={"home": home})
    put(settings, after(-40), {"p.csv": _products(SQL)}, name="products", rows={"p.csv": 1})
    put(settings, DAY, {"part-0.parquet": []}, name="redemptions")
    put(settings, DAY, {"part--0.parquet": [a_line(1)], "a.csv": [a_line(2)], "b.csv.gz": [a_line(3, quantity=-1)]})

    ingest(settings, after(0), DAY, SQL)

    assert (baskets(settings), quarantined(settings)) == ([1, 2], [(3, "quantity_not_negative")])
    ingest(settings, DAY, DAY, SQL)
    require_sound(settings)
    with warehouse.open_warehouse(settings) as connection:
        assert set(connection.scalars(sa.select(tables.INGEST_LOG.c.run_id))) == {SQL}


def _products(category):
    text = io.StringIO()
    writer = csv.DictWriter(text, DROPS["products"].schema.names)
    writer.writeheader()
    writer.writerow({"product_id": 10, "product_category": category})
    return text.getvalue().encode()


@pytest.mark.attack("S9")
@pytest.mark.parametrize("rule", [SQL, "' OR 1=1 --", "%", ""])
def test_sql_in_a_parameter_of_quarantine_matches_no_row(settings, rule):
    from pipelines import quarantine
    from pipelines.errors import NothingQuarantined

    put_day(settings, DAY, a_line(1), a_line(2, quantity=-1))
    ingest(settings, DAY, DAY, "r")
    before = tables_of(settings)

    for attempt in (
        lambda: quarantine.count_rows(settings, DAY, DAY, rule),
        lambda: quarantine.read_rows(settings, DAY, DAY, rule),
        lambda: quarantine.replay(settings, DAY, rule, "r"),
        lambda: quarantine.drop(settings, DAY, rule, SQL, "r"),
    ):
        with pytest.raises(NothingQuarantined):
            attempt()
    assert tables_of(settings) == before


@pytest.mark.attack("S19")
@pytest.mark.parametrize("what", ["file", "folder", "manifest"])
def test_a_link_out_of_landing_is_not_followed(settings, tmp_path, what):
    folder = put_day(settings, DAY, a_line(1))
    target = folder if what == "folder" else folder / {"file": "part-0.parquet", "manifest": "manifest.json"}[what]
    outside = tmp_path / "outside"
    target.rename(outside)
    target.symlink_to(outside)

    with pytest.raises(BadInput):
        ingest(settings, DAY, DAY, "r")

    assert rows_of(settings, "core__transactions") == []


@pytest.mark.attack("S19")
@pytest.mark.parametrize("name", ["../part-0.parquet", "/etc/passwd.csv", "a/b.parquet", "..parquet", ".x.csv",
                                  "part-0.exe", "part-0.parquet.gz", "manifest.json"])  # fmt: skip
def test_a_manifest_names_no_file_but_those_beside_it(settings, name):
    folder = put_day(settings, DAY, a_line(1))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][0]["name"] = name
    (folder / "manifest.json").write_text(json.dumps(manifest))

    with pytest.raises(WrongManifest):
        ingest(settings, DAY, DAY, "r")


def peak_mib(home):
    with warehouse.open_warehouse(Settings(home=home)) as connection:
        return connection.scalar(sa.select(sa.func.max(tables.RUN_COSTS.c.peak_memory_mib)))


def ingest_in_bounded_memory(home, most_mib):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        ingest_at(home, DAY, DAY)
    finally:
        grown = peak_mib(home) - before / 1024  # the process's own figure begins anew with each step
        if grown > most_mib:
            raise MemoryError(f"{grown:.0f} MiB")


BOMBS = {
    "many rows": lambda: _packed(as_csv([]), as_csv([a_line(1)]).split(b"\n")[1] + b"\n", 4_000_000),
    "one row": lambda: _packed(as_csv([]), b"1", 300_000_000),
    "one header": lambda: _packed(b"household_id", b"x", 300_000_000),
}


def _packed(head, part, times):
    """About 300 MB of text, packed to less than 2 MB."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=6, mtime=0) as file:
        file.write(head)
        step = max(1, 1_000_000 // len(part))
        for _ in range(times // step):
            file.write(part * step)
    return packed.getvalue()


@pytest.mark.attack("S19")
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_file_that_unpacks_without_end_is_refused_within_bounded_memory(settings, bomb):
    content = BOMBS[bomb]()
    assert len(content) < 2_000_000
    redeem_nothing(settings, DAY)
    put(settings, DAY, {"part-0.csv.gz": content}, rows={"part-0.csv.gz": 3})

    code, said = in_process(ingest_in_bounded_memory, settings.home, 400)

    assert code == 1
    assert said.startswith(("WrongManifest", "UnreadableFile", "MissingColumn")), said[:500]
    assert len(said) < 20_000


@pytest.mark.attack("S19")
def test_a_row_of_a_megabyte_goes_into_quarantine_and_a_longer_one_is_refused(settings):
    redeem_nothing(settings, DAY)
    put(settings, DAY, {"part-0.csv": [a_line(1), a_line(2, store_id="x" * 3_000_000)]})
    ingest(settings, DAY, DAY, "r")
    assert (baskets(settings), quarantined(settings)) == ([1], [("2", "values_readable")])

    put(settings, DAY, {"part-0.csv": [a_line(1), a_line(2, store_id="x" * 5_000_000)]})
    with pytest.raises(UnreadableFile) as caught:
        ingest(settings, DAY, DAY, "r")

    assert len(str(caught.value)) < 2000
    assert len(core(settings)) == 1
