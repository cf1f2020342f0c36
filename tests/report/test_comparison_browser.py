"""The page of a comparison in a real browser: it draws, it answers the pointer and the choices, and it fits a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import Opened

from relscope.report import words
from relscope.report.comparison_contents import Comparison, compare
from relscope.report.comparison_folder import read_comparison
from relscope.report.comparison_page import render
from synthetic_comparison import new_head, write_comparison

N_LAYERS, N_HEADS = 4, 3
LAYER, HEAD = new_head(N_LAYERS)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = write_comparison(tmp_path_factory.mktemp("pair") / "compared", 12, N_LAYERS, N_HEADS, ("query", "last"))
    return compare(read_comparison(folder))


@pytest.fixture(scope="module")
def report(comparison: Comparison) -> Path:
    path = comparison.stored.directory / "report.html"
    path.write_text(render(comparison, []), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def opened(browser: Any, report: Path) -> Iterator[Opened]:
    with Opened(browser, report) as page:
        yield page


def map_of(page: Opened, panel: str, name: str) -> str:
    """The id of one map, by its panel and by its component or region."""
    identifier = page.tab.evaluate(
        """([panel, name]) => JSON.parse(document.getElementById("plot-data").textContent)
            .maps.find((map) => map.panel === panel && map.name === name).id""",
        [panel, name],
    )
    return str(identifier)


def test_the_page_draws_every_map_and_scatter_without_a_problem_or_a_request(opened: Opened, report: Path) -> None:
    assert opened.tab.locator(".plot .heatmaplayer image").count() == 5 * (3 + 2)
    assert opened.tab.locator(".plot .scatterlayer .point").count() == 2 * N_LAYERS * N_HEADS
    assert opened.problems == []
    assert [url for url in opened.requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]


def test_pointing_at_a_square_shows_both_models_and_their_difference(opened: Opened, comparison: Comparison) -> None:
    site = comparison.largest_changes("heads").iloc[0]
    assert (site["layer"], site["head"], site["region"]) == (LAYER, HEAD, "last")
    for panel in ("base", "tuned", "tuned − base"):
        shown = opened.point_at(map_of(opened, panel, "last"), column=LAYER, row=HEAD)
        assert shown.startswith(f"L{LAYER}H{HEAD}, last")
        for name, ie, line in (
            ("effect_tuned", "ie_tuned", "tuned"),
            ("difference", "ie_difference", "tuned − base"),
        ):
            effect = f"{words.number(site[name])} {words.interval(site[f'{name}_low'], site[f'{name}_high'])}"
            share = f"{words.number(site[ie])} {words.interval(site[f'{ie}_low'], site[f'{ie}_high'])}"
            assert f"{line}: {effect} logits; IE {share}" in shown
        assert shown.endswith("n = 12 pairs of 6 queries")


def test_pointing_at_a_transfer_shows_both_directions(opened: Opened) -> None:
    shown = opened.point_at(map_of(opened, "base into tuned", "attn_out"), column=LAYER, row=1)
    assert shown.startswith(f"layer {LAYER}, last")
    assert "tuned into base: " in shown
    assert "base into tuned: −" in shown
    assert shown.count("logits; share 0.7") == 2  # 0.70 is planted, with a noise of 0.01 over 12 pairs


def test_pointing_at_a_head_of_the_scatter_names_it_with_its_weights(opened: Opened) -> None:
    number = LAYER * N_HEADS + HEAD
    square = opened.tab.evaluate(
        """([id, number]) => {
            const plot = document.getElementById(id);
            plot.scrollIntoView({block: "center", behavior: "instant"});
            const box = plot.querySelectorAll(".scatterlayer .point")[number].getBoundingClientRect();
            return [box.left + box.width / 2, box.top + box.height / 2];
        }""",
        ["scatter-1", number],
    )
    opened.tab.mouse.move(square[0] - 1, square[1] - 1)
    opened.tab.mouse.move(*square)
    label = opened.tab.locator("#scatter-1 .hoverlayer .hovertext")
    label.wait_for(timeout=30_000)
    text = str(label.text_content())
    assert text.startswith(f"L{LAYER}H{HEAD}, last")
    # 0.02 (layer + 1) (head + 1) is planted
    assert f"its weights q moved by {100 * 0.02 * (LAYER + 1) * (HEAD + 1):.1f} %" in text


def test_choosing_logits_recolours_the_maps_of_that_section_alone(browser: Any, report: Path) -> None:
    with Opened(browser, report) as page:
        ends = """() => Object.fromEntries(JSON.parse(document.getElementById("plot-data").textContent).maps.map(
            (map) => [map.id, document.getElementById(map.id)._fullData[0].zmax]))"""
        before = page.tab.evaluate(ends)
        page.tab.locator("input[name=quantity-effects][value=effect]").check()
        after = page.tab.evaluate(ends)
        base, carried = map_of(page, "base", "attn_out"), map_of(page, "tuned into base", "attn_out")
        assert after[base] > 2 * before[base]  # from shares of the gap to logits
        assert after[carried] == before[carried]
        legend = page.tab.locator(f".legend[data-map={base}] .legend-high")
        assert legend.text_content() == f"+{after[base]:g}"
        assert page.problems == []


def test_choosing_the_difference_moves_the_heads_of_the_scatter(
    browser: Any, report: Path, comparison: Comparison
) -> None:
    assert comparison.moved.heads is not None
    heads = comparison.moved.heads[comparison.moved.heads["region"] == "last"]
    with Opened(browser, report) as page:
        page.tab.locator("input[name=matters][value=difference]").check()
        shown = page.tab.evaluate("Array.from(document.getElementById('scatter-1')._fullData[0].y)")
        assert shown == pytest.approx(heads["difference"].abs().to_list(), rel=1e-5)  # six digits are written
        assert page.problems == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_the_page_never_scrolls_sideways(browser: Any, report: Path, width: int, scheme: str) -> None:
    with Opened(browser, report, width, scheme) as page:
        page.assert_within(width)


def test_maps_of_one_line_have_squares_of_one_width_and_name_their_rows_once(opened: Opened) -> None:
    shown = opened.tab.evaluate(
        """() => [...document.querySelectorAll(".side")].map((line) => [...line.querySelectorAll(".plot")].map((plot) =>
            [plot._fullLayout.xaxis._length, plot.querySelectorAll(".ytick").length]))"""
    )
    for line in shown:
        widths, named = zip(*line, strict=True)
        assert max(widths) - min(widths) <= 4  # pixels, of some 300
        assert named[0] > 0
        assert not any(named[1:])


def test_a_comparison_that_has_only_begun_opens_without_a_problem(browser: Any, tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "compared", 4, 2, 2, ("last",), parts=(), status="running")
    path = folder / "report.html"
    path.write_text(render(compare(read_comparison(folder)), []), encoding="utf-8")
    tab = browser.new_page()
    problems: list[str] = []
    tab.on("console", lambda message: problems.append(message.text))
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(path.as_uri())
    assert tab.locator("h1").count() == 1
    assert problems == []
    tab.close()
