"""The section on paths: the split of the effects, the graph and what can be taken out, from planted rows."""

from __future__ import annotations

import base64
import gzip
import io
import itertools
import re
from pathlib import Path

import pandas as pd
import pytest
from pages import Page, changed_run, page_only, section

from relscope.report import words
from relscope.report.contents import Contents
from relscope.report.path_graph import LOGITS, Edge, path_graph
from relscope.report.paths import Paths
from relscope.results import open_run
from synthetic_mechanism import DIRECT_SHARE, HEADS, LAYERS, PATHS


@pytest.fixture(scope="module")
def found(contents: Contents) -> Paths:
    (of_denoise,) = contents.mechanism.paths
    return of_denoise


@pytest.fixture(scope="module")
def shown(mechanism_run: Path) -> Page:
    return Page.read(page_only(mechanism_run))


def text_of(page: Page) -> str:
    """The visible text of the section, in one line."""
    return " ".join(re.sub(r"<[^>]*>", " ", section(page.html, "paths")).replace("&lt;", "<").split())


def rows_of(html: str, of: str) -> list[list[str]]:
    """The cells of a table's body, as text."""
    body = html.partition(f'class="bars {of}')[2].partition("<tbody>")[2].partition("</tbody>")[0]
    rows = re.findall(r"<tr>.*?</tr>", body, re.DOTALL)
    cells = (re.findall(r"<td data-name[^>]*>(.*?)</td>", row) for row in rows)
    return [[re.sub(r"<[^>]*>", "", cell) for cell in row] for row in cells]


def test_totals_are_split_into_the_planted_shares(found: Paths, contents: Contents) -> None:
    heads = found.splits[found.splits["component"] == "z"]
    total = contents.effects[(contents.effects["experiment"] == "heads") & (contents.effects["region"] == "last")]
    assert len(heads) == LAYERS * HEADS
    # float32 rows
    assert heads["total"].to_numpy() == pytest.approx(total["effect"].to_numpy(), abs=1e-6)
    assert heads["direct"].to_numpy() == pytest.approx(DIRECT_SHARE * total["effect"].to_numpy(), abs=1e-6)
    mlps = found.splits[found.splits["component"] == "mlp_out"]
    assert mlps[["total", "direct", "mediated"]].to_numpy() == pytest.approx(
        pd.DataFrame([[0.0, 1.0, -1.0]] * LAYERS).to_numpy(), abs=1e-6
    )


def test_the_table_and_the_sentence_say_what_the_analysis_found(found: Paths, shown: Page) -> None:
    largest = found.splits.loc[found.splits["total"].abs().idxmax()]
    assert (largest["layer"], largest["head"]) == (3, 1)  # planted
    first = rows_of(shown.html, "splits")[0]
    assert first[0] == "L3H1"
    for cell, part in zip(first[1:], ("total", "direct", "mediated"), strict=True):
        assert cell.startswith(f"{words.number(largest[part])} [{words.number(largest[f'{part}_low'])}, ")
    text = text_of(shown)
    assert f"L3H1 has the largest total effect, {words.number(largest['total'])} [" in text
    # Of the six paths one ends in a head's keys and one in its values.
    assert (
        "Of 4 frozen paths into heads 4 have q ≤ 0.05, the strongest of them L2H0@query → L3H1@last "
        "(1.50 [1.50, 1.50] logits, q < 0.001); 4 intervals of 4 paths exclude 0 "
        "(fewer than 1 would if there were none)."
    ) in text
    assert found.found.title.endswith("; strongest L2H0@query → L3H1@last")


