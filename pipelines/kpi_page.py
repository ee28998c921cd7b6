"""The page on KPIs: each with its definition in words, its owner, and SQL that an analyst can run."""

import re
from collections.abc import Mapping
from textwrap import dedent

from pipelines.kpi_views import VIEWS
from pipelines.use_case import Kpi, UseCase

PAGE = "docs/kpis.md"
_HEAD = """# KPIs

`kpi__daily` and `kpi__weekly` in the warehouse hold these figures ([columns](analysts.md)); a week ends on its Sunday.
`low` and `high` are the 95 % interval, by entity, where lists are judged; `reference` is what the lists of the simple
rule would have had in place of the published ones. `band_low` and `band_high` say what is usual: the median of the
same weekday in the 12 weeks before, and to both sides a distance that ordinary days hardly reach, at least 2 %: it
comes from the median absolute deviation, and was fitted to the first 24 weeks of 2017, which have no alert. In the 28
weeks after, two of 1,000 figures of ordinary days lay outside, both in November. `status` is `alert` outside of the
band, and only `info` in a known season.

Each figure can be computed again from the lake, and the SQL tried with changes. One command puts a period into a
DuckDB file, and any DuckDB reads it; the SQL below runs there as it stands. (`make docs` writes this page.)

```sh
nightjar kpis --from 2017-11-19 --to 2017-11-19 --database kpis.duckdb
```

```python
import duckdb

duckdb.connect("kpis.duckdb", read_only=True).sql("SELECT as_of, count(*) FROM lists GROUP BY as_of")
```

The file has the core tables as views over the lake, up to the last date, and these tables. Score dates are those whose
labels became final in the period: their window and the late window are over.

"""


def as_page(use_cases: Mapping[str, UseCase]) -> str:
    """The page, in Markdown."""
    views = ["| table | holds |", "|---|---|", *(f"| `{name}` | {told} |" for name, told in VIEWS.items())]
    parts = [_section(use_case) for use_case in use_cases.values() if use_case.kpis]
    return _HEAD + "\n".join(views) + "\n\n" + "\n\n".join(parts) + "\n"


def runnable(sql: str) -> str:
    """The SQL as it runs in the file of `nightjar kpis`, without parameters."""
    return re.sub(r"\$(first_date|last_date)\b", r"(SELECT \1 FROM period)", dedent(sql).strip())


def _section(use_case: UseCase) -> str:
    told = [f"## {use_case.title}", f"Simple rule: `{use_case.baseline_rule}`."]
    return "\n\n".join([*told, *(_one(use_case, kpi) for kpi in use_case.kpis)])


def _one(use_case: UseCase, kpi: Kpi) -> str:
    facts = [f"unit: {kpi.unit}", f"owner: {kpi.owner or use_case.owner}"]
    facts += ["by day and week" if kpi.is_daily else "by week"]
    facts += [] if kpi.has_band else ["no band"]
    facts += ["`reference`: with `rule_lists` in place of `lists`"] if kpi.rule_sql else []
    sql = f"```sql\n{runnable(kpi.value_sql)}\n```"
    facts += [f"interval: by {use_case.entity}, whose parts the inner query gives"] if kpi.entity_sql else []
    return f"### `{kpi.name}`\n{kpi.meaning}. ({'; '.join(facts)})\n\n{sql}"
