"""The page and the tables of an ablation say what the analysis says."""

from __future__ import annotations

import base64
import gzip
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from pages import Page, section

from relscope.errors import InputError
from relscope.report import AblationSummary, build_ablation_report, words
from relscope.report.ablation_contents import AblationContents, read_ablation
from relscope.report.ablation_findings import findings
from relscope.report.ablation_page import lead, notices
from relscope.report.ablation_table import relative
from relscope.results import QueryRecord, create_or_resume_ablation
from synthetic_ablation import CONDITIONS, PROMPT, ablation_header, write_synthetic_ablation

N = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_ablation(tmp_path_factory.mktemp("ablation") / "out")


@pytest.fixture(scope="module")
def built(folder: Path) -> AblationSummary:
    return build_ablation_report(folder, N)


@pytest.fixture(scope="module")
def page(built: AblationSummary) -> Page:
    return Page.read(built.report)


@pytest.fixture(scope="module")
def contents(folder: Path) -> AblationContents:
    return read_ablation(folder, N)


def test_the_table_has_the_papers_rows_and_columns(built: AblationSummary) -> None:
    names = list(dict.fromkeys(condition.name for condition in CONDITIONS))
    assert [name for name, _ in built.rows] == ["First stage", *names]
    assert built.columns == ("Judging, pointwise-dqi: F1", "Reranking, pointwise-dqi: nDCG@10")
    cells = dict(built.rows)
    assert cells["First stage"][0] == words.MISSING
    # 2 of 12 pairs are judged right, both prompts of each: F1 and accuracy are the same share
    assert cells["Mixed-2"][0].startswith("0.17 [")
    # the full model's F1 is 1 in every resample, so that the change's ends are those of the value, less 1
    assert cells["Mixed-2"][0] == "0.17 [0.00, 0.34] (−83\u00a0% [−100, −66])"
    assert cells["Full model"] == ("1.00 [0.74, 1.00]", "1.00 [0.74, 1.00]")
    assert "±" in cells["Random-2"][0]
    assert "±" not in cells["Random-2"][1]  # one draw alone was reranked with


def test_every_format_holds_the_same_values(folder: Path, built: AblationSummary, page: Page) -> None:
    markdown = (folder / "table.md").read_text()
    latex = (folder / "table.tex").read_text()
    for name, cells in built.rows:
        assert f"| {name} | {' | '.join(cells)} |" in markdown
        value = cells[1].split(" ")[0]
        row = next(line for line in latex.splitlines() if line.startswith(f"{name} &"))
        assert value.replace(words.MISSING, "--") in row
        assert f'<th scope="row">{name}</th>' in section(page.html, "table")
    table = pd.read_csv(folder / "table.csv")
    inside = gzip.decompress(base64.b64decode(page.scripts["file-table"])).decode()
    assert len(table) == len(inside.splitlines()) - 1
    mixed = table[(table["condition"] == "Mixed-2") & (table["measure"] == "f1")].iloc[0]
    assert mixed["value"] == pytest.approx(1 / 6)
    assert mixed["difference"] == pytest.approx(-5 / 6)


def test_latex_escapes_what_it_would_read_as_markup(folder: Path) -> None:
    latex = (folder / "table.tex").read_text()
    body = "\n".join(line for line in latex.splitlines() if not line.startswith("% "))
    assert re.search(r"(?<!\\)%", body) is None
    assert not {words.MINUS, words.NO_WIDTH, "±"} & set(body)
    main, _, others = latex.partition(r"\end{tabular}")
    assert main.count(r"\\") == 2 + len({c.name for c in CONDITIONS})
    assert others.count(r"\\") == 1 + len({c.name for c in CONDITIONS})  # the first stage judges nothing


def test_the_finding_compares_the_largest_set_with_its_matched_sets(tmp_path: Path) -> None:
    judging, ranking = findings(read_ablation(write_synthetic_ablation(tmp_path / "many", n_draws=19), N))
    assert judging.title == "Judging, pointwise-dqi: Mixed-2 lowers F1 more than matched random sets"
    assert "Without Mixed-2, F1 is 0.17 [" in judging.text
    assert "below the full model's 1.00" in judging.text
    compared = "0 of 19 draws lower it at least as much (p = 0.050), and the interval of its decrease lies above"
    assert compared in judging.text
    assert "By 19 random sets matched to it, F1 falls by 0.08 (no width: all resamples equal)" not in judging.text
    assert "One more random set" not in judging.text
    assert "relevant and other documents are told apart less well" in judging.text
    assert ranking.title.startswith("Reranking, pointwise-dqi: Mixed-2 lowers nDCG@10; 1 random draw is too few to say")


