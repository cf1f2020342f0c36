"""The page of a circuit, from rows made up here: what it says, draws and warns of."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from browsing import Opened

from relscope.errors import InputError
from relscope.report import build_circuit_report
from relscope.results import RunError, create_or_resume_circuit
from synthetic_circuit import N_PAIRS, SIZES, circuit_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return circuit_folder(tmp_path_factory.mktemp("circuit") / "c")


def test_the_findings_are_computed_from_the_rows(folder: Path) -> None:
    summary = build_circuit_report(folder)
    assert summary.findings == (
        "2 sites of 4 keep f = 0.75 of the difference of LD",
        "Without them f = 0.12 of the difference of LD is left",
        "Random sets of this size keep f = 0.06 of the difference of LD",
        "Of 2 members left out one by one, 1 are needed",
        "Random parts taken out of circuit and model leave them up to 0.25 apart",
    )
    (ld, *_) = summary.contents.areas
    # f = 0.25, 0.75, 1 at shares 0.25, 0.5, 1, for every resample: all gaps have one spread.
    assert ld.cpr.value == pytest.approx(0.25 * 0.5 + 0.5 * 0.875, abs=1e-6)
    assert ld.cmd.value == pytest.approx(0.25 * 0.5 + 0.5 * 0.125, abs=1e-6)
    curves = pd.read_csv(folder / "curves.csv")
    kept = curves[(curves["mode"] == "keep") & (curves["metric"] == "ld_gap")]
    assert kept["faithfulness"].tolist() == pytest.approx([0, 0.25, 0.75, 1.0], abs=1e-6)


def test_the_page_escapes_names_and_warns_of_what_was_left_open(folder: Path, tmp_path: Path) -> None:
    text = build_circuit_report(folder).report.read_text()
    assert "<b>m</b>" not in text
    assert "&lt;b&gt;m&lt;/b&gt;" in text
    assert build_circuit_report(folder).caveats == ("Heads at the template's own words are never ablated",)
    cut = circuit_folder(tmp_path / "cut", {"threshold": 0.9})
    with create_or_resume_circuit(cut, {"options": {"seed": 0}}, {}) as opened:
        opened.save(pruned={"n_sites": 2, "faithfulness": 0.8, "n_tried": 2, "n_untried": 2})
    assert build_circuit_report(cut).caveats[:1] == ("The circuit keeps less than what was searched for",)
    assert "Pruning was cut short" in build_circuit_report(cut).caveats


def test_a_share_that_every_resample_gives_has_a_mark_and_no_interval_of_a_point(folder: Path) -> None:
    page = build_circuit_report(folder).report.read_text()
    table = page.partition('<section id="circuit"')[2].partition("</section>")[0]
    # all verdicts of the full model and of the circuit are right: 12 queries agree, 0.025^(1/12) = 0.74
    assert table.count('<td class="num">1.00 <small class="block">[0.74, 1.00]</small></td>') >= 4
    of_shares = table[table.index(">F1</th>") :]  # LD is float32, and equal up to its rounding only
    assert '<td class="num">1.00†</td>' in of_shares  # f
    assert "† no width: all resamples are equal" in table
    assert [ends for ends in re.findall(r"\[(\S+), (\S+)\]", of_shares) if ends[0] == ends[1]] == []


def test_few_queries_cannot_tell_which_members_are_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ">yes</td>" in build_circuit_report(folder).report.read_text()
    monkeypatch.setattr("relscope.report.circuit_page.LEAST_QUERIES", N_PAIRS + 1)
    summary = build_circuit_report(folder)
    assert "12 queries cannot tell which members are needed" in summary.findings
    assert not any("left out one by one" in finding for finding in summary.findings)
    assert ">yes</td>" not in summary.report.read_text()


NDCG = {"full": 0.9, "empty": 0.5, "circuit": 0.8, "circuit knocked out": 0.4, "keep 1": 0.5, "keep 2": 0.7,
        "knock_out 1": 0.6, "knock_out 2": 0.5}  # fmt: skip


def reranked(directory: Path, values: dict[str, float]) -> Path:
    """A circuit's folder with measures of three reranked queries, of which one lies 0.1 below the others' mean."""
    folder = circuit_folder(directory, options={"rerank": "there", "depth": 5})
    with create_or_resume_circuit(folder, {"options": {"seed": 0, "rerank": "there", "depth": 5}}, {}) as opened:
        for name, value in values.items():
            columns = {name: [text] * 3 for name, text in
                       {"step": "evaluate", "set": name, "ablated": name, "measure": "nDCG@10"}.items()}  # fmt: skip
            of_queries = {"query_id": ["a", "b", "c"], "value": [value - 0.1, value + 0.05, value + 0.05]}
            opened.add(columns | {"n_ablated": [1] * 3} | of_queries, ranking=True)
    return folder


def test_the_reranking_has_a_finding_a_curve_and_queries_of_its_own(tmp_path: Path) -> None:
    summary = build_circuit_report(reranked(tmp_path / "c", NDCG))
    assert summary.findings[2] == "nDCG@10 is 0.80 with the circuit alone, 0.90 with the full model"
    assert not any("not shown to rank better" in caveat for caveat in summary.caveats)
    text = summary.report.read_text()
    # f = (0.8 - 0.5) / (0.9 - 0.5), (0.4 - 0.5) / 0.4, in every resample: all sets have one spread.
    assert "f is 0.75 [0.75, 0.75] alone and −0.25 [−0.25, −0.25] knocked out" in text
    assert "over 12 queries, those of nDCG@10 over the 3 queries whose documents are reranked" in text
    assert "<dd>there, the first stage&#39;s best 5 of 3 queries</dd>" in text
    curves = pd.read_csv(tmp_path / "c" / "curves.csv")
    kept = curves[(curves["mode"] == "keep") & (curves["metric"] == "nDCG@10")]
    assert kept["value"].tolist() == pytest.approx([0.5, 0.5, 0.7, 0.9], abs=1e-6)
    assert kept["faithfulness"].tolist() == pytest.approx([0, 0, 0.5, 1], abs=1e-5)  # float32 on disk
    # Drawn is the measure: f would divide by what the full model adds to the first stage.
    drawn = json.loads(text.partition('id="plot-data">')[2].partition("</script>")[0])["lines"][-1]
    assert (drawn["title"], drawn["y_title"]) == ("nDCG@10", "nDCG@10")
    assert drawn["lines"][0]["mean"] == pytest.approx([0.5, 0.7, 0.9], abs=1e-6)
    assert "nDCG@10 itself, and not f, over 3 queries: 0.90 with the full model, 0.50 with every site ablated." in text


def test_a_full_model_that_ranks_no_better_than_the_empty_one_is_told(tmp_path: Path) -> None:
    summary = build_circuit_report(reranked(tmp_path / "c", NDCG | {"full": 0.5}))
    assert "The full model is not shown to rank better than the empty one here" in summary.caveats


def test_folders_that_are_not_whole_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of a circuit"):
        build_circuit_report(tmp_path)
    growing = circuit_folder(tmp_path / "growing")
    with create_or_resume_circuit(growing, {"options": {"seed": 0}}, {}) as opened:
        opened.save(status="running")
    with pytest.raises(InputError, match="is not complete; finish it by giving `relscope circuit` again"):
        build_circuit_report(growing)
    twice = circuit_folder(tmp_path / "twice")
    part = twice / "rows" / "00000-verdicts.parquet"
    (twice / "rows" / "00099-verdicts.parquet").write_bytes(part.read_bytes())
    with pytest.raises(RunError, match="set 'full' is stored twice"):
        build_circuit_report(twice)
    (twice / "rows" / "00099-verdicts.parquet").rename(twice / "rows" / "mine.parquet")
    with pytest.raises(RunError, match=r"mine\.parquet: not a part of a circuit's rows"):
        build_circuit_report(twice)
    (tmp_path / "manifest.json").write_text(json.dumps({"identity": {}}))
    with pytest.raises(InputError, match="is no manifest of a circuit"):
        build_circuit_report(tmp_path)


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_the_page_draws_every_curve_without_a_problem_or_a_request(
    browser: Any, folder: Path, width: int, scheme: str
) -> None:
    report = build_circuit_report(folder).report
    with Opened(browser, report, width, scheme) as page:
        assert page.tab.locator(".plot .scatterlayer .point").count() == 4 * 2 * len(SIZES)
        assert page.problems == []
        assert [url for url in page.requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]
        page.assert_within(width)
