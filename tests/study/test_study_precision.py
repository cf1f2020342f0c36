"""A study in the precision delta: its rows, the exact sample beside them, and what is said of the error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from relscope.analysis import precision_error, site_effects
from relscope.errors import InputError
from relscope.report import build_report
from relscope.results import Run, open_run
from relscope.study import run_study
from tiny_study import assert_same_rows, tiny_config

SMALL = {"experiments": {"flow": {"regions": ["last"]}, "heads": {"regions": ["query", "last"]}}}


@pytest.fixture(scope="module")
def delta(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = tiny_config(tiny_model_folder, precision="delta", **SMALL)
    return run_study(config, tmp_path_factory.mktemp("run") / "delta")


@pytest.fixture(scope="module")
def exact(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_study(tiny_config(tiny_model_folder, **SMALL), tmp_path_factory.mktemp("run") / "exact")


def values(rows: pd.DataFrame) -> pd.Series:
    """LD_patched by pair and site."""
    keys = ["pair_id", "component", "region", "layer", "head"]
    return rows.astype(dict.fromkeys(keys, "str")).set_index(keys)["ld_patched"].sort_index()


def test_the_sample_is_exact_and_the_rest_is_near(delta: Run, exact: Run) -> None:
    rows = delta.rows()
    sample = values(rows[rows["experiment"] == "exact_sample"])
    wanted = values(exact.rows())
    assert len(sample) == 3 * min(48, len(wanted) // 3 - 1)
    assert (sample - wanted[sample.index]).abs().max() <= 1e-5
    measured = values(rows[~rows["experiment"].isin(["judge", "exact_sample"])])
    wanted = values(exact.rows()[exact.rows()["experiment"] != "judge"])
    assert 0 < (measured - wanted).abs().max() <= 3e-2


def test_the_report_states_the_error_and_counts_no_row_twice(delta: Run, exact: Run) -> None:
    error = precision_error(delta.rows())
    assert error is not None
    assert 0 < error.rms < 0.05 * error.rms_effect
    page = build_report(delta.directory).read_text(encoding="utf-8")
    assert error.sentence in page.replace("&#39;", "'")
    assert "delta: matrix products in bfloat16" in page
    assert "Error found" not in build_report(exact.directory).read_text(encoding="utf-8")


def test_the_sample_is_no_effect_of_its_own(delta: Run, exact: Run) -> None:
    sites = [site_effects(run.rows(), run.manifest.query_of) for run in (delta, exact)]
    assert len(sites[0]) == len(sites[1])
    assert set(sites[0]["experiment"]) == {"flow", "heads"}


def test_a_run_goes_on_in_its_own_precision_only(delta: Run, tiny_model_folder: Path) -> None:
    before = delta.rows()
    with pytest.raises(InputError, match=r'precision: "delta" in the folder, "exact" now'):
        run_study(tiny_config(tiny_model_folder, **SMALL), delta.directory)
    run_study(tiny_config(tiny_model_folder, precision="delta", **SMALL), delta.directory)
    assert_same_rows(open_run(delta.directory), before)


@pytest.mark.parametrize("fields", [{"dtype": "bfloat16"}])
def test_rounded_numbers_have_no_differences_to_take(
    tiny_model_folder: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="differences of float32 activations"):
        run_study(tiny_config(tiny_model_folder, precision="delta", **fields, **SMALL), tmp_path / "run")


def test_sets_of_heads_and_edges_are_measured_again_too(tiny_model_folder: Path, tmp_path: Path) -> None:
    experiments = {
        "edges": {"edges": ["last<-query"], "components": ["scores"]},
        "joint": {"heads": ["L0H1@last", "L1H3@query"]},
    }
    rows = {}
    for precision in ("delta", "exact"):
        config = tiny_config(tiny_model_folder, precision=precision, experiments=experiments)
        rows[precision] = run_study(config, tmp_path / precision).rows()
    sample = rows["delta"][rows["delta"]["experiment"] == "exact_sample"]
    assert len(sample) == 3 * (16 + 3)  # fewer sites than are drawn: all of them
    places = ["pair_id", "component", "layer", "head", "dest", "src"]
    found, wanted = (
        frame[frame["experiment"] != "judge"].astype(dict.fromkeys(places, "str")).set_index(places)["ld_patched"]
        for frame in (sample, rows["exact"])
    )
    assert found.index.sort_values().equals(wanted.index.sort_values())
    assert (found - wanted[found.index]).abs().max() <= 1e-5  # other batches, other rounding of float32 products
    error = precision_error(rows["delta"])
    assert error is not None
    assert 0 < error.rms < 0.05 * error.rms_effect
