"""The page of compared runs says what the analysis says, labels the runs by what differs, and hides nothing."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pages import Page, changed_run, section, with_edges

from relscope.analysis import MEASURES, Estimate, MechanismSimilarity, mechanism_similarity
from relscope.errors import InputError
from relscope.report import SimilaritySummary, build_similarity_report, views, words
from relscope.report.similarity_contents import Mechanisms, compare_runs
from relscope.report.similarity_findings import findings, way
from relscope.report.similarity_page import notices
from relscope.report.similarity_runs import read_runs, run_labels
from relscope.report.similarity_views import site_scatter
from relscope.results import open_run
from synthetic import write_synthetic_run
from synthetic_comparison import write_comparison

REGIONS = ("query", "document", "last", "all")
COMPONENTS = ("attn_out", "mlp_out", "z")
EDGES_OF_BOTH = ("query&lt;-document", "last&lt;-query")
N = 50
"""Resamples and relabellings: enough to see whose numbers the page shows."""


def identity_with(run: Path, **fields: dict[str, Any]) -> dict[str, Any]:
    """The identity of a run, with some fields of its entries replaced."""
    identity = open_run(run).manifest.identity
    return {"identity": {**identity, **{name: {**identity[name], **entry} for name, entry in fields.items()}}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The same model and data with two prompts (of other noise), and a model of another shape."""
    folder = tmp_path_factory.mktemp("runs")
    options: dict[str, Any] = {"regions": REGIONS, "components": COMPONENTS}
    first = write_synthetic_run(folder / "first", n_layers=5, n_heads=3, **options)
    source = write_synthetic_run(folder / "source", n_layers=5, n_heads=3, seed=1, **options)
    second = changed_run(source, folder / "second", **identity_with(first, prompt={"order": "idq"}))
    deeper = write_synthetic_run(folder / "source of deeper", n_layers=9, n_heads=4, seed=2, **options)
    named = identity_with(deeper, config={"model": "org/deep <er>"}, model={"fingerprint": "3" * 64})
    return [first, second, changed_run(deeper, folder / "deeper", **named)]