def test_a_few_draws_are_too_few_to_say_that_a_set_does_more_than_random_ones(contents: AblationContents) -> None:
    judging, _ = findings(contents)
    # with 2 draws a third set would be first by chance in one of three cases
    assert judging.title == (
        "Judging, pointwise-dqi: Mixed-2 lowers F1; 2 random draws are too few to say whether more than matched sets"
    )
    assert (
        "0 of 2 draws lower it at least as much, and the interval of its decrease lies above that of theirs"
        in judging.text
    )
    assert "lower it most of all by chance in 33\u00a0% of cases: at least 19 draws are needed" in judging.text


def test_few_queries_give_values_and_no_finding(tmp_path: Path) -> None:
    # five queries cannot show a judge to be better than chance either (0.025^(1/5) < 0.5): that is another caveat
    read = read_ablation(write_synthetic_ablation(tmp_path / "few", 5, n_draws=19), N)
    judging, ranking = findings(replace(read, quality={}))
    assert judging.title == "Judging, pointwise-dqi: 5 queries cannot tell what Mixed-2 does"
    assert ranking.title == "Reranking, pointwise-dqi: 5 queries cannot tell what Mixed-2 does"
    assert judging.text.endswith(
        "At least 6 queries are needed to tell a change from chance: measure more, by a larger --pairs or more data."
    )
    assert "Without Mixed-2, F1 is 0.20 [" in judging.text
    assert "lower" not in judging.text


def test_a_full_model_at_chance_has_no_findings(tmp_path: Path) -> None:
    read = read_ablation(write_synthetic_ablation(tmp_path / "a", shares={"Full model": 0.5, "Mixed-2": 0.0}), N)
    assert any("not shown to judge better than chance" in notice.title for notice in notices(read))
    for found in findings(read):
        assert found.title.endswith("nothing can be said, as the full model is not shown to judge better than chance")
        assert "neither a decrease nor its absence says which heads matter" in found.text
        assert "times as much" not in found.text


def test_where_nothing_changes_that_is_what_is_said(tmp_path: Path) -> None:
    folder = write_synthetic_ablation(tmp_path / "same", shares={}, others=1.0)
    judging, ranking = findings(read_ablation(folder, N))
    assert judging.title == "Judging, pointwise-dqi: Mixed-2 changes nothing: F1 stays 1.00"
    assert judging.text == (
        "Without Mixed-2, F1 is 1.00 [0.74, 1.00], as high as the full model's 1.00. "
        "By 2 random sets matched to it, F1 does not change either."
    )
    assert ranking.title.endswith("Mixed-2 changes nothing: nDCG@10 stays 1.00")
    page = Page.read(build_ablation_report(folder, N).report)
    chart = section(page.html, "chart")
    assert "<td>0.00†</td>" in chart
    assert words.NO_WIDTH_NOTE in chart
    assert "[0.00, 0.00]" not in page.html


def test_a_set_that_does_not_lower_the_measure_is_not_compared_with_those_that_do(tmp_path: Path) -> None:
    folder = write_synthetic_ablation(
        tmp_path / "up", 20, shares={"Full model": 0.9, "Mixed-2": 1.0}, others=0.9, ranks=False
    )
    (judging,) = findings(read_ablation(folder, N))
    assert judging.title.endswith("Mixed-2 is not shown to lower F1")
    assert "above the full model's 0.90" in judging.text
    assert "at least as much" not in judging.text
    assert "overlap" not in judging.text


def test_exact_bounds_are_told_in_every_format_of_the_table(
    folder: Path, built: AblationSummary, contents: AblationContents, page: Page
) -> None:
    words = "intervals over queries (bootstrap; where all queries agree, the exact bound)"
    shown = [contents.of(column, name) for column in contents.columns for name in contents.conditions]
    assert any(outcome.value.exact for outcome in shown if outcome is not None)
    for text in (built.note, page.html, *((folder / f"table.{end}").read_text("utf-8") for end in ("md", "tex"))):
        assert words in text


def test_no_interval_of_a_table_is_a_point(page: Page) -> None:
    ends = re.findall(r"\[(−?[\d.]+), (−?[\d.]+)\]", page.text)
    assert len(ends) > 40
    assert [pair for pair in ends if pair[0] == pair[1]] == []


