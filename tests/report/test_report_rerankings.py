"""The section of a run's report on rerankings: what it shows, what stands beside what, and whose it refuses."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import Opened
from pages import Page, section

from relscope.analysis import holm
from relscope.errors import InputError
from relscope.report import build_report
from relscope.report.contents import read_contents
from relscope.report.downstream import read_downstream
from relscope.report.page import render
from relscope.report.quality_cost import quality_cost_view
from relscope.report.reranking_contents import read_reranking, stand_together, together
from relscope.report.reranking_page import MOST_BARS, reranking_view
from relscope.results import Run, open_run
from synthetic import write_synthetic_run
from synthetic_ablation import write_synthetic_ablation
from synthetic_reranking import BETTER, FIRST, QUERIES, heads_record, write_synthetic_reranking

ATTENTION = {"method": "attention", "last_layer": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_run(tmp_path_factory.mktemp("runs") / "a run", n_pairs=4)


@pytest.fixture(scope="module")
def opened(run: Path) -> Run:
    return open_run(run)


@pytest.fixture(scope="module")
def judge(run: Path) -> Path:
    """By two measures, beside the run, in a file whose name a link must quote."""
    values = {"nDCG@10": (FIRST, BETTER), "RR": (FIRST, FIRST[::-1])}
    return write_synthetic_reranking(run, run.parent / "judge #1.trec", values)


@pytest.fixture(scope="module")
def heads(run: Path) -> Path:
    """Heads that the run chose, in half the time, on the last six queries and one more."""
    return write_synthetic_reranking(
        run,
        run.parent / "heads.trec",
        {"nDCG@10": ((*FIRST[2:], 0.0), (*FIRST[2:7], 1.0, 1.0))},
        queries=[*QUERIES[2:], "<q9>"],
        calls=[(1, 40, 4.0, 4.0)],
        heads=heads_record(run),
        **ATTENTION,
    )


@pytest.fixture(scope="module")
def page(run: Path, judge: Path, heads: Path) -> Page:
    return Page.read(build_report(run, [judge, heads]))


def page_with(run: Path, *files: Path) -> Page:
    """The report with rerankings, without its figures, which take most of the time of building one."""
    opened = open_run(run)
    path = run / "shown.html"
    path.write_text(render(read_contents(opened), run, [], read_downstream(opened, files)), encoding="utf-8")
    return Page.read(path)


@pytest.fixture(scope="module")
def shown(page: Page) -> str:
    return html.unescape(section(page.html, "rerankings"))


def test_the_table_holds_means_differences_and_p_corrected_over_its_measures(
    shown: str, opened: Run, judge: Path
) -> None:
    contents = read_reranking(opened, judge)
    ndcg, rr = contents.comparisons
    assert (ndcg.baseline_value.value, ndcg.value.value) == (np.mean(FIRST), np.mean(BETTER)) == (0.5, 0.6875)
    expected = holm(np.array([ndcg.p_flip, rr.p_flip]))
    assert [ndcg.p_flip_holm, rr.p_flip_holm] == list(expected)
    assert ndcg.p_flip_holm == 2 * ndcg.p_flip  # the smaller of two
    low, high = ndcg.difference.low, ndcg.difference.high
    of_ndcg = shown[shown.index('<th scope="row">nDCG@10</th>') :]
    for text in ("0.500", "0.688", f"+0.188 [{low:.3f}, {high:.3f}]".replace("-", "−"), f"{ndcg.p_flip_holm:.3f}"):
        assert f'<td class="num">{text}</td>' in of_ndcg
    assert "Means over 8 judged queries." in shown
    assert "corrected by Holm's method over the 2 measures of this reranking" in shown
    assert "3 documents are not judged and count as not relevant" in shown
    assert "one measure, so that there is nothing to correct for" in shown  # of the heads


def test_bars_are_the_differences_of_the_queries_from_the_largest_to_the_smallest(opened: Run, judge: Path) -> None:
    view, _ = reranking_view([read_reranking(opened, judge)], opened.directory, [])
    assert view is not None
    member = view["groups"][0]["members"][0]
    of = member["rows"][0]["bars"]
    # of nDCG@10: 0.75, 0.5, 0.25 thrice, 0 twice, -0.5; on the scale of both measures, as RR differs by up to 0.75
    assert (member["high"], member["low"], of["zero"], of["n"]) == ("0.75", "−0.75", 20.0, 8)
    assert [(bar["x"], bar["y"], bar["height"], bar["up"]) for bar in of["bars"]] == [
        (0, 0.0, 20.0, True), (1, 6.67, 13.33, True), (2, 13.33, 6.67, True), (3, 13.33, 6.67, True),
        (4, 13.33, 6.67, True), (7, 20.0, 13.33, False),
    ]  # fmt: skip
    assert of["counts"] == "5 higher, 2 the same, 1 lower"
    assert of["bars"][0]["told"] == "<q3>: 0.000 → 0.750"
    assert of["bars"][-1]["told"] == "<q5>: 1.000 → 0.500"


def test_of_very_many_queries_some_are_drawn_and_all_are_counted(opened: Run, run: Path, tmp_path: Path) -> None:
    n = 10 * MOST_BARS
    values = np.linspace(0, 1, n)
    file = write_synthetic_reranking(
        run, tmp_path / "a.trec", {"RR": (np.zeros(n), values)}, queries=[f"q{i}" for i in range(n)]
    )
    view, _ = reranking_view([read_reranking(opened, file)], opened.directory, [])
    assert view is not None
    of = view["groups"][0]["members"][0]["rows"][0]["bars"]
    assert of["n"] == MOST_BARS
    assert of["counts"] == "3,999 higher, 1 the same, 0 lower; 400 of 4,000 are drawn"
    assert (of["bars"][0]["told"], of["bars"][0]["height"]) == ("q3999: 0.000 → 1.000", 40.0)


def test_facts_and_costs_are_told(shown: str) -> None:
    for text in (
        "synthetic/<model>, weights 222222222222, float32",
        "pointwise-dqi, attention",
        "L1H2",
        "total, calibrated",
        "2 queries, not ranked",
        "1 (the model has 0 to 3)",
        "40 for 40 documents",
        # 40 prompts of 40 documents in 8 s: 20 s for 100
        "20.0 CPU seconds, 30.0 s by the clock (cpu)",
        "8.0 CPU seconds, 12.0 s by the clock, of 40 prompts in 2 calls",
        "The best 5 documents of <BM25> for 8 queries of <data>, ranked again by synthetic/<model>.",
    ):
        assert text in shown


def test_quality_stands_over_cost_on_the_queries_that_all_rank(page: Page, shown: str) -> None:
    (figure,) = page.data["costs"]
    assert figure["x_title"] == "CPU seconds for 100 documents"
    points = {point["kind"]: point for point in figure["points"]}
    assert list(points) == ["first stage", "judge", "heads by effect"]
    assert [point["x"] for point in points.values()] == [0.0, 20.0, 10.0]
    # of q3 to q8 alone
    expected = [np.mean(FIRST[2:]), np.mean(BETTER[2:]), np.mean((*FIRST[2:7], 1.0))]
    assert [point["y"] for point in points.values()] == pytest.approx(expected, rel=1e-5)  # six digits
    assert all(point["low"] < point["y"] < point["high"] for point in points.values())
    assert "nDCG@10 is over the 6 queries that all of these rank" in shown
    table = shown[shown.index("Quality and cost of each ranking") :]
    cells = re.findall(r'<th scope="row">(.*?) <small class="block">(.*?)</small></th>(.*?)</tr>', table)
    assert [(name, kind) for name, kind, _ in cells[:3]] == [
        ("<BM25>", "first stage"), ("judge, pointwise-dqi", "judge"), ("heads query-1 (total)", "heads by effect"),
    ]  # fmt: skip
    assert [re.findall(r'"num">([^<]*)<', rest)[1] for _, _, rest in cells[:3]] == ["0", "20.0", "10.0"]
    assert figure["id"] in {attributes.get("id") for _, attributes in page.elements}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("interaction-8", "heads by attention alone"),
        ("interaction-8 below 10", "heads by attention alone"),
        ("query<-document-4", "heads by effect"),
        ("last-2 below 7", "heads by effect"),
        ("my own", "heads"),
    ],
)
def test_how_heads_were_chosen_is_known_by_the_name_that_relscope_gives(
    opened: Run, run: Path, tmp_path: Path, name: str, kind: str
) -> None:
    record = heads_record(run, name)
    known = write_synthetic_reranking(run, tmp_path / "a.trec", heads=record, **ATTENTION)
    unknown = write_synthetic_reranking(
        run, tmp_path / "b.trec", heads=record.model_copy(update={"source": None}), **ATTENTION
    )
    assert read_reranking(opened, known).kind == kind
    assert read_reranking(opened, unknown).kind == "heads"


def test_rankings_of_other_documents_or_queries_are_kept_apart(opened: Run, run: Path, tmp_path: Path) -> None:
    def written(name: str, **given: Any) -> Path:
        return write_synthetic_reranking(run, tmp_path / f"{name}.trec", **given)

    files = [
        written("a"),
        written("other-documents", queries=QUERIES, n_queries=8) ,
        written("other-queries", queries=[f"x{n}" for n in range(8)]),
        written("b"),
    ]  # fmt: skip
    other = files[1].with_name("other-documents.trec.verdicts") / "reranking.json"
    other.write_text(other.read_text().replace("0" * 64, "1" * 64, 1))  # of one query alone
    groups = stand_together([read_reranking(opened, file) for file in files])
    assert [[one.run_file.stem for one in group] for group in groups] == [
        ["a", "b"], ["other-documents"], ["other-queries"],
    ]  # fmt: skip
    report = page_with(run, *files)
    assert len(report.data["costs"]) == 1
    assert "They are in groups, each of the same queries" in report.text
    assert "judge, pointwise-dqi, a.trec" in report.text  # two that are named alike


def test_without_a_query_or_a_measure_in_common_there_is_no_figure(opened: Run, run: Path, tmp_path: Path) -> None:
    one, other = (
        read_reranking(
            opened, write_synthetic_reranking(run, tmp_path / f"{name}.trec", {name: (FIRST, BETTER)})
        )
        for name in ("RR", "AP")
    )  # fmt: skip
    view, figure = quality_cost_view(together([one, other]), "x")
    assert figure is None
    assert "no measure in common" in view["text"]


def test_a_time_that_is_not_known_is_said_and_not_drawn(run: Path, tmp_path: Path) -> None:
    known = write_synthetic_reranking(run, tmp_path / "a.trec", calls=[(1, 10, 1.0, 1.0)])
    old = write_synthetic_reranking(run, tmp_path / "b.trec", calls=[])
    report = page_with(run, known, old)
    assert [point["kind"] for point in report.data["costs"][0]["points"]] == ["first stage", "judge"]
    shown = section(report.html, "rerankings")
    assert '<td class="num">not known</td>' in shown
    assert "not known: an earlier version judged, and kept no time" in shown
    assert "of 10 prompts in 1 call; 30 of 40 prompts were judged by a version that kept no time" in shown
    alone = page_with(run, old, write_synthetic_reranking(run, tmp_path / "c.trec", calls=[]))
    assert alone.data["costs"] == []


def test_time_is_by_the_clock_where_one_was_not_judged_on_a_cpu(run: Path, tmp_path: Path) -> None:
    on_cpu = write_synthetic_reranking(run, tmp_path / "a.trec")
    on_cuda = write_synthetic_reranking(run, tmp_path / "b.trec", device="cuda", heads=heads_record(run), **ATTENTION)
    report = page_with(run, on_cpu, on_cuda)
    (figure,) = report.data["costs"]
    assert figure["x_title"] == "seconds by the clock for 100 documents"
    assert [point["x"] for point in figure["points"]] == [0.0, 30.0, 30.0]
    assert "Time is by the clock, as not all of them were judged on a CPU." in report.text


def test_findings_follow_from_the_tests(run: Path, tmp_path: Path) -> None:
    better = np.array(FIRST) + 0.2 + 0.01 * np.arange(8)
    cases = {
        "better": (FIRST, better, "By RR it ranks better than <BM25>"),
        "worse": (better, FIRST, "By RR it ranks worse than <BM25>"),
        "open": (FIRST, FIRST[::-1], "By RR it is not shown to rank better or worse than <BM25>"),
    }
    for name, (first, reranked, title) in cases.items():
        file = write_synthetic_reranking(run, tmp_path / f"{name}.trec", {"RR": (first, reranked)})
        assert title in page_with(run, file).text
    few = write_synthetic_reranking(
        run, tmp_path / "few.trec", {"RR": (FIRST[:3], BETTER[:3])}, queries=QUERIES[:3], n_queries=3
    )
    assert "3 queries cannot tell whether it ranks better than <BM25>" in page_with(run, few).text


def test_files_are_linked_from_the_run(page: Page) -> None:
    links = {str(link["href"]) for link in page.tags("a")}
    assert {"../judge%20%231.trec", "../judge%20%231.trec.verdicts/measures.parquet", "../heads.trec"} <= links
    assert '<a href="#rerankings">Does it rank better?</a>' in page.html


def test_without_rerankings_the_report_has_no_such_section(run: Path, judge: Path) -> None:
    plain = page_with(run)
    assert "Does it rank better?" not in plain.html
    assert plain.data["costs"] == []
    assert page_with(run, judge).html == page_with(run, Path(f"{judge}.verdicts")).html != plain.html


def test_heads_of_another_run_or_of_none_that_is_known_are_told(run: Path, tmp_path: Path) -> None:
    other = heads_record(run, run_identity="0" * 64, run="runs/other")
    tuned = heads_record(run, fingerprint="9" * 64)
    files = [
        write_synthetic_reranking(run, tmp_path / f"{n}.trec", heads=record, **ATTENTION)
        for n, record in enumerate([other, tuned, other.model_copy(update={"source": None})])
    ]
    text = page_with(run, *files).text
    assert "The heads of query-1 were chosen by another run than this one, runs/other." in text
    assert "query-1: was chosen in synthetic/<model> (weights 999999999999) and is used in" in text
    assert "query-1 does not say in which model its heads were chosen, or by which run." in text
    own = write_synthetic_reranking(run, tmp_path / "own.trec", heads=heads_record(run), **ATTENTION)
    assert "were chosen by another run" not in page_with(run, own).text


def test_a_reranking_by_another_model_is_refused_and_the_report_left_alone(
    run: Path, page: Page, tmp_path: Path
) -> None:
    model = dict(open_run(run).manifest.identity["model"])
    for name, facts in (
        ("weights", {"model": model | {"fingerprint": "9" * 64}}),
        ("shape", {"n_layers": 99}),
        ("adapter", {"model": model | {"adapter": "a", "dtype": "bfloat16"}}),
    ):
        file = write_synthetic_reranking(run, tmp_path / f"{name}.trec", **facts)
        with pytest.raises(InputError, match=r"is a reranking by synthetic/<model>.* is a run of synthetic/<model>"):
            build_report(run, [file])
    in_another_format = write_synthetic_reranking(
        run, tmp_path / "dtype.trec", model=model | {"fingerprint": "9" * 64, "dtype": "bfloat16"}
    )
    assert (run / "report.html").read_text() == page.html
    assert "Does it rank better?" in page_with(run, in_another_format).text


def test_what_is_missing_or_damaged_is_said_in_one_line(run: Path, judge: Path, tmp_path: Path) -> None:
    file = write_synthetic_reranking(run, tmp_path / "a.trec")
    folder = tmp_path / "a.trec.verdicts"
    with pytest.raises(InputError, match=r"a\.trec\.verdicts: is given twice; give each once"):
        build_report(run, [file, folder])
    (folder / "measures.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match=r"measures\.parquet: damaged"):
        build_report(run, [file])
    (folder / "reranking.json").unlink()
    with pytest.raises(InputError, match=r"has no reranking\.json: its reranking is not finished, or an earlier rel"):
        build_report(run, [file])
    other = write_synthetic_reranking(run, tmp_path / "b.trec")
    other.unlink()
    with pytest.raises(InputError, match=r"b\.trec\.verdicts: has no b\.trec beside it; give its relscope"):
        build_report(run, [tmp_path / "b.trec.verdicts"])
    third = write_synthetic_reranking(run, tmp_path / "c.trec")
    header = tmp_path / "c.trec.verdicts" / "reranking.json"
    header.write_text(header.read_text().replace("<q8>", "<q9>"))
    with pytest.raises(InputError, match="its rows and its header are of different queries"):
        build_report(run, [third])
    (tmp_path / "mine.trec").write_text("q1 Q0 d1 1 1.0 mine\n")
    with pytest.raises(InputError, match=r"mine\.trec: is no folder of relscope ablate or relscope circuit, and"):
        build_report(run, [tmp_path / "mine.trec"])
    with pytest.raises(InputError, match=r"gone\.trec: is no folder of"):
        build_report(run, [tmp_path / "gone.trec"])
    ablation = write_synthetic_ablation(tmp_path / "ablation")
    with pytest.raises(InputError, match="but of another run"):
        build_report(run, [judge, ablation])


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_the_section_fits_and_draws_every_ranking(
    browser: Any, run: Path, judge: Path, heads: Path, width: int, scheme: str
) -> None:
    report = build_report(run, [judge, heads])
    with Opened(browser, report, width, scheme) as page:
        assert page.tab.locator("#rerankings .plot .scatterlayer .point").count() == 3
        # five queries higher and one lower of nDCG@10, and of RR as many as it says; one higher, and one, of the heads
        assert page.tab.locator("#rerankings .differences").first.locator("rect").count() == 6
        assert page.problems == []
        page.assert_within(width)
