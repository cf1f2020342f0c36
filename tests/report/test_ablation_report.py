"""The page and the tables of an ablation say what the analysis says."""

from __future__ import annotations

import base64
import gzip
import re
from pathlib import Path

import pandas as pd
import pytest
from pages import Page, section

from relscope.errors import InputError
from relscope.report import AblationSummary, build_ablation_report, words
from relscope.report.ablation_contents import AblationContents, findings, read_ablation
from relscope.report.ablation_page import notices
from relscope.report.ablation_table import relative
from relscope.results import create_or_resume_ablation
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
    assert cells["Mixed-2"][0].endswith("(−83\u00a0%)")
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
    body = latex.partition("\n")[2]
    assert re.search(r"(?<!\\)%", body) is None
    assert words.MINUS not in body
    assert latex.count(r"\\") == 2 + len({c.name for c in CONDITIONS})


def test_the_finding_compares_the_largest_set_with_its_matched_sets(contents: AblationContents) -> None:
    judging, ranking = findings(contents)
    assert judging.title == "Judging, pointwise-dqi: Mixed-2 lowers F1 more than matched random sets"
    assert "Without Mixed-2, F1 is 0.17 [" in judging.text
    assert "below the full model's 1.00" in judging.text
    assert "0 of 2 draws lower it at least as much, and the intervals of the two decreases lie apart" in judging.text
    assert "relevant and other documents are told apart less well" in judging.text
    assert ranking.title.startswith("Reranking, pointwise-dqi: Mixed-2 lowers nDCG@10")


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
