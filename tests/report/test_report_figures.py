"""The figures fit a column of a two-column page and are sharp enough to print."""

from __future__ import annotations

import struct
from pathlib import Path

import pandas as pd
import pytest
from pages import Page, changed_run

from relscope.report import build_report
from relscope.report.figures import ticks as round_ticks

MAPS = [
    *("flow", "flow_attn_out", "flow_mlp_out", "flow_resid_post"),
    *("heads_query", "heads_document", "heads_instruction", "heads_last", "heads_all"),
]


def png_size(path: Path) -> tuple[int, int, float]:
    """Width and height in pixels, and dots per inch, from the file's own header."""
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    start = content.index(b"pHYs") + 4
    per_metre = struct.unpack(">I", content[start : start + 4])[0]
    return width, height, per_metre * 0.0254


@pytest.mark.parametrize("name", MAPS)
def test_each_map_is_a_column_wide_at_300_dots_per_inch_and_a_pdf(report: Path, name: str) -> None:
    width, height, dots = png_size(report.parent / "figures" / f"{name}.png")
    assert dots == pytest.approx(300, abs=1)  # stored as a whole number of dots a metre
    assert width / dots == pytest.approx(3.3, abs=0.01)
    assert 0.5 < height / dots < 9  # fits a page
    pdf = (report.parent / "figures" / f"{name}.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/Type3" not in pdf


def test_there_is_nothing_else_in_the_folder(report: Path) -> None:
    names = {f"{name}.{kind}" for name in MAPS for kind in ("png", "pdf")}
    assert {path.name for path in (report.parent / "figures").iterdir()} == names


@pytest.mark.parametrize(
    ("n", "most", "ticks"),
    [(1, 8, [0]), (5, 12, [0, 1, 2, 3, 4]), (9, 8, [0, 2, 4, 6, 8]), (32, 12, [0, 5, 10, 15, 20, 25, 30])],
)
def test_ticks_are_round_and_few(n: int, most: int, ticks: list[int]) -> None:
    assert round_ticks(n, most) == ticks


def test_two_directions_have_their_own_maps_and_files(run_dir: Path, tmp_path: Path) -> None:
    def both_ways(rows: pd.DataFrame) -> pd.DataFrame:
        few = rows[(rows["experiment"] == "judge") | (rows["component"] == "mlp_out")]
        patched = few[few["experiment"] == "flow"]
        other = patched.assign(direction=patched["direction"].cat.rename_categories({"denoise": "noise"}))
        return pd.concat([few.astype({"direction": object}), other.astype({"direction": object})])

    report = build_report(changed_run(run_dir, tmp_path / "run", both_ways))
    names = {f"flow{part}_{way}.png" for part in ("", "_mlp_out") for way in ("denoise", "noise")}
    assert {path.name for path in (report.parent / "figures").glob("*.png")} == names
    page = Page.read(report)
    assert len(page.data["maps"]) == 2
    assert "MLP output: largest at layer 4, at the last token (denoise)" in page.text
    assert "Direction: noise (one activation" in page.text


def test_a_region_cannot_name_a_file_elsewhere_nor_a_formula(run_dir: Path, tmp_path: Path) -> None:
    names = {"query": "../$x^2$/é", "last": "last"}
    renamed = changed_run(
        run_dir,
        tmp_path / "run",
        lambda rows: rows.assign(region=rows["region"].cat.rename_categories(names)),
    )
    build_report(renamed)
    assert (renamed / "figures" / "heads_..__x_2___.png").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