@pytest.fixture(scope="module")
def built(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> SimilaritySummary:
    return build_similarity_report(runs, tmp_path_factory.mktemp("out") / "similarity", N)


@pytest.fixture(scope="module")
def page(built: SimilaritySummary) -> Page:
    return Page.read(built.report)


@pytest.fixture(scope="module")
def mechanisms(runs: list[Path]) -> Mechanisms:
    return compare_runs(read_runs(runs), N)


def test_runs_are_labelled_by_what_differs(built: SimilaritySummary) -> None:
    assert built.runs == ("A (<model>, dqi, seed 0)", "B (<model>, idq, seed 0)", "C (deep <er>, dqi, seed 2)")


def test_runs_that_nothing_tells_apart_go_by_their_folders(runs: list[Path]) -> None:
    run = open_run(runs[0])
    labels = run_labels([run.manifest] * 2, [run.rows()] * 2, [Path("runs/mine"), Path("runs/yours")])
    assert labels == ["mine", "yours"]


def test_a_label_counts_the_pairs_that_were_patched(runs: list[Path]) -> None:
    run = open_run(runs[0])
    rows = run.rows()
    three = rows[(rows["experiment"] == "judge") | rows["pair_id"].isin(["q0:0", "q1:0", "q2:0"])]
    labels = run_labels([run.manifest] * 2, [rows, three], [Path("runs/all"), Path("runs/three")])
    assert labels == ["12 patched pairs", "3 patched pairs"]  # 14 were judged


def test_the_table_is_that_of_the_analysis(built: SimilaritySummary, runs: list[Path]) -> None:
    table = pd.read_csv(built.report.parent / "similarity.csv")
    one, other = (run.effects() for run in read_runs(runs[:2]))
    found, _ = mechanism_similarity(one, other, n_resamples=N)
    here = table[(table["run_one"] == "A") & (table["run_other"] == "B")]
    assert len(here) == len(found) * len(MEASURES)
    for similarity in found:
        rows = here[
            (here["component"] == similarity.matched.component)
            & (here["places"] == " ".join(similarity.matched.places))
        ].set_index("measure")
        for measured in similarity.measures:
            row = rows.loc[measured.measure]
            expected = [*measured.ceilings, measured.value.value, measured.value.low, measured.chance.mean]
            shown = row[["ceiling_one", "ceiling_other", "value", "low", "by_chance"]].to_numpy(dtype=float)
            np.testing.assert_allclose(shown, expected, rtol=1e-12)
            assert row["n_sites"] == similarity.n_sites


def test_the_page_the_csv_inside_and_the_json_hold_the_same(built: SimilaritySummary, page: Page) -> None:
    text = (built.report.parent / "similarity.csv").read_text()
    stored = json.loads((built.report.parent / "similarity.json").read_text())
    rows = list(csv.DictReader(io.StringIO(text)))
    inside = gzip.decompress(base64.b64decode(page.scripts["file-similarity"])).decode()
    assert len(rows) == len(stored["similarities"]) == len(list(csv.DictReader(io.StringIO(inside))))
    for row, entry in zip(rows, stored["similarities"], strict=True):
        assert (row["run_one"], row["measure"], row["places"]) == (entry["run_one"], entry["measure"], entry["places"])
        assert (float(row["value"]) if row["value"] else None) == entry["value"]
    assert [run["letter"] for run in stored["runs"]] == ["A", "B", "C"]
    assert stored["settings"]["rbo_p"] == 0.9


def test_each_cell_shows_value_interval_chance_and_both_ceilings(page: Page, mechanisms: Mechanisms) -> None:
    pair = mechanisms.pairs[0]
    heads = next(one for one in pair.found if one.matched.component == "z" and one.matched.together)
    rbo = heads.of("rbo")
    row = section(page.html, "measures").partition("heads (z) over query, document and last")[2].partition("</td>")[0]
    assert rbo.in_layers is not None
    for shown in (
        f"<strong>{words.number(rbo.value.value)}</strong>",
        words.interval(rbo.value.low, rbo.value.high),
        f"chance {words.number(rbo.chance.mean)}, p",
        f"in layers {words.number(rbo.in_layers.mean)}, p",
        f"ceiling {words.number(rbo.ceilings[0])}, {words.number(rbo.ceilings[1])}",
    ):
        assert shown in row


def test_findings_say_how_far_from_chance_to_the_ceiling_it_is(mechanisms: Mechanisms) -> None:
    said = findings(mechanisms)
    pair = mechanisms.pairs[0]
    first = pair.headline[0]
    rbo = first.of("rbo")
    assert said[0].title.startswith("A and B, attn_out over query, document and last: ")
    assert f"RBO is {words.number(rbo.value.value)} [" in said[0].text
    assert len([one for one in said if "attention" not in one.title]) == 9
    assert sum(len(pair.headline) for pair in mechanisms.pairs) == 9
    by_hand = (rbo.value.value - rbo.chance.mean) / (min(rbo.ceilings) - rbo.chance.mean)
    assert way(rbo) == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("of_attention", "of_mlp", "said"),
    [
        (Estimate(0.9, 0.8, 1.0), Estimate(0.5, 0.4, 0.7), "RBO is higher for attention than for the MLPs"),
        (Estimate(0.5, 0.4, 0.7), Estimate(0.9, 0.8, 1.0), "RBO is higher for the MLPs than for attention"),
        (Estimate(0.9, 0.6, 1.0), Estimate(0.5, 0.4, 0.7), "RBO of attention and of the MLPs cannot be told apart"),
    ],
)
def test_rbo_of_attention_is_said_to_be_higher_where_the_intervals_lie_apart(
    mechanisms: Mechanisms, of_attention: Estimate, of_mlp: Estimate, said: str
) -> None:
    def with_rbo(found: MechanismSimilarity) -> MechanismSimilarity:
        value = of_attention if found.matched.component == "attn_out" else of_mlp
        measures = tuple(replace(one, value=value) if one.measure == "rbo" else one for one in found.measures)
        return replace(found, measures=measures)

    pair = replace(mechanisms.pairs[0], found=tuple(map(with_rbo, mechanisms.pairs[0].found)))
    (finding,) = [one for one in findings(replace(mechanisms, pairs=(pair,))) if "MLPs" in one.title]
    assert said in finding.title
    assert f"{words.number(of_attention.value)} [" in finding.text


