"""A page claims nothing that its rows do not carry: few queries, a run that is not finished, what was not measured."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pages import Page, changed_run, page_only, section

from relscope.analysis import Estimate, Stability
from relscope.report import build_report
from relscope.report.contents import read_contents
from relscope.report.notices import few_queries
from relscope.report.support import stability_words
from relscope.results import open_run
from synthetic import write_synthetic_run
from synthetic_mechanism import write_mechanism_run


def text_of(html: str) -> str:
    """The visible text of a piece of HTML, in one line."""
    return " ".join(re.sub(r"<[^>]*>", " ", html).replace("&lt;", "<").replace("&#39;", "'").split())


def nav(page: Page) -> list[str]:
    return re.findall(r'<li><a href="#(\w+)"', page.html)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """Two queries with two pairs each."""
    return Page.read(page_only(write_synthetic_run(tmp_path_factory.mktemp("few") / "run", n_pairs=4)))


def test_with_two_queries_half_of_the_intervals_exclude_0_by_chance_and_the_page_says_so(few: Page) -> None:
    text = " ".join(few.text.split())
    assert "The effects rest on 2 queries only" in text
    assert "50\u00a0% of them exclude 0 where there is nothing to find, and not 5\u00a0%" in text.replace(
        " %", "\u00a0%"
    )
    assert "No sign-flip p can be below 0.50, so that nothing can be told from chance." in text
    assert (
        "At least 6 queries are needed for p ≤ 0.05, more where many sites are compared: measure more, by a larger"
        in text
    )
    assert "--pairs" in text
    assert re.search(
        r"intervals? of 16 heads excludes? 0 \(about 8 would if no head had an effect\)", text
    )  # 4 x 4 / 2
    assert "of a thousand sites without any effect about 500 have an interval over 2 queries that excludes 0" in text


def test_with_two_queries_there_is_one_division_and_no_stability(few: Page) -> None:
    for name in ("flow", "heads"):
        text = text_of(section(few.html, name))
        assert "none is given below 6 queries. 2 can be divided into halves in one way only" in text
        assert "Pearson's r =" not in text
        assert "two whole runs would reach" not in text


@pytest.mark.parametrize(
    ("n_queries", "wanted"),
    [
        (5, "none is given below 6 queries. 5 can be divided into halves in 10 ways only"),
        (6, "95\u00a0% of the divisions, of which there are 10)"),
        (9, "95\u00a0% of the divisions, of which there are 126)"),
        (20, "95\u00a0% of the divisions)"),
    ],
)
def test_stability_says_how_many_divisions_there_are_where_they_are_few(n_queries: int, wanted: str) -> None:
    value = Estimate(0.9, 0.8, 1.0)
    assert wanted in stability_words(Stability("heads", "denoise", value, value, 16, 12, n_queries), 0.95)


def test_a_warning_says_what_few_queries_cost_and_how_many_are_needed() -> None:
    (one,), (five,), (nine,) = (few_queries("It rests", n) for n in (1, 5, 9))
    assert "A single query allows no interval" in one.text
    assert "At least 6 queries are needed" in one.text
    assert "No sign-flip p can be below 0.06" in five.text  # 2 / 2^5
    assert "At least 6" not in nine.text
    assert nine.text.startswith("Intervals over so few queries are too narrow: 10\u00a0% of them")
    assert few_queries("It rests", 10) == []


@pytest.fixture(scope="module")
def mechanism_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mechanism_run(tmp_path_factory.mktemp("mechanism"))


def test_the_logit_lens_of_few_queries_does_not_say_where_the_runs_part(mechanism_run: Path, tmp_path: Path) -> None:
    from relscope.results import CONTRIBUTIONS, LENS, VOCABULARY, read_readout, write_readout

    query_of = open_run(mechanism_run).manifest.query_of
    chosen = {pair for pair, query in query_of.items() if query in ("q0", "q1", "q2")}
    directory = changed_run(mechanism_run, tmp_path / "run", lambda rows: rows[rows["pair_id"].isin(chosen)])
    for schema in (CONTRIBUTIONS, LENS, VOCABULARY):
        table = read_readout(mechanism_run, schema)
        kept = table[table["pair_id"].isin(chosen)] if "pair_id" in table else table
        write_readout(directory, schema, {str(name): kept[name] for name in kept})
    (lens,) = (f for f in read_contents(open_run(directory)).findings if f.title.startswith("Logit lens"))
    assert lens.title == "Logit lens: 3 queries are too few to say from where on the runs part"
    assert "exclude 0" not in lens.text


def half_measured(rows: pd.DataFrame) -> pd.DataFrame:
    """Every verdict, flow of all pairs, the heads of 10 of 24 or of 6 of 12 pairs."""
    pairs = sorted(set(rows.loc[rows["experiment"] == "heads", "pair_id"]))[
        : 6 if rows["pair_id"].nunique() < 20 else 10
    ]
    return rows[(rows["experiment"] != "heads") | rows["pair_id"].isin(pairs)]


def test_an_unfinished_run_says_how_many_pairs_are_measured_and_where(run_dir: Path, tmp_path: Path) -> None:
    def begun(rows: pd.DataFrame) -> pd.DataFrame:
        pairs = sorted(set(rows["pair_id"]))[:6]
        return rows[(rows["experiment"] == "judge") | ((rows["experiment"] == "flow") & rows["pair_id"].isin(pairs))]

    page = Page.read(page_only(changed_run(run_dir, tmp_path / "run", begun, status="running")))
    lead = re.findall(r'<p class="lead">(.*?)</p>', page.html, re.DOTALL)[0]
    assert " are being exchanged " in lead
    assert lead.endswith("So far 6 of 12 pairs have been patched, none of them in every experiment.")
    assert "were exchanged" not in page.html
    facts = text_of(section(page.html, "run"))
    assert "12 to be patched" in facts
    assert "12 of 17 loaded pairs are to be patched." in text_of(section(page.html, "exclusions"))
    assert "So far: 6 of 12 pairs measured." in text_of(section(page.html, "flow"))
    heads = text_of(section(page.html, "heads"))
    assert "No rows of the experiment heads are stored yet." in heads
    assert "So far" not in heads
    assert "computed from this run's rows, as far as they are stored" in text_of(section(page.html, "glance"))


def test_a_section_that_is_whole_does_not_say_so_far(run_dir: Path, tmp_path: Path) -> None:
    page = Page.read(page_only(changed_run(run_dir, tmp_path / "run", half_measured, status="running")))
    assert "So far" not in section(page.html, "flow")
    assert "So far" not in section(page.html, "verdicts")
    assert "So far 12 of 12 pairs have been patched, 6 of them in every experiment." in page.text
    assert "So far: 6 of 12 pairs measured." in text_of(section(page.html, "heads"))


def test_a_finished_run_speaks_of_itself_as_finished(page: Page) -> None:
    assert " were exchanged " in page.text
    assert "So far" not in page.text
    assert "to be patched" not in page.text


@pytest.mark.parametrize(
    ("name", "experiments"), [("edges", ["edges"]), ("joint", ["joint"]), ("paths", ["paths", "direct", "total"])]
)
def test_later_sections_say_too_how_many_pairs_they_rest_on(
    mechanism_run: Path, tmp_path: Path, name: str, experiments: list[str]
) -> None:
    def begun(rows: pd.DataFrame) -> pd.DataFrame:
        pairs = sorted(set(rows.loc[rows["experiment"] == "heads", "pair_id"]))[:14]
        return rows[~rows["experiment"].isin(experiments) | rows["pair_id"].isin(pairs)]

    page = Page.read(page_only(changed_run(mechanism_run, tmp_path / "run", begun, status="running")))
    assert "So far: 14 of 24 pairs measured." in text_of(section(page.html, name))
    assert "So far" not in section(page.html, "heads")


@pytest.mark.parametrize("asked", [True, False])
def test_the_interaction_score_without_effects_has_no_words_about_a_plot(
    mechanism_run: Path, tmp_path: Path, asked: bool
) -> None:
    identity = without_experiment(mechanism_run, None if asked else "heads")
    directory = changed_run(
        mechanism_run, tmp_path / "run", lambda rows: rows[rows["experiment"] == "judge"], status="running",
        identity=identity,
    )  # fmt: skip
    shutil.copytree(mechanism_run / "readouts", directory / "readouts")
    html = section(page_only(directory).read_text("utf-8"), "scores")
    text = text_of(html)
    assert 'class="plot"' not in html
    assert "A head to the right" not in text
    assert "Filled" not in text
    assert "against effect" not in text.partition("S:")[0]
    reason = "No rows of the experiment heads are stored yet." if asked else "The experiment heads was not part of this"
    assert f"There is no plot of S against effects of z . {reason}" in text


def without_experiment(run_dir: Path, name: str | None) -> dict[str, Any]:
    identity: dict[str, Any] = json.loads(json.dumps(open_run(run_dir).manifest.identity))
    identity["config"]["experiments"].pop(name, None)
    return identity


@pytest.mark.parametrize(("gone", "kept"), [("flow", "heads"), ("heads", "flow")])
def test_an_experiment_that_was_not_asked_for_leaves_no_trace(
    run_dir: Path, tmp_path: Path, gone: str, kept: str
) -> None:
    directory = changed_run(
        run_dir, tmp_path / "run", lambda rows: rows[rows["experiment"] != gone],
        identity=without_experiment(run_dir, gone),
    )  # fmt: skip
    page = Page.read(build_report(directory))
    assert gone not in nav(page)
    assert kept in nav(page)
    assert f'<section id="{gone}"' not in page.html
    figures = section(page.html, "data")
    assert "Figures for a paper" in figures
    assert ("flow_attn_out</code> and <code>flow_mlp_out</code> share one colour scale" in figures) is (gone == "heads")
    assert ("flow_resid_post" in figures) is (gone == "heads")
    components = text_of(section(page.html, "reading"))
    assert ("attn_out and" in components) is (gone == "heads")
    assert ("one head's output before" in components) is (gone == "flow")
