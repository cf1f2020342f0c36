"""The error of what was measured in less than full precision, on rows made by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from relscope.analysis import precision_error

LAYERS = [0, 1, 2]


def rows(experiment: str, patched: list[float], direction: str = "denoise") -> pd.DataFrame:
    n = len(patched)
    return pd.DataFrame(
        {
            "experiment": experiment, "pair_id": "p0", "component": "mlp_out", "region": "last",
            "dest": None, "src": None,
            "layer": pd.array(LAYERS[:n], dtype="Int16"), "head": pd.array([None] * n, dtype="Int16"),
            "direction": direction, "ld_clean": 2.0, "ld_corrupted": -1.0, "ld_patched": patched,
        }
    )  # fmt: skip


def test_errors_and_effects_of_the_patches_that_were_measured_twice() -> None:
    # Of three layers two were measured again, in another order.
    again = rows("exact_sample", [0.0, 0.5, 1.0]).iloc[[2, 0]]
    found = precision_error(pd.concat([rows("flow", [0.1, 0.6, 0.7]), again]))
    assert found is not None
    assert found.n == 2
    assert found.rms == pytest.approx(math.sqrt((0.1**2 + 0.3**2) / 2))
    assert found.largest == pytest.approx(0.3)
    assert found.rms_effect == pytest.approx(math.sqrt((1.0**2 + 2.0**2) / 2))
    assert found.sentence.startswith("2 patches measured again exactly: rms error 2.2e-01 logits, 14.14% of the rms")


def test_direct_effects_and_paths_are_no_measurement_of_the_same_patch() -> None:
    flow, again = rows("flow", [0.1]), rows("exact_sample", [0.0])
    of_paths = [rows("direct", [5.0]), rows("paths", [7.0]).assign(region=None, dest="L2H1@last", src="L0H0@last")]
    assert precision_error(pd.concat([*of_paths, flow, again])) == precision_error(pd.concat([flow, again]))


def test_the_effect_of_a_noising_patch_starts_from_the_clean_run() -> None:
    both = [rows(name, [1.0], "noise") for name in ("flow", "exact_sample")]
    found = precision_error(pd.concat(both))
    assert found is not None
    assert (found.rms, found.rms_effect) == (0.0, 1.0)


def test_nothing_to_say_without_a_sample() -> None:
    assert precision_error(rows("flow", [0.1])) is None