def test_strong_paths_are_listed_with_what_their_inputs_take(shown: Page) -> None:
    rows = rows_of(shown.html, "sites reflow path-list")
    assert [row[0] for row in rows] == [
        "L2H0@query → L3H1@last",
        "embedding@document → L1H1@query",
        "L1H1@query → L2H0@query",
        "L1H1@query → L3H1@last",
    ]
    # keys and values; no path into queries was measured, so there is no such column
    assert rows[0][1:4] == ["1.50 [1.50, 1.50]", "0.10 [0.10, 0.10]", "1.25 [1.25, 1.25]"]
    assert rows[1][2:4] == ["–", "–"]
    assert "–: this input was not measured; a frozen path enters the receiver's queries only" in text_of(shown)
    assert "The 4 paths of largest |effect|, of the whole or of one input, in this order:" in text_of(shown)


def spread(rows: pd.DataFrame, src: str, dest: str, mean: float, step: float) -> pd.DataFrame:
    """A path whose effect grows by `step` a query, so that its mean over the twelve queries is `mean`."""
    there = (rows["src"].astype(object) == src) & (rows["dest"].astype(object) == dest)
    query = rows["pair_id"].astype(str).str.extract(r"q(\d+)", expand=False).astype(float)
    return rows.assign(ld_patched=rows["ld_patched"].mask(there, rows["ld_corrupted"] + mean + step * (query - 5.5)))


def test_a_large_effect_that_may_be_none_is_not_the_strongest(mechanism_run: Path, tmp_path: Path) -> None:
    # from -11 to 13 over the queries, with a mean of 1
    unsure = changed_run(
        mechanism_run, tmp_path / "run", lambda rows: spread(rows, "L2H0@query", "L3H1@last", 1.0, 24 / 11)
    )
    text = text_of(Page.read(page_only(unsure)))
    assert (
        "Of 4 frozen paths into heads 3 have q ≤ 0.05, the strongest of them embedding@document → L1H1@query "
        "(0.50 [0.50, 0.50] logits, q < 0.001); the largest effect is not shown to be one: L2H0@query → L3H1@last (1.00"
    ) in text
    assert (
        "; by one input alone L2H0@query → L3H1.v_view@query (1.25 [1.25, 1.25] logits, q < 0.001) is stronger" in text
    )
    assert "3 intervals of 4 paths exclude 0" in text


def test_where_no_path_has_a_small_q_none_is_said_to_have_an_effect(mechanism_run: Path, tmp_path: Path) -> None:
    def without_effects(rows: pd.DataFrame) -> pd.DataFrame:
        for number, (src, dest) in enumerate(PATHS):
            rows = spread(rows, src, dest, 0.01 * number, 1.0)
        return rows

    page = Page.read(page_only(changed_run(mechanism_run, tmp_path / "run", without_effects)))
    text = text_of(page)
    assert (
        "None of 4 frozen paths into heads is shown to have an effect (q ≤ 0.05); the largest is "
        "L1H1@query → L3H1@last (0.050 ["
    ) in text
    assert "; no interval of 4 paths excludes 0 (fewer than 1 would if there were none)." in text
    assert "no path is shown to have an effect" in page.html


def test_a_path_is_listed_by_its_strongest_input_where_the_whole_is_small(mechanism_run: Path, tmp_path: Path) -> None:
    directory = changed_run(
        mechanism_run, tmp_path / "run", lambda rows: spread(rows, "L2H0@query", "L3H1@last", 0.002, 0.0)
    )
    rows = rows_of(page_only(directory).read_text("utf-8"), "sites reflow path-list")
    assert [row[0] for row in rows[:2]] == ["L2H0@query → L3H1@last", "embedding@document → L1H1@query"]
    assert rows[0][1:4] == ["0.00 [0.00, 0.00]", "0.10 [0.10, 0.10]", "1.25 [1.25, 1.25]"]


