"""The page in a real browser, without a network: it draws, it answers the pointer, and it fits a phone."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from browsing import Opened
from pages import changed_run, page_only

from relscope.analysis import site_effects
from relscope.report import words
from relscope.report.contents import read_contents
from relscope.results import open_run
from synthetic import write_synthetic_run


@pytest.fixture(scope="module")
def mechanism_report(mechanism_run: Path) -> Path:
    return page_only(mechanism_run)


@pytest.fixture(scope="module")
def opened(browser: Any, report: Path) -> Iterator[Opened]:
    with Opened(browser, report) as page:
        yield page


def test_the_page_draws_every_map_and_reports_no_problem(opened: Opened) -> None:
    n_maps = opened.tab.locator(".plot[id^=map-]").count()
    assert n_maps == 3 + 5
    assert opened.tab.locator(".plot .heatmaplayer image").count() == n_maps
    assert opened.tab.locator("#plot-verdicts .barlayer .point").count() > 10
    assert opened.problems == []


def test_lines_points_and_matrices_are_drawn_and_answer_the_pointer(browser: Any, mechanism_report: Path) -> None:
    with Opened(browser, mechanism_report) as mechanism:
        drawn = mechanism.tab.locator
        # a mean, and the two ends of its band, for each of two lines
        assert drawn("#lens-0 .scatterlayer .js-line").count() == 6
        assert drawn("#score-0 .scatterlayer .point").count() == 16
        assert drawn("#joint-0 .heatmaplayer image").count() == 1
        assert mechanism.point_at("joint-0", 1, 0).startswith("L3H1@last with L2H0@query−0.50 [−0.50, −0.50] logits")
        assert mechanism.point_at("written-0", 2, 3).startswith("L2H32.30 [2.30, 2.30] logits")
        assert mechanism.point_at("edge-1", 0, 2).startswith("L0H2, scores last<-query")
        assert mechanism.problems == []
        assert mechanism.beyond_the_edge() == []
    with Opened(browser, mechanism_report, width=390) as phone:
        assert phone.beyond_the_edge() == []
        assert phone.problems == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (360, "light"), (1280, "dark"), (1280, "light")])
def test_the_graph_of_paths_is_legible_and_within_the_page(
    browser: Any, mechanism_report: Path, width: int, scheme: str
) -> None:
    with Opened(browser, mechanism_report, width, scheme) as page:
        page.assert_within(width)
        seen = page.tab.evaluate(
            """() => {
                const graph = document.querySelector(".path-graph"), box = graph.getBoundingClientRect();
                const text = graph.querySelector(".node text"), style = getComputedStyle(text);
                const under = getComputedStyle(graph.querySelector(".node rect")).fill;
                const line = getComputedStyle(graph.querySelector(".up .line")).stroke;
                return {left: box.left, right: box.right, height: text.getBoundingClientRect().height,
                        colours: [style.fill, under, line, getComputedStyle(document.body).backgroundColor]};
            }"""
        )
        assert 0 <= seen["left"] < seen["right"] <= width
        assert 9 <= seen["height"] <= 24  # pixels
        text, node, line, ground = seen["colours"]
        assert contrast(text, node) >= 4.5
        assert contrast(line, ground) >= 3


@pytest.mark.parametrize("width", [380, 1010, 1280])
def test_the_table_of_paths_fits_and_the_graph_keeps_to_its_size(
    browser: Any, mechanism_report: Path, width: int
) -> None:
    with Opened(browser, mechanism_report, width) as page:
        seen = page.tab.evaluate(
            """() => {
                const table = document.querySelector(".path-list").closest(".scroll");
                const graph = document.querySelector(".path-graph");
                return {hidden: table.scrollWidth - table.clientWidth,
                        scale: graph.getBoundingClientRect().width / graph.viewBox.baseVal.width};
            }"""
        )
        assert seen["hidden"] <= 0
        assert 0.85 <= seen["scale"] <= 1.16  # its text has 11 units, that of the page 16 pixels


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours as CSS gives them (WCAG 2, relative luminance)."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_nothing_but_the_page_itself_is_requested(opened: Opened, report: Path) -> None:
    elsewhere = [url for url in opened.requests if not url.startswith(("data:", "blob:"))]
    assert elsewhere == [report.as_uri()]


def test_pointing_at_a_square_shows_its_value_interval_and_number_of_pairs(opened: Opened, run_dir: Path) -> None:
    run = open_run(run_dir)
    effects = site_effects(run.rows(), run.manifest.query_of)
    site = _site(effects, "mlp_out", 3, "document")
    shown = opened.point_at("map-1", column=3, row=1)
    assert shown.startswith("layer 3, document")
    assert f"IE {words.number(site['ie'])} {words.interval(site['ie_low'], site['ie_high'])}" in shown
    effect = f"{words.number(site['effect'])} {words.interval(site['effect_low'], site['effect_high'])}"
    assert f"effect {effect} logits" in shown
    margin = f"{words.number(site['p_effect'])} {words.interval(site['p_effect_low'], site['p_effect_high'])}"
    assert f"P(yes) − P(no) changes by {margin}" in shown
    assert shown.endswith("n = 12 pairs of 6 queries")


def test_pointing_at_a_head_names_it(opened: Opened, run_dir: Path) -> None:
    run = open_run(run_dir)
    effects = site_effects(run.rows(), run.manifest.query_of)
    heads = effects[effects["head"] == 1]
    site = _site(heads, "z", 4, "last")
    shown = opened.point_at("map-6", column=4, row=1)
    assert f"P(yes) − P(no) changes by {words.number(site['p_effect'])} [" in shown
    assert shown.startswith("L4H1, last")
    assert f"IE {words.number(site['ie'])} {words.interval(site['ie_low'], site['ie_high'])}" in shown


def test_pointing_at_a_listed_head_shows_its_square(opened: Opened) -> None:
    row = opened.tab.locator(".heads-list").nth(3).locator("tbody tr").first
    name = row.locator("th").text_content()
    row.scroll_into_view_if_needed()
    row.hover()
    label = opened.tab.locator("#map-6 .hoverlayer .hovertext")
    label.wait_for(timeout=30_000)
    assert str(label.text_content()).startswith(f"{name}, last")


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_never_scrolls_sideways(browser: Any, report: Path, width: int) -> None:
    with Opened(browser, report, width) as page:
        page.assert_within(width)


def test_labels_do_not_overlap_on_a_phone_with_32_layers_of_32_heads(browser: Any, tmp_path: Path) -> None:
    run_dir = write_synthetic_run(
        tmp_path / "run", n_pairs=4, n_layers=32, n_heads=32, regions=["last", "document.first"]
    )
    with Opened(browser, page_only(run_dir), 360) as page:
        boxes = page.tab.evaluate(
            """() => [...document.querySelectorAll(".plot")].map((plot) => ["xtick", "ytick"].map((kind) =>
                [...plot.querySelectorAll("." + kind + " text")].map((text) => {
                    const box = text.getBoundingClientRect();
                    return kind === "xtick" ? [box.left, box.right] : [box.top, box.bottom];
                })))"""
        )
        for ticks in (ticks for plot in boxes for ticks in plot):
            ends = sorted(ticks)
            assert len(ends) >= 2
            assert all(one[1] <= next_one[0] for one, next_one in itertools.pairwise(ends))
        assert page.tab.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_scale_choice_recolours_all_flow_maps_alike(browser: Any, run_dir: Path, tmp_path: Path) -> None:
    # a residual stream that reaches far beyond the modules
    def pale(rows: pd.DataFrame) -> pd.DataFrame:
        module = rows["component"].isin(["attn_out", "mlp_out"])
        restored = rows["ld_corrupted"] + 0.1 * (rows["ld_patched"] - rows["ld_corrupted"])
        return rows.assign(ld_patched=rows["ld_patched"].where(~module, restored))

    with Opened(browser, page_only(changed_run(run_dir, tmp_path / "run", pale))) as page:
        ends = "[0, 1, 2].map((i) => document.getElementById('map-' + i)._fullData[0].zmax)"
        legend = page.tab.locator(".legend[data-scale=flow] .legend-high")
        assert str(legend.text_content()).startswith("≥ +")
        before = page.tab.evaluate(ends)
        page.tab.locator("input[value=flow]").check()
        after = page.tab.evaluate(ends)
        assert len(set(before)) == len(set(after)) == 1
        assert after[0] > 5 * before[0]
        assert legend.text_content() == f"+{after[0]:g}"
        assert page.problems == []


def test_a_saved_file_holds_the_site_effects_as_plain_csv(opened: Opened, run_dir: Path, tmp_path: Path) -> None:
    with opened.tab.expect_download() as waiting:
        opened.tab.get_by_role("button", name="Save site_effects.csv").click()
    assert waiting.value.suggested_filename == "site_effects.csv"
    waiting.value.save_as(tmp_path / "saved.csv")
    run = open_run(run_dir)
    effects = site_effects(run.rows(), run.manifest.query_of)
    saved = pd.read_csv(tmp_path / "saved.csv")
    assert saved["effect"].to_numpy() == pytest.approx(effects["effect"].to_numpy(), rel=1e-6)  # seven digits


def test_every_table_is_saved_as_it_was_computed_and_every_other_file_is_there(
    browser: Any, mechanism_report: Path, tmp_path: Path
) -> None:
    contents = read_contents(open_run(mechanism_report.parent))
    tables = {name: table for name, (table, _) in contents.mechanism.tables.items()}
    tables |= {"site_effects.csv": contents.effects, "rows.csv": contents.rows}
    assert {"joint_interactions.csv", "paths.csv", "interaction_scores.csv", "direct_contributions.csv"} <= set(tables)
    with Opened(browser, mechanism_report) as page:
        buttons = page.tab.get_by_role("button", name="Save ").all()
        assert sorted(button.inner_text() for button in buttons) == sorted(f"Save {name}" for name in tables)
        for button in buttons:
            with page.tab.expect_download() as waiting:
                button.click()
            name = waiting.value.suggested_filename
            waiting.value.save_as(tmp_path / name)
            saved, table = pd.read_csv(tmp_path / name), tables[name]
            assert list(saved) == list(table)
            for column in table.select_dtypes("number"):
                found, wanted = (of[column].to_numpy(dtype=float, na_value=np.nan) for of in (saved, table))
                np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-12)  # seven digits
        links = {str(link.get_attribute("href")) for link in page.tab.locator("#data a").all()}
        assert {"manifest.json", "rows/joint-00000.parquet", "readouts/lens.parquet"} <= links
        assert all((mechanism_report.parent / link).is_file() for link in links)
        assert page.problems == []


def test_markup_in_a_label_shows_as_text(browser: Any, run_dir: Path, tmp_path: Path) -> None:
    attack = "<a href='javascript:alert(1)'>x</a>"
    renamed = changed_run(
        run_dir,
        tmp_path / "run",
        lambda rows: rows.assign(region=rows["region"].cat.rename_categories({"all": attack})),
    )
    with Opened(browser, page_only(renamed)) as page:
        assert page.tab.locator(".plot a").count() == 0
        assert attack in page.tab.locator("#map-0 .ytick").all_text_contents()[-1]
        assert page.point_at("map-0", column=1, row=4).startswith(f"layer 1, {attack}")
        assert page.problems == []


@pytest.mark.parametrize("kind", ["empty", "single", "begun"])
def test_runs_with_little_in_them_open_without_a_problem(
    browser: Any, run_dir: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "single":
        directory = write_synthetic_run(tmp_path / "run", n_pairs=1)
    else:
        kept = ["judge"] if kind == "empty" else []
        directory = changed_run(
            run_dir, tmp_path / "run", lambda rows: rows[rows["experiment"].isin(kept)], status="running"
        )
    report = page_only(directory)
    if kind == "begun":  # nothing to draw, so nothing says that it is drawn
        tab = browser.new_page()
        problems: list[str] = []
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(report.as_uri())
        assert tab.locator("h1").count() == 1
        assert problems == []
        tab.close()
        return
    with Opened(browser, report, 360, "dark") as page:
        assert page.problems == []
        if kind == "single":
            assert re.search(r"effect −?\d.\d+ \(one query: no interval\)", page.point_at("map-0", column=0, row=0))


def _site(effects: pd.DataFrame, component: str, layer: int, region: str) -> pd.Series[Any]:
    chosen = (effects["component"] == component) & (effects["layer"] == layer) & (effects["region"] == region)
    return effects[chosen].iloc[0]
