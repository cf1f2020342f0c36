"""The tables of an ablation: what each bracket, star and mark is, in Markdown, LaTeX and HTML."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from pages import Page, section

from relscope.analysis import Estimate
from relscope.report import build_ablation_report, words
from relscope.report.ablation_contents import AblationContents, Column, read_ablation
from relscope.report.ablation_table import cells, latex, markdown, note
from relscope.results import QueryRecord, SideRecord
from synthetic_ablation import PROMPT, write_synthetic_ablation

N = 200
F1 = Column("judging", PROMPT, "f1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_synthetic_ablation(tmp_path_factory.mktemp("ablation") / "out", 24)
    build_ablation_report(folder, N)
    return folder


@pytest.fixture(scope="module")
def contents(folder: Path) -> AblationContents:
    return read_ablation(folder, N)


def changed(contents: AblationContents, relative: Estimate) -> AblationContents:
    """With another relative change of F1 by Mixed-2."""
    outcomes = tuple(
        replace(o, relative=relative) if (o.condition, o.measure) == ("Mixed-2", "f1") else o for o in contents.outcomes
    )
    return replace(contents, outcomes=outcomes)


def test_the_paired_interval_of_the_change_is_in_its_parentheses(folder: Path, contents: AblationContents) -> None:
    outcome = contents.of(F1, "Last-1")
    assert outcome is not None
    share = [
        words.number(100 * end, 0) for end in (outcome.relative.value, outcome.relative.low, outcome.relative.high)
    ]
    text = f"({share[0]}\u00a0% [{share[1]}, {share[2]}])"
    own = words.interval(outcome.value.low, outcome.value.high)
    assert f"| Last-1 | 0.50 {own} {text} |" in (folder / "table.md").read_text()
    page = section((folder / "report.html").read_text(), "table")
    assert f'0.50 <small>{own}</small> <small class="block">{text}</small>' in page
    tex = text.replace(words.MINUS, "$-$").replace("\u00a0%", r"~\%")
    small = tex.replace("[", r"{\scriptsize [").replace("]", "]}")
    assert rf"Last-1 & 0.50 {{\scriptsize {own}}} {small} &" in (folder / "table.tex").read_text()


def test_a_change_that_is_the_same_in_every_resample_has_a_mark_in_place_of_an_interval(
    contents: AblationContents,
) -> None:
    same = changed(contents, Estimate(0.0, 0.0, 0.0))
    assert dict(cells(same))["Mixed-2"][0].change == "(0\u00a0%†)"
    assert words.NO_WIDTH_NOTE in note(same)
    assert r"(0~\%$\dagger$)" in latex(same)
    assert "†" not in note(contents)


def test_percentages_have_decimals_where_an_interval_would_be_a_point(contents: AblationContents) -> None:
    narrow = dict(cells(changed(contents, Estimate(-0.012, -0.0143, -0.0121))))
    assert narrow["Mixed-2"][0].change == "(−1.2\u00a0% [−1.4, −1.2])"
    assert re.fullmatch(r"\(−50\.0.% \[−.*\d\.\d, −\d+\.\d\]\)", narrow["Last-1"][0].change)  # as in all its column


def test_a_change_without_an_interval_stands_alone(contents: AblationContents) -> None:
    alone = dict(cells(changed(contents, Estimate(-0.5, float("nan"), float("nan")))))
    assert alone["Mixed-2"][0].change == "(−50\u00a0%)"


def test_a_star_marks_rankings_that_differ_by_the_corrected_sign_flip_test(
    folder: Path, contents: AblationContents
) -> None:
    table = pd.read_csv(folder / "table.csv")
    ranked = table[table["task"] == "ranking"]
    significant = set(ranked[ranked["p_flip_holm"] <= 0.05]["condition"])
    assert {"Mixed-2", "Last-1"} <= significant < set(ranked["condition"])
    rows = dict(cells(contents))
    assert {name for name, (_, ranking) in rows.items() if "*" in ranking.value} == significant
    assert not any("*" in judging.text for judging, _ in rows.values())
    assert "* differs from the full model's with p ≤ 0.05 (sign flips over queries, Holm's correction over" in note(
        contents
    )


def test_without_a_star_none_is_explained(tmp_path: Path) -> None:
    contents = read_ablation(write_synthetic_ablation(tmp_path / "same", shares={}, others=1.0), N)
    assert "*" not in note(contents)


def test_the_other_measures_of_judging_make_up_a_second_table(folder: Path, contents: AblationContents) -> None:
    main, second = (folder / "table.md").read_text().split("\n| | ")
    assert main.count("F1") == 1
    head = second.splitlines()[0]
    names = ("accuracy", "ROC AUC", "paired accuracy")
    assert head == " | ".join(f"Judging, {PROMPT}: {name}" for name in names) + " |"
    assert "First stage" in main
    assert "First stage" not in second
    assert "Parentheses: change relative to the full model, with its paired interval" in second
    accuracy = contents.of(Column("judging", PROMPT, "accuracy"), "Mixed-2")
    assert accuracy is not None
    assert f"| Mixed-2 | {words.number(accuracy.value.value)} [" in second
    tex = (folder / "table.tex").read_text()
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2
    assert f"& Judging, {PROMPT}: ROC AUC &" in tex.partition(r"\end{tabular}")[2]


def test_the_page_has_the_same_cells_of_all_measures(folder: Path, contents: AblationContents) -> None:
    page = Page.read(folder / "report.html")
    measures = section(page.html, "measures")
    assert '<th scope="col">accuracy</th><th scope="col">F1</th><th scope="col">ROC AUC</th>' in measures
    for _, row in cells(contents, contents.judging_columns):
        assert all(cell.change in measures for cell in row if cell.change)
    assert "95 % intervals over queries" in measures


def test_the_note_names_both_sides_where_they_differ(contents: AblationContents) -> None:
    assert "here, 24 queries by which no head was chosen." in note(contents)
    ranked = contents.header.reranking
    assert ranked is not None
    side = SideRecord(data="dl19", queries=(QueryRecord(query_id="1", query_text="another"),))
    header = contents.header.model_copy(update={"reranking": ranked.model_copy(update={"side": side})})
    elsewhere = replace(contents, header=header)
    assert "judging: here, 24 queries; reranking: dl19, 24 queries; none of them chose a head." in note(elsewhere)
    outcomes = tuple(replace(o, n_queries=20) if o.task == "ranking" else o for o in contents.outcomes)
    fewer = replace(contents, outcomes=outcomes)
    assert "judging: here, 24 queries; reranking: here, 20 queries; none of them chose a head." in note(fewer)
    assert note(fewer) in markdown(fewer)
    assert note(fewer) in latex(fewer)


def test_the_note_tells_where_prompts_could_not_be_asked_of_all_queries(contents: AblationContents) -> None:
    fewer = tuple(replace(o, prompt="pairwise-dqi", n_queries=22) for o in contents.outcomes if o.task == "judging")
    both = replace(contents, outcomes=(*contents.outcomes, *fewer))
    assert "judging: here, 22 to 24 queries; reranking: here, 24 queries" in note(both)