def test_maps_of_all_runs_share_one_scale_and_their_rows(page: Page, runs: list[Path]) -> None:
    maps = page.data["maps"]
    assert len(maps) == 3 * (2 + len(REGIONS))
    for kind in ("flow", "heads"):
        of_kind = [m for m in maps if m["kind"] == kind]
        assert len({m["limits"]["ie"] for m in of_kind}) == 1
        largest = max(abs(v) for m in of_kind for row in m["cells"]["ie"] for v in row if v is not None)
        assert largest <= of_kind[0]["limits"]["ie"]
    of_attention = [m for m in maps if m["name"] == "attn_out"]
    assert [m["panel"] for m in of_attention] == ["A", "B", "C"]
    assert [len(m["layers"]) for m in of_attention] == [5, 5, 9]
    # pointing at a square shows the runs of the same shape
    assert of_attention[0]["family"] == [m["id"] for m in of_attention[:2]]
    heads = [m for m in maps if m["kind"] == "heads" and m["name"] == "last"]
    assert [m["rows"] for m in heads] == [["0", "1", "2", "3"]] * 3
    assert all(value is None for value in heads[0]["cells"]["effect"][3])  # the fourth head, which only C has


@pytest.fixture(scope="module")
def of_edges(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, list[Path]]:
    """The page of the first two runs with edges, some of which only one of them has; and the runs."""
    folder = tmp_path_factory.mktemp("edges")
    edges = {
        "one": ["last<-query", "query<-document", "query<-instruction"],
        "other": ["query<-document", "last<-query"],
    }
    measured = [
        changed_run(run, folder / name, lambda rows, name=name: with_edges(rows, edges[name], ("pattern", "scores")))
        for run, name in zip(runs, edges, strict=False)
    ]
    return Page.read(build_similarity_report(measured, folder / "out", N).report), measured


def test_maps_of_edges_hold_the_effects_of_both_runs_on_one_scale(of_edges: tuple[Page, list[Path]]) -> None:
    page, runs = of_edges
    maps = [m for m in page.data["maps"] if m["kind"] == "edges"]
    wanted = ["scores query<-document", "scores last<-query", "pattern query<-document", "pattern last<-query"]
    assert [(m["name"], m["panel"]) for m in maps] == [(name, panel) for name in wanted for panel in "AB"]
    for shown in maps:
        rows = open_run(runs["AB".index(shown["panel"])]).rows().astype({"dest": object, "src": object})
        component, _, edge = shown["name"].partition(" ")
        here = rows[(rows["component"] == component) & (rows["dest"] + "<-" + rows["src"] == edge)]
        change = (here["ld_patched"].astype(float) - here["ld_corrupted"]).groupby([here["head"], here["layer"]]).mean()
        # six digits are written, of float32 rows
        np.testing.assert_allclose(shown["cells"]["effect"], change.unstack("layer"), rtol=1e-4, atol=1e-5)
        assert shown["family"] == [m["id"] for m in maps if m["name"] == shown["name"]]
    largest = max(abs(value) for m in maps for row in m["cells"]["ie"] for value in row)
    (limit,) = {m["limits"]["ie"] for m in maps}
    assert largest <= limit < 1.2 * largest  # two significant digits, rounded up


def test_maps_of_edges_look_and_read_as_those_of_heads(of_edges: tuple[Page, list[Path]]) -> None:
    shown = section(of_edges[0].html, "maps")
    figures = dict(re.findall(r"<h3><code>([^<]*)</code>(.*?)</figure>", shown, re.DOTALL))
    assert list(figures) == [
        "attn_out",
        "mlp_out",
        "z",
        *(f"{c} {e}" for c in ("scores", "pattern") for e in EDGES_OF_BOTH),
    ]
    of_edge, of_heads = figures["scores last&lt;-query"], figures["z"]
    assert '<span class="muted">Attention scores</span>' in of_edge
    assert of_edge.count('class="plot"') == of_heads.count('class="plot"') == 2
    assert 'aria-label="A (dqi). Heat map, head by layer, of scores last&lt;-query; ' in of_edge
    assert "Largest in A L4H1 (IE 0.5" in of_edge  # planted
    assert "<summary>Values of <code>scores last&lt;-query</code> as tables</summary>" in of_edge