def test_verdicts_that_move_together_are_told_from_those_that_are_blurred(folder: Path, tmp_path: Path) -> None:
    moved = write_synthetic_ablation(tmp_path / "moved", ranks=False)
    path = moved / "rows" / f"judging-{len(CONDITIONS) - 1:05d}.parquet"
    rows = pd.read_parquet(path)
    assert set(rows["condition"]) == {"Mixed-2"}
    path.unlink()
    columns = {name: rows[name].tolist() for name in rows} | {"ld_clean": [5.0] * 12, "ld_corrupted": [3.0] * 12}
    with create_or_resume_ablation(moved, ablation_header(ranks=False)) as writing:
        writing.write("judging", len(CONDITIONS) - 1, columns)
    (judging,) = findings(read_ablation(moved, N))
    assert "F1 is 0.67" in judging.text  # yes to everything
    assert "verdicts move across LD = 0 more than their order is lost" in judging.text


def test_the_page_lists_heads_split_and_draws(page: Page) -> None:
    assert "query: L0H3; last: L3H3" in section(page.html, "sets")
    assert "Matched-2, draw 2" in section(page.html, "sets")
    split = section(page.html, "split")
    assert "chose heads" in split
    assert split.count("<code>q") == 24  # 12 queries judged, and ranked again
    assert "1 query of the evaluation" in split


def test_queries_that_the_run_judged_and_did_not_patch_are_counted_apart(tmp_path: Path) -> None:
    one = QueryRecord(query_id="f", query_text="filtered")
    folder = write_synthetic_ablation(tmp_path / "one", 2, ranks=False, held_out=(one,))
    assert lead(read_ablation(folder, N)).startswith(
        "Heads were chosen by their measured effect on 1 query of here; 1 more, which the run judged and did not "
        "patch, is held out too. On 2 other queries of here, "
    )
    text = ablation_header().evaluation.queries[0].query_text
    with pytest.raises(ValueError, match=re.escape(f"query '{text}' is both held out and evaluated on")):
        ablation_header(held_out=(QueryRecord(query_id="?", query_text=text),))
    split = section(build_ablation_report(folder, N).report.read_text(encoding="utf-8"), "split")
    assert "Judged by that run, not patched, and held out too" in split
    assert "<code>f</code>: filtered" in split


def test_each_draw_is_a_mark_beside_the_conditions(page: Page) -> None:
    chart = section(page.html, "chart")
    assert chart.count('class="range-draw"') == 2 * 2  # two draws of two kinds; of rankings one each
    assert chart.count('class="range strip"') == 2 * (len({c.name for c in CONDITIONS}) - 1)


def test_awkward_texts_stay_text(page: Page) -> None:
    assert "<script>alert(1)" not in page.html
    assert "<script>alert(1)</script>" in page.text
    assert "&lt;model&gt;" in page.html


def test_a_judge_at_chance_few_queries_and_an_unfinished_ablation_are_told(tmp_path: Path) -> None:
    contents = read_ablation(write_synthetic_ablation(tmp_path / "few", 2, ranks=False), N)
    titles = [notice.title for notice in notices(contents)]
    assert any("not shown to judge better than chance" in title for title in titles)
    assert "The table rests on 2 queries only" in titles
    growing = AblationContents(
        contents.header.model_copy(update={"status": "running"}), contents.outcomes, {}, contents.columns
    )
    assert "This ablation is not complete" in [notice.title for notice in notices(growing)]


def test_an_ablation_without_reranking_has_the_column_of_judging_alone(tmp_path: Path) -> None:
    summary = build_ablation_report(write_synthetic_ablation(tmp_path / "a", ranks=False), N)
    assert summary.columns == (f"Judging, {PROMPT}: F1",)
    assert summary.rows[0][0] == "Full model"


def test_the_same_rows_give_the_same_bytes(folder: Path, built: AblationSummary) -> None:
    before = built.report.read_bytes()
    build_ablation_report(folder, N)
    assert built.report.read_bytes() == before


def test_a_folder_without_verdicts_is_refused(tmp_path: Path) -> None:
    folder = write_synthetic_ablation(tmp_path / "a", 3)
    (folder / "rows" / "judging-00000.parquet").unlink()
    with pytest.raises(InputError, match="no verdict of the full model is stored yet"):
        build_ablation_report(folder, N)


@pytest.mark.parametrize(("share", "shown"), [(-0.834, "−83 %"), (0.07, "+7 %"), (0.0, "0 %"), (-0.001, "0 %")])
def test_relative_changes_have_their_sign(share: float, shown: str) -> None:
    assert relative(share).replace("\u00a0", " ") == shown
