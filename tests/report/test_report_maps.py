"""Maps hold the numbers of the analysis in the right cells, and their colours mean what the scale says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from relscope.analysis import site_effects
from relscope.report.maps import CELL_COLUMNS, COLOURS, flow_maps, head_maps, shared_scale
from relscope.results import open_run

# Linear RGB as a red-blind and a green-blind person see it (Machado, Oliveira and Fernandes 2009, severity 1.0).
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
NORMAL = np.eye(3).tolist()


@pytest.fixture(scope="module")
def effects(run_dir: Path) -> pd.DataFrame:
    run = open_run(run_dir)
    return site_effects(run.rows(), run.manifest.query_of)


def test_every_cell_holds_the_numbers_of_its_site(effects: pd.DataFrame) -> None:
    flow, heads = flow_maps(effects), head_maps(effects)
    seen = 0
    for maps, experiment in ((flow, "flow"), (heads, "heads")):
        for effect_map in maps:
            for site in effects[effects["experiment"] == experiment].to_dict("records"):
                mine = site["component"] if experiment == "flow" else site["region"]
                if mine != effect_map.name:
                    continue
                row = effect_map.rows.index(site["region"] if experiment == "flow" else str(site["head"]))
                for column in CELL_COLUMNS:
                    assert effect_map.cells[column][row, effect_map.layers.index(site["layer"])] == site[column]
                seen += 1
    assert seen == len(effects)


def test_a_site_that_was_not_measured_is_missing_and_not_zero(effects: pd.DataFrame) -> None:
    gone = (effects["experiment"] == "flow") & (effects["layer"] == 2) & (effects["region"] == "document")
    attn_out = flow_maps(effects[~gone])[0]
    row = attn_out.rows.index("document")
    assert np.isnan(attn_out.cells["effect"][row, 2])
    assert np.isnan(attn_out.cells["effect"]).sum() == 1


def test_components_and_regions_come_in_their_fixed_order(effects: pd.DataFrame) -> None:
    flow = flow_maps(effects.sample(frac=1.0, random_state=1))
    assert [m.name for m in flow] == ["attn_out", "mlp_out", "resid_post"]
    assert flow[0].rows == ("query", "document", "instruction", "last", "all")
    assert [m.name for m in head_maps(effects)] == ["query", "document", "instruction", "last", "all"]


def test_no_value_lies_beyond_the_end_of_the_scale_and_the_scale_is_not_wasted(effects: pd.DataFrame) -> None:
    flow, heads = flow_maps(effects), head_maps(effects)
    scale = shared_scale(flow, heads, "ie")
    for maps, limit in ((flow, scale.flow), (flow[:2], scale.modules), (heads, scale.heads)):
        largest = max(np.abs(m.cells["ie"]).max() for m in maps)
        assert largest <= limit * (1 + 1e-12)  # the limit is a decimal number, rounded once
        assert limit < 1.1 * largest  # rounding up to two digits adds at most a tenth


def test_maps_without_any_effect_are_white(effects: pd.DataFrame) -> None:
    nothing = effects.assign(ie=0.0)
    scale = shared_scale(flow_maps(nothing), head_maps(nothing), "ie")
    assert (scale.flow, scale.modules, scale.heads) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("vision", [NORMAL, PROTANOPIA, DEUTERANOPIA])
def test_signs_are_told_apart_and_strength_is_ordered_by_colour_blind_readers(vision: list[list[float]]) -> None:
    colours = [_lab(colour, vision) for colour in COLOURS]
    middle = len(COLOURS) // 2
    for step in range(1, middle + 1):
        negative, positive = colours[middle - step], colours[middle + step]
        # Differences above 2.3 are just noticeable (CIE76); the paler the pair, the less there is to tell apart.
        assert np.linalg.norm(negative - positive) > 12 * step
        assert negative[0] < colours[middle - step + 1][0] - 3  # lightness falls with every step from 0
        assert positive[0] < colours[middle + step - 1][0] - 3


def _lab(colour: str, vision: list[list[float]]) -> np.ndarray:
    """CIELAB (D65) of a colour, seen through `vision`, a matrix on linear RGB."""
    srgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(vision) @ linear, 0, 1)
    to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    x, y, z = np.cbrt(np.maximum(to_xyz @ seen / np.array([0.95047, 1.0, 1.08883]), 1e-6))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