def test_maps_that_one_run_alone_has_are_named(of_edges: tuple[Page, list[Path]], page: Page) -> None:
    shown = section(of_edges[0].html, "maps")
    alone = "scores query&lt;-instruction and pattern query&lt;-instruction in A."
    assert f"Measured in one run alone, and so without a map here: {alone}" in shown
    assert "Measured in one run alone" not in page.html


def test_many_edges_leave_the_other_maps_their_tables(
    of_edges: tuple[Page, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, runs = of_edges
    per_run = 2 * 5 * 4 + 4 * 5 * 3  # two components at four regions, and heads at as many
    monkeypatch.setattr(views, "MOST_TABLE_CELLS", 2 * per_run)
    shown = section(build_similarity_report(runs, tmp_path / "out", N).report.read_text(), "maps")
    assert re.findall(r"<summary>Values of <code>(\w+)", shown) == ["attn_out", "mlp_out", "z", "z", "z", "z"]


def test_the_scatter_holds_the_mean_effects_of_both_runs(mechanisms: Mechanisms) -> None:
    pair = mechanisms.pairs[0]
    (found,) = [one for one in pair.headline if one.matched.component == "z"]
    plot = site_scatter(pair, found, "scatter-0")
    assert len(plot["x"]) == found.n_sites == 5 * 3 * 3
    for run, values in ((pair.one, plot["x"]), (pair.other, plot["y"])):
        rows = run.rows[(run.rows["experiment"] == "heads") & run.rows["region"].isin(["query", "document", "last"])]
        changes = (rows["ld_patched"] - rows["ld_corrupted"]).groupby(
            ["L" + rows["layer"].astype(str) + "H" + rows["head"].astype(str) + ", " + rows["region"].astype(str)]
        ).mean()  # fmt: skip
        # six digits are written, of float32 rows
        np.testing.assert_allclose(values, changes.loc[plot["names"]], rtol=1e-4, atol=1e-5)
    strongest = plot["names"][0]
    assert strongest == "L4H1, last"  # planted
    assert plot["shown_names"][0] == strongest


def test_models_of_two_shapes_are_compared_by_depth_and_the_page_says_so(page: Page) -> None:
    left = re.sub(r"\s+", " ", section(page.html, "left"))
    assert "A and C: the models differ in shape (5 and 9 layers, 3 and 4 heads), so attn_out, mlp_out and z are" in left
    assert "A and B rest on the same queries, resampled together." in left
    assert "Every site that one run measured was compared with one of the other." in left


def test_what_only_one_run_measured_is_listed_and_not_lost(runs: list[Path], tmp_path: Path) -> None:
    less = changed_run(
        runs[0], tmp_path / "less", lambda rows: rows[(rows["region"] != "query") & (rows["component"] != "mlp_out")]
    )
    summary = build_similarity_report([runs[1], less], tmp_path / "out", N)
    left = json.loads((tmp_path / "out" / "similarity.json").read_text())["not_compared"]
    found = {(entry["component"], entry["place"], entry["measured_in"], entry["n_sites"]) for entry in left}
    everywhere = {("mlp_out", region, "A", 5) for region in REGIONS}
    assert found == everywhere | {("attn_out", "query", "A", 5), ("z", "query", "A", 15)}
    assert summary.n_not_compared == len(left) == 6
    shown = section(Page.read(summary.report).html, "left")
    # one row for all of an experiment with one reason
    assert shown.count("the other run has no such effects") == 1
    assert "<code>mlp_out</code> query, document, last and all</small>" in shown
    assert shown.count("the other run lacks this place, layer or head") == 2


def test_pairwise_and_pointwise_documents_meet_and_the_page_says_how(runs: list[Path], tmp_path: Path) -> None:
    def as_pairwise(rows: pd.DataFrame) -> pd.DataFrame:
        return rows.assign(region=rows["region"].astype(object).replace("document", "document_a"))

    pairwise = changed_run(
        runs[0], tmp_path / "pairwise", as_pairwise, **identity_with(runs[0], prompt={"format": "pairwise"})
    )
    summary = build_similarity_report([runs[0], pairwise], tmp_path / "out", N)
    assert summary.runs == ("A (pointwise)", "B (pairwise)")
    assert summary.table["rbo"].to_list() == pytest.approx([1.0] * 3)  # the same rows under another name
    page = Page.read(summary.report)
    assert "A and B: document_a of B is compared with document of A" in section(page.html, "left")
    # side by side in the maps too
    assert "document_a of B is called document here." in section(page.html, "maps")
    flow = [m for m in page.data["maps"] if m["name"] == "attn_out"]
    assert [m["rows"] for m in flow] == [list(REGIONS)] * 2
    at_document = [m for m in page.data["maps"] if m["name"] == "document"]
    assert [m["panel"] for m in at_document] == ["A", "B"]
    assert at_document[0]["cells"] == at_document[1]["cells"]


def test_caveats_stand_at_the_top(runs: list[Path], mechanisms: Mechanisms, tmp_path: Path) -> None:
    assert [notice.title for notice in notices(mechanisms)] == ["The comparison rests on 6 queries only"]
    other = changed_run(
        runs[0], tmp_path / "other", **identity_with(runs[0], model={"fingerprint": "9" * 64}), status="running"
    )
    few = changed_run(runs[1], tmp_path / "few", lambda rows: rows[rows["pair_id"].isin(["q0:0", "q0:1"])])
    titles = [notice.title for notice in notices(compare_runs(read_runs([runs[1], other, few]), N))]
    assert any(title.startswith("Not complete: B (") for title in titles)
    assert "Heads of different models are matched by their number" in titles
    assert "The comparison rests on 1 query only" in titles


def test_texts_are_escaped_and_the_page_needs_no_network(page: Page) -> None:
    assert "deep &lt;er&gt;" in page.html
    assert "deep <er>" not in page.html
    for tag in ("script", "img", "link", "a"):
        for attributes in page.tags(tag):
            assert not str(attributes.get("src", attributes.get("href"))).startswith(("http", "//"))


def test_an_earlier_comparison_is_replaced_by_the_same_bytes(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    build_similarity_report(runs[:2], out, N)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    build_similarity_report(runs[:2], out, N)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert set(before) == {"report.html", "similarity.csv", "similarity.json"}


def test_runs_of_which_only_two_have_something_in_common_are_compared_and_the_rest_is_listed(
    runs: list[Path], tmp_path: Path
) -> None:
    noise = write_synthetic_run(
        tmp_path / "noise", n_layers=5, n_heads=3, regions=REGIONS, components=COMPONENTS, direction="noise"
    )
    summary = build_similarity_report([*runs[:2], noise], tmp_path / "out", N)
    assert set(summary.table["run_one"] + summary.table["run_other"]) == {"AB"}
    left = json.loads((tmp_path / "out" / "similarity.json").read_text())["not_compared"]
    assert [(entry["run_one"], entry["run_other"]) for entry in left] == [("A", "C"), ("B", "C")]
    assert all("no direction in common: denoise in the first, noise in the second" in e["reason"] for e in left)


def test_runs_that_cannot_be_compared_are_refused(runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    noise = write_synthetic_run(tmp_path / "noise", n_pairs=2, n_layers=5, n_heads=3, direction="noise")
    empty = tmp_path / "empty"
    empty.mkdir()
    compared = write_comparison(tmp_path / "compared", 4, 2, 2, ("last",))
    for given, message in (
        ([runs[0]], "one run was given; give 2 to 26"),
        ([runs[0], runs[0]], "is given twice; give each run once"),
        ([runs[0], empty], "not a run folder"),
        ([runs[0], compared], "holds a comparison of two models, not a run; give the runs in it"),
        ([runs[0], noise], "no direction in common: denoise in the first, noise in the second"),
    ):
        with pytest.raises(InputError, match=message):
            build_similarity_report(given, out)
        assert not out.exists()


def test_a_folder_of_other_things_is_refused(runs: list[Path], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    for out, message in ((runs[0], "holds 'manifest.json' and no similarity.json"), (file, "is a file")):
        with pytest.raises(InputError, match=message):
            build_similarity_report(runs[:2], out, N)
