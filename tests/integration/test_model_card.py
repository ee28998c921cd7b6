"""The model card tells what is stored, and a sample of it is worked out again from the rows."""

import json
import re
from datetime import date
from html.parser import HTMLParser

import lightgbm
import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from toy import USE_CASE

from pipelines import feature_store, registry, warehouse
from pipelines.bundle import FOLDER, MANIFEST
from pipelines.gate import judge
from pipelines.lineage import lineage_of
from pipelines.model import BINARY, RANKER, Reliability, booster_parameters
from pipelines.model_card import ABLATION_FILE, fairness_gaps, unreliable_ranges, write_card
from pipelines.training import train
from pipelines.training_set import load_snapshot, missed_positives
from pipelines.use_cases import load_use_cases

TRAINED = date(2017, 11, 12)
HOSTILE = "<script>alert(1)</script> | ![x](http://evil.example/x.png) [x](javascript:alert(1)) `\n# y"


class Page(HTMLParser):
    """Tables of a page as rows of texts, its text, and what it refers to."""

    def __init__(self, html):
        super().__init__()
        self.tables, self.text, self.tags, self.addresses, self.is_in_cell = [], "", set(), [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.is_in_cell = True

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self.is_in_cell = False

    def handle_data(self, data):
        self.text += data
        if self.is_in_cell:
            self.tables[-1][-1][-1] += data

    def table(self, heading):
        """Rows of the one table whose first heading or row has that text, by their first cell."""
        (found,) = [rows for rows in self.tables if heading in rows[0]]
        return {row[0]: dict(zip(found[0], row, strict=True)) for row in found[1:]}


@pytest.fixture(scope="module")
def home(year_copy):
    settings = year_copy(use_cases=["toy"])
    warehouse.create_tables(settings, list(load_use_cases(settings).values()))
    return settings


@pytest.fixture(scope="module")
def toy(home):
    return load_use_cases(home)[USE_CASE.name].model_copy(update={"data_notice": "Simulated; MIT licence."})


@pytest.fixture(scope="module")
def version(home, toy):
    return registry.get_version(home, toy, train(home, toy, TRAINED, "test").model_version)


@pytest.fixture(scope="module")
def unjudged(home, toy, version):
    report = write_card(home, toy, version.version, TRAINED, "test", with_ablation=False)
    return report, Page((home.home / report.page).read_text())


@pytest.fixture(scope="module")
def gate(home, toy, version, unjudged):
    return judge(home, toy, version.version, TRAINED, "test")


@pytest.fixture(scope="module")
def judged(home, toy, version, gate):
    report = write_card(home, toy, version.version, TRAINED, "test")
    return report, Page((home.home / report.page).read_text())


@pytest.fixture
def stored(home, toy, version):
    """Gives a file of the version's run, parsed."""
    return lambda name: json.loads(registry.read_file(home, toy, version, name))


@pytest.fixture
def rewrite(home, toy, version, judged, stored):
    """Writes the card again with files of the run replaced for the time of a test; gives the page."""
    client, replaced = registry.open_registry(home), {}

    def rewrite(use_case=toy, **files):
        for name, content in files.items():
            replaced.setdefault(name, stored(f"{name}.json"))
            client.log_text(version.mlflow_run_id, json.dumps(content), f"{name}.json")
        return (home.home / write_card(home, use_case, version.version, TRAINED, "again").page).read_text()

    yield rewrite
    for name, content in replaced.items():
        client.log_text(version.mlflow_run_id, json.dumps(content, indent=1), f"{name}.json")


@pytest.mark.slow
def test_a_version_that_nobody_judged_is_not_called_trustworthy(unjudged):
    report, page = unjudged

    assert report.trust == "not yet"
    assert "Not yet: the gate has not judged it." in page.text
    assert "no groups were judged" in page.text
    assert "It was not judged on rows of its own" in page.text
    assert "It was not made for this card: nightjar model card 1 --date 2017-11-12 does" in page.text


@pytest.mark.slow
def test_every_figure_of_a_candidate_is_the_stored_one(judged, stored):
    validation, table = stored(registry.VALIDATION_FILE), judged[1].table("log loss")

    assert len(table) == len(validation["quality"]) == 5
    for name, figures in validation["quality"].items():
        marks = {validation["chosen"]: " (chosen)", validation["best_rule"]: " (best rule)"}
        row = table[name + marks.get(name, "")]
        named = {"NDCG@3": "ndcg_at_3", "AUC": "auc", "calibration error": "ece", "log loss": "log_loss"}
        named |= {f"{figure}@3": f"{figure}_at_3" for figure in ("precision", "recall", "hit")}
        assert {shown: row[shown] for shown in named} == {
            shown: f"{figures[figure]:.4f}" if figure in figures else "–" for shown, figure in named.items()
        }


@pytest.mark.slow
def test_gate_and_data_are_told_as_they_are_stored(home, toy, version, judged, gate):
    report, page = judged

    assert report.trust == ("yes" if gate.is_passed else "no")
    checks = page.table("check of the gate")
    assert {name: (row["observed"], row["bound"]) for name, row in checks.items()} == {
        check.name: (str(check.observed), str(check.expected)) for check in gate.checks
    }
    ours, rule = page.table("it is better in NDCG by").values()
    assert ours["NDCG@3"] == f"{gate.quality['challenger']['ndcg_at_3']:.4f}"
    (gain,) = gate.gains.values()
    assert rule["it is better in NDCG by"] == f"{gain['difference']:+.4f}"
    assert rule["95 % interval"] == f"[{gain['low']:+.4f}, {gain['high']:+.4f}]"
    lineage = lineage_of(home, toy, version.version)
    assert [*page.table("snapshot")] == [str(one.features.as_of) for one in lineage.snapshots]
    for told in (lineage.training_set_sha256, lineage.code_version, "Simulated; MIT licence."):
        assert told in page.text


@pytest.mark.slow
def test_share_of_entries_that_come_true_and_a_slice_are_those_of_the_rows(home, toy, version, judged, gate):
    model, _ = registry.load(home, toy, version)
    store = feature_store.open_store(home, toy)
    hits, lists, lapsed, lapsed_true = 0, 0, 0, 0
    for day in gate.dates:
        snapshot = load_snapshot(home, toy, store, day, only_sampled=False)
        rows = snapshot.rows.to_pandas().assign(score=model.predict_matrix(snapshot.matrix, snapshot.entities, 1))
        visited = {*rows[rows.is_positive].household_id, *missed_positives(home, toy, day)["household_id"].to_pylist()}
        best = rows.sort_values(["score", "store_id"], ascending=[False, True]).groupby("household_id").head(3)
        hits += int(best[best.household_id.isin(visited)].is_positive.sum())
        lists += len(visited)
        is_lapsed = snapshot.matrix[:, toy.features.index("days_since_visit")] >= 28
        lapsed, lapsed_true = lapsed + int(is_lapsed.sum()), lapsed_true + int(snapshot.positive[is_lapsed].sum())

    text = re.sub(r"\s+", " ", judged[1].text)
    assert f"in the 7 days, {100 * hits / (3 * lists):.1f} come true" in text
    (row,) = judged[1].table("slice").values()
    assert (row["rows"], row["events"]) == (f"{lapsed:,}", f"{lapsed_true:,}")
    assert row["observed rate"] == f"{lapsed_true / lapsed:.4f}"


@pytest.mark.slow
def test_the_loss_of_a_group_of_features_is_found_by_training_without_it(home, toy, version, judged, stored):
    plan, store = toy.training, feature_store.open_store(home, toy)
    *older, newest = (one.features.as_of for one in lineage_of(home, toy, version.version).snapshots)
    known = [load_snapshot(home, toy, store, day, only_sampled=True) for day in older]
    fold = load_snapshot(home, toy, store, newest, only_sampled=False)
    positive = np.concatenate([one.positive for one in known]).astype(float)
    lists = [count for one in known for count in np.unique(one.rows["household_id"], return_counts=True)[1]]
    auc, map_ = {}, stored(f"{FOLDER}/{MANIFEST}")["calibration"]
    for left_out in ("none", "days_since_visit"):
        kept = [place for place, name in enumerate(toy.features) if name != left_out]
        matrix = np.concatenate([one.matrix for one in known])[:, kept]
        raw, total = {}, np.zeros(len(fold.matrix))
        for kind, weight, group in ((BINARY, 1, None), (RANKER, plan.ranker_weight, lists)):
            data = lightgbm.Dataset(matrix, positive, group=group)
            booster = lightgbm.train(booster_parameters(plan, kind, 1), data, plan.boosting_rounds)
            raw[kind] = booster.predict(fold.matrix[:, kept], raw_score=True)
            total = total + weight * raw[kind]
        lists_of_fold = pd.Series(fold.entities)
        within, level = (
            total - pd.Series(total).groupby(lists_of_fold).transform("mean"),
            pd.Series(raw[BINARY]).groupby(lists_of_fold).transform("mean"),
        )
        auc[left_out] = roc_auc_score(fold.positive, map_["slope"] * within + map_["level"] * level)

    assert stored(registry.VALIDATION_FILE)["chosen"] == "blend"
    table = judged[1].table("loss in AUC")
    assert [*table] == ["visits", "last visit"]
    assert table["last visit"]["loss in AUC"] == f"{auc['none'] - auc['days_since_visit']:+.4f}"


@pytest.mark.slow
def test_the_ablation_is_made_once_and_the_same_card_is_written_again(home, toy, version, judged):
    page = home.home / judged[0].page
    before = page.read_bytes()

    write_card(home, toy, version.version, TRAINED, "again")

    assert page.read_bytes() == before


@pytest.mark.slow
def test_mlflow_has_the_card_and_the_version_leads_to_it(home, toy, version, judged):
    client = registry.open_registry(home)

    found = client.get_model_version(toy.name, version.version)

    assert f"/runs/{version.mlflow_run_id}/artifacts/model_card.html" in found.description
    assert "**Can it be trusted?**" in found.description
    html = registry.read_file(home, toy, version, "model_card.html")
    assert html == (home.home / judged[0].page).read_text()
    assert [address[:22] for address in Page(html).addresses] == ["data:image/png;base64,"] * 3
    markdown = registry.read_file(home, toy, version, "model_card.md")
    for picture in re.findall(r"\]\((.+\.png)\)", markdown):
        assert registry.fetch(home, toy, version, picture).startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_refused_version_is_for_nobody_and_the_card_names_whom_it_fails(rewrite, stored):
    gate = stored(registry.GATE_FILE)
    (check,) = [check for check in gate["checks"] if check["name"] == "slice lapsed: AUC"]
    check["success"], gate["is_passed"], gate["reason"] = False, False, "slice lapsed: AUC: expected 1, observed 0"
    gate["slices"]["rare"] = {"rows": 20.0, "positives": 3.0}

    text = Page(rewrite(gate=gate)).text

    assert "No: the gate has refused it (slice lapsed: AUC: expected 1, observed 0)." in text
    assert "For nobody." in text
    assert "Not for lapsed: a check of the gate failed there." in text
    assert "Nothing can be said of rare: there were fewer than 200 events" in text


@pytest.mark.slow
@pytest.mark.attack("S9")
def test_names_from_elsewhere_are_text_and_nothing_else(rewrite, toy, stored):
    gate, ablation = stored(registry.GATE_FILE), stored(ABLATION_FILE)
    gate["slices"][HOSTILE] = gate["slices"]["lapsed"]
    gate["checks"][0]["observed"] = gate["checks"][0]["name"] = HOSTILE
    ablation[HOSTILE] = ablation["visits"]
    told = {"title": HOSTILE, "owner": HOSTILE, "question": HOSTILE, "excluded_items": (HOSTILE,)}

    html = rewrite(toy.model_copy(update={**told, "data_notice": HOSTILE}), gate=gate, ablation=ablation)

    page = Page(html)
    assert "<script" not in html
    assert not page.tags & {"script", "a", "iframe"}
    assert {address[:22] for address in page.addresses} == {"data:image/png;base64,"}
    shown = " ".join(HOSTILE.split())
    assert shown in page.table("slice")
    assert page.table("loss in AUC")[shown] | {"without": ""} == page.table("loss in AUC")["visits"] | {"without": ""}
    assert page.table("check of the gate")[shown]["observed"] == shown


def test_fairness_gaps_are_the_spread_over_the_values_of_a_dimension():
    def slice_(ndcg, mean_score, observed_rate):
        return {"ndcg": ndcg, "mean_score": mean_score, "observed_rate": observed_rate}

    slices = {
        "lapsed": slice_(0.1, 0.5, 0.1),  # a slice of its own, no value of a dimension
        "income under 35K": slice_(0.50, 0.08, 0.07),
        "income 75K and over": slice_(0.47, 0.07, 0.09),
        "income unknown": slice_(0.49, 0.08, 0.08),
        "tenure known": slice_(0.5, 0.08, 0.08),  # the only value
    }

    gaps = fairness_gaps(USE_CASE, slices)

    assert gaps == {"income": {"ndcg": pytest.approx(0.03), "rate": pytest.approx(0.03)}}


def test_neighbouring_ranges_that_nothing_vouches_for_are_told_as_one():
    assert unreliable_ranges(Reliability((True, False, False, True, False))) == ["20 to 60 %", "80 to 100 %"]
    assert unreliable_ranges(Reliability((True, True))) == []
