"""The page of compared runs in a real browser: it draws, it answers the pointer, and it fits a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsing import Opened

from relscope.report import build_similarity_report
from synthetic import write_synthetic_run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 4 layers of 3 heads with two seeds, and one of 6 layers of 2 heads."""
    folder = tmp_path_factory.mktemp("runs")
    options: dict[str, Any] = {"regions": ("query", "last"), "components": ("attn_out", "z")}
    runs = [
        write_synthetic_run(folder / "one", n_layers=4, n_heads=3, seed=0, **options),
        write_synthetic_run(folder / "other", n_layers=4, n_heads=3, seed=1, **options),
        write_synthetic_run(folder / "deeper", n_layers=6, n_heads=2, seed=2, **options),
    ]
    return build_similarity_report(runs, folder / "out", 20).report


def test_the_page_draws_every_map_and_scatter_without_a_problem_or_a_request(browser: Any, report: Path) -> None:
    with Opened(browser, report) as page:
        assert page.tab.locator(".plot .heatmaplayer image").count() == 3 * (1 + 2)
        # by site: 4 layers x 2 regions, and as many for each of 3 heads; by depth twice 4 depths x 2 regions, of both
        assert page.tab.locator(".plot .scatterlayer .point").count() == 8 + 24 + 2 * (8 + 8)
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
        assert page.problems == []


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_the_page_never_scrolls_sideways(browser: Any, report: Path, width: int, scheme: str) -> None:
    with Opened(browser, report, width, scheme) as page:
        page.assert_within(width)
