"""The page of compared runs in a real browser: it draws, it answers the pointer, and it fits a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsing import Opened
from pages import changed_run, with_edges

from relscope.report import build_similarity_report
from synthetic import write_synthetic_run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 4 layers of 3 heads with two seeds, both with an edge, and one of 6 layers of 2 heads without."""
    folder = tmp_path_factory.mktemp("runs")
    options: dict[str, Any] = {"regions": ("query", "last"), "components": ("attn_out", "z")}
    runs = []
    for seed, name in enumerate(("one", "other")):
        source = write_synthetic_run(folder / f"source of {name}", n_layers=4, n_heads=3, seed=seed, **options)
        runs.append(changed_run(source, folder / name, lambda rows: with_edges(rows, ["last<-query"])))
    runs.append(write_synthetic_run(folder / "deeper", n_layers=6, n_heads=2, seed=2, **options))
    return build_similarity_report(runs, folder / "out", 20).report


def test_the_page_draws_every_map_and_scatter_without_a_problem_or_a_request(browser: Any, report: Path) -> None:
    with Opened(browser, report) as page:
        assert page.tab.locator(".plot .heatmaplayer image").count() == 3 * (1 + 2) + 2
        # by site: 4 layers x 2 regions, and as many for each of 3 heads, and 4 x 3 edges; by depth twice 4 depths x 2
        # regions, of both
        assert page.tab.locator(".plot .scatterlayer .point").count() == 8 + 24 + 12 + 2 * (8 + 8)
        assert page.problems == []
        assert [url for url in page.requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]


def test_pointing_at_a_square_shows_the_runs_of_that_shape(browser: Any, report: Path) -> None:
    with Opened(browser, report) as page:
        shown = page.point_at("map-0", column=3, row=1)
        assert shown.startswith("layer 3, last")
        assert "A: " in shown
        assert "B: " in shown
        assert "C: " not in shown
        deeper = page.point_at("map-2", column=5, row=1)
        assert deeper.startswith("layer 5, lastC: ")
        edge = page.point_at("map-9", column=3, row=1)
        assert edge.startswith("L3H1, scores last<-queryA: ")
        assert "B: " in edge
        assert edge.count("; n = 12") == 2
        assert page.problems == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_the_page_never_scrolls_sideways(browser: Any, report: Path, width: int, scheme: str) -> None:
    with Opened(browser, report, width, scheme) as page:
        page.assert_within(width)


@pytest.mark.parametrize("width", [380, 1280])
def test_names_of_points_are_within_the_plot_and_apart(browser: Any, report: Path, width: int) -> None:
    with Opened(browser, report, width) as page:
        plots = page.tab.evaluate(
            """() => [...document.querySelectorAll('[id^="scatter-"]')].map((plot) => {
                const box = (node) => {
                    const at = node.getBoundingClientRect();
                    return [at.left, at.right, at.top, at.bottom];
                };
                return [box(plot), [...plot.querySelectorAll(".textpoint text")].filter((t) => t.textContent).map(box)];
            })"""
        )
        assert sum(len(names) for _, names in plots) >= len(plots)
        for (left, right, *_), names in plots:
            for i, one in enumerate(names):
                assert left <= one[0] < one[1] <= right
                for other in names[:i]:
                    # lines of text may touch
                    apart = (
                        one[0] >= other[1] or other[0] >= one[1] or min(one[3], other[3]) - max(one[2], other[2]) < 4
                    )
                    assert apart
