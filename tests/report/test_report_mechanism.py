"""The sections on what heads read, write and pass on say what is planted, and appear only where their data are."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pages import Page, changed_run, page_only, section

from relscope.analysis import Remainder, site_effects
from relscope.report import build_report, words
from relscope.report.contents import Contents, read_contents
from relscope.report.mechanism import mechanism_values
from relscope.report.support import important_words, supports
from relscope.report.written import remainder_words, shown_token
from relscope.results import CONTRIBUTIONS, INTERACTION, LENS, VOCABULARY, open_run, read_readout, write_readout
from synthetic_mechanism import ATTACK, HEADS, INTERACTIONS, JOINT_HEADS, LAYERS, SINGLES

SECTIONS = ("written", "edges", "scores", "joint", "paths")


@pytest.fixture(scope="module")
def mechanism_page(mechanism_run: Path) -> Page:
    return Page.read(build_report(mechanism_run))


def text_of(page: Page, name: str) -> str:
    """The visible text of one section, in one line."""
    without_tags = re.sub(r"<[^>]*>", " ", section(page.html, name))
    return " ".join(without_tags.replace("&lt;", "<").replace("&#39;", "'").split())


def test_a_run_without_them_has_none_of_the_sections(page: Page) -> None:
    for name in SECTIONS:
        assert f'id="{name}"' not in page.html
        assert f'href="#{name}"' not in page.html


def test_the_sections_follow_the_heads_in_the_order_of_the_paper(mechanism_page: Page) -> None:
    shown = re.findall(r'<section id="(\w+)"', mechanism_page.html)
    assert shown[shown.index("heads") :][:7] == ["heads", *SECTIONS, "prompts"]
    linked = re.findall(r'<li><a href="#(\w+)"', mechanism_page.html)
    assert linked == shown


def test_every_section_says_how_it_is_read_and_what_was_found(mechanism_page: Page, contents: Contents) -> None:
    findings = {finding.text for finding in contents.findings}
    for name in SECTIONS:
        html = section(mechanism_page.html, name)
        assert '<p class="how">' in html
        found = re.findall(r'<p class="found">(.*?)</p>', html)
        assert {text.replace("&lt;", "<").replace("&#39;", "'") for text in found} & findings


def test_important_heads_are_those_of_the_analysis_and_named(mechanism_page: Page, mechanism_run: Path) -> None:
    run = open_run(mechanism_run)
    effects = site_effects(run.rows(), run.manifest.query_of)
    heads = effects[effects["experiment"] == "heads"]
    chosen = heads[(heads["q_value"] <= 0.05) & (heads["ie"].abs() >= 0.02)]
    assert len(chosen) >= 1
    shown = text_of(mechanism_page, "heads")
    assert f"{len(chosen)} of 32 sites {'is' if len(chosen) == 1 else 'are'} important (q ≤ 0.05 and |IE|" in shown
    strongest = heads.loc[heads["ie"].abs().idxmax()]
    assert (strongest["layer"], strongest["head"], strongest["region"]) == (3, 1, "last")  # planted
    assert f"L3H1@last (IE {words.number(strongest['ie'])}" in shown
    assert "Split-half stability: the effects of two random halves of the 12 queries" in shown
    assert "Caveat" not in shown


def test_too_few_queries_for_any_important_head_is_a_caveat(mechanism_run: Path) -> None:
    run = open_run(mechanism_run)
    queries = sorted(set(run.manifest.query_of.values()))[:4]
    rows = run.rows("heads")
    few = rows[[run.manifest.query_of[pair] in queries for pair in rows["pair_id"]]]
    effects = site_effects(few, run.manifest.query_of)
    (support,) = supports(few, effects, run.manifest.query_of, 0.95)
    # of four queries the smallest p is 2 / 16, which is above 0.05 already
    least = words.number(0.02 * effects["gap"].iloc[0])
    assert support.important == (
        "None of 32 sites is important (q ≤ 0.05 and |IE| ≥ 0.02): none has q ≤ 0.05, "
        f"{(effects['ie'].abs() >= 0.02).sum()} have |IE| ≥ 0.02 ({least} logits)."
    )
    assert support.caveat.startswith("heads (denoise): p is at least 0.12 with 4 queries, so that none of 32 sites can")
    assert support.caveat.endswith("use more queries.")


def test_no_site_is_important_where_the_gap_may_be_zero() -> None:
    sites = pd.DataFrame({"q_value": [0.001], "ie": [5.0], "unstable_ie": [True]})
    assert important_words(sites).startswith("None of 1 site can be called important: the gap may be 0")


def test_of_no_important_site_it_is_said_which_half_of_the_rule_is_lacking() -> None:
    sites = pd.DataFrame({"q_value": [0.01, 0.04, 0.3, np.nan], "ie": [0.01, -0.01, 0.5, 0.001], "gap": [4.626] * 4})
    none = "None of 4 sites is important (q ≤ 0.05 and |IE| ≥ 0.02): "
    assert important_words(sites.assign(unstable_ie=False)) == (
        f"{none}2 have q ≤ 0.05, none of these |IE| ≥ 0.02 (0.093 logits); 1 has that size, without such a q."
    )
    # two sites of fewer pairs, over which the gap is another, and may be 0 for one of them
    other = sites.assign(gap=[4.626, 4.626, 3.0, 0.1], ie=0.01, unstable_ie=[False, False, False, True], q_value=0.2)
    assert important_words(other) == (
        f"{none}none has q ≤ 0.05, none has |IE| ≥ 0.02; of 1 more IE has no size, as the gap may be 0."
    )


def test_the_sites_of_paths_are_told_as_paths_and_inputs(mechanism_page: Page) -> None:
    assert "of 6 sites (4 paths and 2 of their inputs apart) are important" in text_of(mechanism_page, "paths")


def test_every_edge_has_a_map_with_the_effects_of_the_analysis(mechanism_page: Page, mechanism_run: Path) -> None:
    run = open_run(mechanism_run)
    effects = site_effects(run.rows("edges"), run.manifest.query_of).set_index(["dest", "src", "layer", "head"])
    maps = [m for m in mechanism_page.data["maps"] if m["id"].startswith("edge-")]
    assert [m["name"] for m in maps] == ["scores query<-document", "scores last<-query"]
    for shown in maps:
        dest, src = shown["name"].removeprefix("scores ").split("<-")
        for layer in range(LAYERS):
            for head in range(HEADS):
                expected = effects.loc[(dest, src, layer, head), "effect"]
                assert shown["cells"]["effect"][head][layer] == pytest.approx(expected, rel=1e-5)  # six digits


def test_edges_into_the_query_with_the_effects_of_z_there_are_found_the_same(contents: Contents) -> None:
    edges = contents.mechanism.edges
    assert edges is not None
    same, other = edges.similarities
    assert (same.name, same.region) == ("scores query<-document", "query")
    for name in ("pearson", "spearman", "overlap_10"):
        assert same.measures[name].value.value == pytest.approx(1.0)
    assert other.measures["pearson"].value.value < 0.9
    assert (
        "the |effects| of scores query<-document and of z at the query correlate with Pearson's r = 1.00"
        in edges.found.text
    )
    assert "L0H2 (scores, last<-query)" in edges.found.text  # the planted edge


def test_the_parts_of_ld_are_the_planted_ones_and_sum_to_it(contents: Contents, mechanism_page: Page) -> None:
    written = contents.mechanism.written
    assert written is not None
    heads = written.parts[written.parts["part"] == "head"]
    # float32 values; every pair has the same, so that the interval is a point
    np.testing.assert_allclose(heads["mean"], heads["layer"] + heads["head"] / 10, rtol=1e-6)
    np.testing.assert_allclose(heads["low"], heads["high"], rtol=1e-6)
    by_part = written.parts.groupby("part")["mean"].sum()
    assert by_part["logit_diff"] == pytest.approx(by_part.drop("logit_diff").sum(), abs=1e-4)
    assert "heads write 26.40 and MLPs" in text_of(mechanism_page, "written")  # 4 x (0 + 1 + 2 + 3) + 4 x 0.6
    assert "Check: the parts sum to LD in each of 48 runs" in text_of(mechanism_page, "written")
    (shown,) = (m for m in mechanism_page.data["maps"] if m["name"] == "heads")
    assert shown["cells"]["effect"][3][2] == pytest.approx(2.3)


def test_parts_that_do_not_sum_to_ld_are_announced(mechanism_run: Path, tmp_path: Path) -> None:
    directory = changed_run(mechanism_run, tmp_path / "run")
    shutil.copytree(mechanism_run / "readouts", directory / "readouts")
    parts = read_readout(directory, CONTRIBUTIONS)
    without = parts.assign(value=parts["value"].where(parts["part"] != "mlp", 0.0))
    write_readout(directory, CONTRIBUTIONS, {str(name): without[name] for name in without})
    shown = section(page_only(directory).read_text("utf-8"), "written")
    assert re.search(r'<p class="caveat">Check failed: up to \S+ logits of LD are left over', shown)


def test_words_are_listed_by_effect_with_their_white_space_visible(contents: Contents, mechanism_page: Page) -> None:
    written = contents.mechanism.written
    assert written is not None
    at_last = {of.region: of for of in written.words}["last"]
    assert len(at_last.heads) == 12
    assert at_last.heads[0].name == "L3H1"  # planted as the strongest
    assert at_last.heads[0].top == (" yes", "\n")
    assert at_last.heads[0].bottom == ("bottom31", " \t")
    assert "At the last token, 1 of the 12 strongest heads has an answer among their extreme tokens: L3H1" in (
        text_of(mechanism_page, "written")
    )
    assert '<code class="token">␣yes</code> <code class="token">↵</code>' in mechanism_page.html
    assert shown_token(" \t") == "␣⇥"
    assert shown_token("") == "“”"


def test_tokens_never_become_elements(mechanism_page: Page) -> None:
    assert mechanism_page.tags("img") == []
    assert ATTACK.replace(" ", "␣") in mechanism_page.text


def test_the_logit_lens_parts_where_the_runs_do(contents: Contents, mechanism_page: Page) -> None:
    (finding,) = (f for f in contents.findings if f.title.startswith("Logit lens"))
    assert finding.title == "Logit lens: the runs are shown to part from layer 2 on"
    assert "over 12 queries that exclude 0 (there" in finding.text
    assert "more queries may show it earlier" in finding.text
    (plot,) = (p for p in mechanism_page.data["lines"] if p["id"] == "lens-1")  # query comes first, then last
    clean = plot["lines"][0]
    assert clean["name"] == "clean"
    assert clean["x"] == [0, 1, 2, 3]
    assert clean["mean"][:2] == [0.0, 0.0]
    patched = {pair.pair_id for pair in contents.manifest.pairs if not pair.filtered}
    judged = contents.rows[(contents.rows["experiment"] == "judge") & contents.rows["pair_id"].isin(patched)]
    assert clean["mean"][3] == pytest.approx(judged["ld_clean"].astype(np.float64).mean(), rel=1e-5)  # six digits


def test_scores_that_are_the_effects_correlate_with_them_perfectly(contents: Contents, mechanism_page: Page) -> None:
    scores = contents.mechanism.scores
    assert scores is not None
    at_query, at_last = scores.plots
    assert (at_query.region, at_last.region) == ("query", "last")
    assert at_query.correlation is not None
    # s(q, d) is stored as float32, around 5
    assert at_query.correlation.pearson.value == pytest.approx(1.0, abs=1e-5)
    assert at_query.correlation.pearson.low == pytest.approx(1.0, abs=1e-5)
    assert "the intervals are over 12 queries, not over heads" in text_of(mechanism_page, "scores")
    high = set(at_query.heads.loc[at_query.heads["high_on_both"], ["layer", "head"]].itertuples(index=False, name=None))
    by_score, by_effect = (
        at_query.heads.assign(size=values).nlargest(10, "size")[["layer", "head"]].itertuples(index=False, name=None)
        for values in (at_query.heads["mean"], at_query.heads["effect"].abs())
    )
    assert high == set(by_score) & set(by_effect)
    (plot,) = (p for p in mechanism_page.data["points"] if p["id"] == "score-0")
    np.testing.assert_allclose(plot["x"], plot["y"], atol=1e-5)  # six digits of values below 10


def test_the_matrix_and_the_curve_hold_the_planted_interactions(contents: Contents, mechanism_page: Page) -> None:
    (joint,) = contents.mechanism.joint
    assert joint.heads == JOINT_HEADS
    matrix = joint.matrix.cells["effect"]
    for i, one in enumerate(JOINT_HEADS):
        assert np.isnan(matrix[i, i])
        for j, other in enumerate(JOINT_HEADS):
            if i != j:  # float32 rows, of values below 20
                assert matrix[i, j] == pytest.approx(INTERACTIONS[frozenset((one, other))], abs=1e-5)
    growing, singles = np.array([4.0, 6.0 - 0.5, 7.0 - 1.0]), np.array([4.0, 6.0, 7.0])
    assert singles[-1] == sum(SINGLES.values())
    np.testing.assert_allclose(joint.growing["effect"], growing, atol=1e-5)
    np.testing.assert_allclose(joint.growing["sum_of_singles"], singles, atol=1e-5)
    assert "an interaction of −1.00 [−1.00, −1.00], less than the sum." in text_of(mechanism_page, "joint")
    assert (
        "largest interaction is that of L3H1@last and L2H0@query, −0.50 [−0.50, −0.50], less than the sum (alone they "
        "have 4.00 and 2.00); 2 intervals of 3 pairs exclude 0 (fewer than 1 would if there were none)."
    ) in text_of(mechanism_page, "joint")
    curve = {line["name"]: line["mean"] for line in mechanism_page.data["lines"][-1]["lines"]}
    np.testing.assert_allclose(curve["joint effect"], growing, atol=1e-5)


def test_edges_and_interactions_are_tables_too_within_the_cells_of_a_page(
    contents: Contents, mechanism_page: Page
) -> None:
    edges, (joint,) = contents.mechanism.edges, contents.mechanism.joint
    assert edges is not None
    assert text_of(mechanism_page, "edges").count("as a table") == len(edges.maps)
    assert "Interactions as a table" in text_of(mechanism_page, "joint")
    assert f"{JOINT_HEADS[1]} −0.50 [−0.50, −0.50]" in text_of(mechanism_page, "joint")
    n_cells = sum(len(m.rows) * len(m.layers) for m in edges.maps)
    left = n_cells + len(joint.heads) ** 2 - 1
    shown, _ = mechanism_values(contents.mechanism, "ie", left)
    assert all(one["table_rows"] for one in shown["edges"]["maps"])
    assert shown["joint"][0]["table"]["table_rows"] == []


def test_heads_that_work_against_each_other_are_neither_less_nor_more_than_their_sum(
    mechanism_run: Path, tmp_path: Path
) -> None:
    def against(rows: pd.DataFrame) -> pd.DataFrame:
        """L2H0@query has an effect of -2 alone; together with L3H1@last it still has 5.5."""
        alone = (rows["experiment"] == "joint") & (rows["src"] == JOINT_HEADS[1])
        return rows.assign(ld_patched=rows["ld_patched"].where(~alone, rows["ld_corrupted"] - 2.0))

    page = Page.read(page_only(changed_run(mechanism_run, tmp_path / "run", against)))
    text = text_of(page, "joint")
    assert (
        "their single effects sum to 3.00 [3.00, 3.00]: an interaction of 3.00 [3.00, 3.00], which is neither" in text
    )
    assert (
        "that of L2H0@query and L1H1@query, 4.00 [4.00, 4.00], which is neither less nor more, as the single effects "
        "have opposite signs (alone they have −2.00 and 1.00)"
    ) in text
    assert "less than the sum" not in text


def test_a_head_at_a_region_has_one_label_on_the_whole_page(mechanism_page: Page) -> None:
    """`L3H1@last`, as rows and configurations have it, in sentences, tables and plots."""
    shown = mechanism_page.html.partition('<section id="manifest"')[0]  # after it come data and scripts
    assert "L3H1@last" in shown
    assert re.findall(r"L\dH\d(?:\.\w+)? (?:query|last|at )[^<]{0,20}", shown) == []
    assert all("@" in name for m in mechanism_page.data["maps"] for name in m.get("columns", []))


def test_scores_stand_before_the_pattern_that_is_made_from_them(mechanism_run: Path, tmp_path: Path) -> None:
    def with_pattern(rows: pd.DataFrame) -> pd.DataFrame:
        edges = rows[rows["experiment"] == "edges"]
        return pd.concat([edges.assign(component="pattern"), rows]).reset_index(drop=True)

    page = Page.read(page_only(changed_run(mechanism_run, tmp_path / "run", with_pattern)))
    named = ["scores query<-document", "scores last<-query", "pattern query<-document", "pattern last<-query"]
    assert [m["name"] for m in page.data["maps"] if m["id"].startswith("edge-")] == named
    html = section(page.html, "edges")
    assert re.findall(r"<h3><code>([^<]*)</code>", html.replace("&lt;", "<").replace("<-", "←")) == [
        name.replace("<-", "←") for name in named
    ]
    table = html[html.index("similarity") :].replace("&lt;-", "←")
    assert re.findall(r'<th scope="row">(\S+ \S+) ', table) == [name.replace("<-", "←") for name in named]


def test_readouts_are_read_or_not_yet_and_never_rows(mechanism_run: Path, tmp_path: Path) -> None:
    begun = changed_run(mechanism_run, tmp_path / "run", status="running")  # without its readouts
    text = " ".join(Page.read(page_only(begun)).text.split())
    assert "interaction: not read yet" in text
    assert "vocabulary: not read yet" in text
    assert "edges: 768 of 768 rows (100 %)" in text  # 24 pairs x 2 edges x 16 heads
    done = json.loads((mechanism_run / "manifest.json").read_text("utf-8"))
    assert done["status"] == "complete"
    steps = {step.experiment: step.words for step in read_contents(open_run(mechanism_run)).progress}
    assert steps["interaction"] == "interaction: read"
    assert steps["vocabulary"] == "vocabulary: read"


@pytest.mark.parametrize(
    "kept", [{"judge"}, {"judge", "edges"}, {"judge", "joint"}, {"judge", "heads"}, {"judge", "paths", "direct"}]
)
def test_each_section_stands_without_the_others(mechanism_run: Path, tmp_path: Path, kept: set[str]) -> None:
    directory = changed_run(mechanism_run, tmp_path / "run", lambda rows: rows[rows["experiment"].isin(kept)])
    shutil.copytree(mechanism_run / "readouts", directory / "readouts")
    page = Page.read(page_only(directory))
    shown = {name for name in SECTIONS if f'<section id="{name}"' in page.html}
    assert shown == {"written", "scores"} | (kept & {"edges", "joint", "paths"})
    ranked = "by effect of z at the query" if "heads" in kept else "by direct contribution to the gap"
    assert ranked in " ".join(page.text.split())
    assert bool(page.data["points"]) == ("heads" in kept)
    assert not re.search(r"\bnan\b", page.text, re.IGNORECASE)


def test_a_single_pair_has_numbers_and_no_intervals(mechanism_run: Path, tmp_path: Path) -> None:
    first = open_run(mechanism_run).manifest.pairs[0].pair_id
    directory = changed_run(mechanism_run, tmp_path / "run", lambda rows: rows[rows["pair_id"] == first])
    for schema in (INTERACTION, CONTRIBUTIONS, LENS, VOCABULARY):
        table = read_readout(mechanism_run, schema)
        alone = table[table["pair_id"] == first] if "pair_id" in table else table
        write_readout(directory, schema, {str(name): alone[name] for name in alone})
    page = Page.read(build_report(directory))
    text = " ".join(page.text.split())
    assert "an interaction of −1.00, whose interval holds 0 or is missing" in text
    assert "heads (denoise): no test is possible with fewer than two queries." in text
    assert "Split-half stability: none can be given" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_a_remainder_is_compared_with_rounding() -> None:
    assert remainder_words(Remainder(3e-6, 12)).startswith("Check: the parts sum to LD in each of 12 runs")
    assert remainder_words(Remainder(0.02, 12)).startswith("Check failed: up to 0.02 logits")


def test_edges_and_interaction_scores_are_figures_too(mechanism_page: Page, mechanism_run: Path) -> None:
    names = {path.name for path in (mechanism_run / "figures").glob("*.png")}
    drawn = {"edges_scores_query_document.png", "edges_scores_last_query.png"}
    drawn |= {"interaction_query.png", "interaction_last.png"}
    assert drawn <= names
    assert drawn <= {Path(a.get("href") or "").name for a in mechanism_page.tags("a")}


def test_headings_descend_and_every_plot_has_words(mechanism_page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in mechanism_page.elements if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    plots = {a["id"]: a.get("aria-label") or "" for a in mechanism_page.tags("div") if a.get("class") == "plot"}
    drawn = [p["id"] for kind in ("maps", "lines", "points") for p in mechanism_page.data[kind]]
    assert sorted(plots) == sorted([*drawn, "plot-verdicts"])
    assert all(len(label) > 40 for label in plots.values())