def test_what_an_input_takes_has_its_interval_over_queries_and_is_pale_where_that_holds_0(
    mechanism_run: Path, tmp_path: Path
) -> None:
    def with_spread_keys(rows: pd.DataFrame) -> pd.DataFrame:
        keys = rows["dest"].astype(object) == "L3H1.k_view@query"
        # pairs are q0:0, q0:1, q1:0, ...: the queries take 0, 1, 2, ..., 11 tenths, less 5
        tenths = rows["pair_id"].astype(str).str.extract(r"q(\d+)", expand=False).astype(float) - 5
        return rows.assign(ld_patched=rows["ld_patched"].mask(keys, rows["ld_corrupted"] + tenths / 10))

    directory = changed_run(mechanism_run, tmp_path / "run", with_spread_keys)
    html = page_only(directory).read_text("utf-8")
    value, low, high = re.findall(r"[−\d.]+", rows_of(html, "sites reflow path-list")[0][2])
    assert value == "0.05"  # mean of -0.5, -0.4, ..., 0.6
    # the bootstrap of a mean of 12 queries, of spread 0.345: 0.05 -+ 1.96 * 0.345 / sqrt(12), its own noise aside
    assert float(low.replace(words.MINUS, "-")) == pytest.approx(0.05 - 0.195, abs=0.03)
    assert float(high) == pytest.approx(0.05 + 0.195, abs=0.03)
    shown = section(html, "paths")
    assert f'<span class="muted">0.05 <small class="block">[{low}, {high}]</small></span>' in shown
    assert '<span>1.25 <small class="block">[1.25, 1.25]</small></span>' in shown
    assert f"; by its keys 0.05 [{low}, {high}]; by its values 1.25 [1.25, 1.25]</title>" in shown


def test_the_graph_has_the_strong_paths_and_the_direct_effects_of_their_heads(found: Paths) -> None:
    drawn = {(edge.src, edge.dest): edge.effect for edge in found.edges}
    total = found.splits.set_index(["layer", "head"]).loc[(3, 1), "total"]
    wanted = {ends: effect for ends, effect in PATHS.items() if "." not in ends[1] and abs(effect) > 0.1}
    # of the heads between which paths were measured, L3H1 alone stands at the last token
    assert drawn == pytest.approx({**wanted, ("L3H1@last", LOGITS): DIRECT_SHARE * total}, abs=1e-5)


def test_lines_and_heads_tell_their_numbers(shown: Page) -> None:
    html = section(shown.html, "paths")
    titles = re.findall(r"<title>(.*?)</title>", html)
    assert any(t.startswith("L2H0@query → L3H1@last: 1.50 [1.50, 1.50] logits, q ") for t in titles)
    assert any(t.endswith("; by its keys 0.10 [0.10, 0.10]; by its values 1.25 [1.25, 1.25]") for t in titles)
    assert any(t.startswith("L3H1@last; total effect of z there ") for t in titles)
    assert html.count('class="edge up"') == 3
    assert html.count('class="edge down"') == 1
    (label,) = re.findall(r'<svg class="path-graph".*?aria-label="(.*?)"', html)
    assert label.startswith("Graph of the 4 strongest paths between heads, from early layers down to LD. L")


def edge(src: str, dest: str, effect: float = 1.0) -> Edge:
    return Edge(src, dest, effect, True, "")


def test_layers_run_down_and_regions_stand_in_the_order_of_the_prompt() -> None:
    edges = [
        edge("embedding@document", "L0H1@query"),
        *(edge("L0H1@query", f"L10H{head}@last") for head in range(3)),
        edge("L0H1@query", "L2H0@instruction.last", -2.0),
        edge("L10H0@last", LOGITS, 0.5),
    ]
    graph = path_graph(edges, "dqi", {})
    assert [lane["words"] for lane in graph["lanes"]] == ["document", "query", "instruction.last", "last"]
    assert [layer["words"] for layer in graph["layers"]] == ["0", "2", "10"]
    place = {(node["words"], node["middle"]): node for node in graph["nodes"]}
    assert len(place) == 7
    top = {node["words"]: node["y"] for node in graph["nodes"]}
    assert top["words"] < top["L0H1"] < top["L2H0"] < top["L10H0"] < top["L10H1"] < top["L10H2"] < top["LD"]
    for one, other in itertools.combinations(graph["nodes"], 2):
        apart = abs(one["middle"] - other["middle"]) >= one["width"] or abs(one["y"] - other["y"]) >= one["height"]
        assert apart, (one["words"], other["words"])
    assert all(node["y"] >= 0 and node["y"] + node["height"] <= graph["height"] for node in graph["nodes"])
    assert all(node["x"] >= 0 and node["x"] + node["width"] <= graph["width"] for node in graph["nodes"])
    # The thickest is drawn last, over the others; blue is for what lowers LD.
    widths = [float(drawn["width"]) for drawn in graph["edges"]]
    assert widths == sorted(widths)
    assert graph["edges"][-1]["kind"] == "down"
    first = path_graph([edge("L0H0@query", "L1H0@document")], "qdi", {})
    assert [lane["words"] for lane in first["lanes"]] == ["query", "document", "last"]


