"""What the report's tests share: synthetic runs with their reports, and the browser that opens them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pages import Page

from relscope.report import build_report
from relscope.report.contents import Contents, read_contents
from relscope.results import open_run
from synthetic import write_synthetic_run
from synthetic_mechanism import write_mechanism_run

REQUIRED = bool(os.environ.get("RELSCOPE_REQUIRE_CHROMIUM"))
QUIET = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--mute-audio"]


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run: 12 pairs of 6 queries patched, 5 layers of 3 heads, awkward texts."""
    return write_synthetic_run(tmp_path_factory.mktemp("run"), n_layers=5, n_heads=3)


@pytest.fixture(scope="session")
def report(run_dir: Path) -> Path:
    return build_report(run_dir)


@pytest.fixture(scope="session")
def page(report: Path) -> Page:
    return Page.read(report)


@pytest.fixture(scope="session")
def mechanism_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete run with edges, paths, readouts and sets of heads, whose effects are planted."""
    return write_mechanism_run(tmp_path_factory.mktemp("mechanism"))


@pytest.fixture(scope="session")
def contents(mechanism_run: Path) -> Contents:
    return read_contents(open_run(mechanism_run))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None and not REQUIRED:
        pytest.skip("no Chromium on this machine: install Debian's chromium")
    assert path is not None, "RELSCOPE_REQUIRE_CHROMIUM is set, but there is no Chromium"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield chromium
        chromium.close()
