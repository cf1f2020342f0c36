"""The page of an ablation in a real browser: nothing goes wrong, nothing is fetched, and it fits a phone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browsing import Opened

from relscope.report import build_ablation_report
from synthetic_ablation import write_synthetic_ablation


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_ablation_report(write_synthetic_ablation(tmp_path_factory.mktemp("ablation") / "out"), 50).report


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_the_page_never_scrolls_sideways_and_fetches_nothing(
    browser: Any, report: Path, width: int, scheme: str
) -> None:
    with Opened(browser, report, width, scheme) as page:
        page.assert_within(width)
        assert page.tab.locator("svg.strip").count() == 2 * 6
        boxes = [strip.bounding_box() for strip in page.tab.locator("svg.strip").all()]
        assert min(box["width"] for box in boxes) > 60
        assert [url for url in page.requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]


def test_the_table_inside_can_be_saved(browser: Any, report: Path, tmp_path: Path) -> None:
    with Opened(browser, report) as page:
        with page.tab.expect_download() as download:
            page.tab.click("button[data-file]")
        download.value.save_as(tmp_path / "table.csv")
        assert (tmp_path / "table.csv").read_text().startswith("task,prompt,measure,condition")