def test_direct_effects_alone_have_a_table_and_no_graph(mechanism_run: Path, tmp_path: Path) -> None:
    kept = {"judge", "heads", "direct"}
    directory = changed_run(mechanism_run, tmp_path / "run", lambda rows: rows[rows["experiment"].isin(kept)])
    html = section(page_only(directory).read_text("utf-8"), "paths")
    assert "Total effect at the last token = direct + mediated" in html
    assert '<svg class="path-graph"' not in html
    # Of MLPs, whose total effects are gone, there is nothing to split.
    assert "Of 16 modules at the last token" in html


def test_the_head_that_does_most_directly_is_named_though_its_layer_has_the_largest_total(
    mechanism_run: Path, tmp_path: Path
) -> None:
    def with_another_direct_head(rows: pd.DataFrame) -> pd.DataFrame:
        other = (rows["experiment"] == "direct") & (rows["layer"] == 3) & (rows["head"] == 2)
        return rows.assign(ld_patched=rows["ld_patched"].mask(other, rows["ld_corrupted"] + 20.0))

    directory = changed_run(mechanism_run, tmp_path / "run", with_another_direct_head)
    text = text_of(Page.read(page_only(directory)))
    assert "L3H1 has the largest total effect" in text
    assert "Directly L3H2 does most (20.00 [20.00, 20.00])" in text
    unchanged = text_of(Page.read(page_only(mechanism_run)))
    assert "does most" not in unchanged


def test_too_few_queries_for_any_path_is_a_caveat(mechanism_run: Path, tmp_path: Path) -> None:
    run = open_run(mechanism_run)
    few = sorted(set(run.manifest.query_of.values()))[:4]
    pairs = {pair for pair, query in run.manifest.query_of.items() if query in few}
    directory = changed_run(mechanism_run, tmp_path / "run", lambda rows: rows[rows["pair_id"].isin(pairs)])
    html = section(page_only(directory).read_text("utf-8"), "paths")
    assert "paths (denoise): p is at least 0.12 with 4 queries, so that none of 6 sites can reach q ≤ 0.05" in html


def test_every_table_can_be_taken_out_as_csv(shown: Page, contents: Contents) -> None:
    names = {button["data-name"]: str(button["data-file"]) for button in shown.tags("button") if "data-file" in button}
    wanted = {
        "interaction_scores.csv": LAYERS * HEADS,
        "direct_contributions.csv": LAYERS * HEADS + LAYERS + 2,
        "direct_and_mediated.csv": LAYERS * (HEADS + 1),
        "paths.csv": len(PATHS),
    }
    saved = {
        name: pd.read_csv(io.BytesIO(gzip.decompress(base64.b64decode(shown.scripts[names[name]])))) for name in wanted
    }
    assert {name: len(table) for name, table in saved.items()} == wanted
    scores = contents.mechanism.scores
    assert scores is not None
    assert saved["interaction_scores.csv"]["interaction_score"].to_numpy() == pytest.approx(
        scores.heads["mean"].to_numpy(), rel=1e-6
    )  # seven digits
    by_ends = saved["paths.csv"].set_index(["src", "dest"])["effect"]
    assert by_ends.to_dict() == pytest.approx(PATHS, abs=1e-5)
