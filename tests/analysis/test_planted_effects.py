"""From a run folder to its effects: what was planted in synthetic rows is found, with intervals that hold it."""

from __future__ import annotations

from pathlib import Path

import pytest

from relscope.analysis import important_sites, judge_quality, site_effects, top_heads
from relscope.results import open_run
from synthetic import N_FILTERED, write_synthetic_run


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_the_planted_head_is_found_with_its_share_of_the_gap(tmp_path: Path, direction: str) -> None:
    run = open_run(write_synthetic_run(tmp_path / "run", n_pairs=40, seed=3, direction=direction))
    effects = site_effects(run.rows(), run.manifest.query_of)
    strongest = top_heads(effects, "last", k=1).iloc[0]
    assert (strongest["layer"], strongest["head"]) == (3, 1)
    # 0.5 is planted on top of 0.02; the noise of each pair has a standard deviation of 0.05 of its gap.
    assert strongest["ie_low"] < 0.52 < strongest["ie_high"]
    assert strongest["ie_high"] - strongest["ie_low"] < 0.1
    negative = effects[effects["experiment"] == "heads"].sort_values("ie").iloc[0]
    assert (negative["layer"], negative["head"]) == (0, 0)


def test_the_planted_heads_are_called_important_and_the_rest_is_not(tmp_path: Path) -> None:
    run = open_run(write_synthetic_run(tmp_path / "run", n_pairs=80, seed=3))
    effects = site_effects(run.rows(), run.manifest.query_of)
    heads = effects[(effects["experiment"] == "heads") & (effects["region"] == "last")]
    important = heads[important_sites(heads, least_ie=0.05)]
    # Head 1 of the last layer causes half of the gap, head 0 of layer 0 minus a fifth; the others 0.02.
    assert list(zip(important["layer"], important["head"], strict=True)) == [(0, 0), (3, 1)]
    assert (important["q_value"] < 0.001).all()


def test_the_planted_depth_of_the_last_token_is_found(tmp_path: Path) -> None:
    run = open_run(write_synthetic_run(tmp_path / "run", n_pairs=40, seed=4))
    effects = site_effects(run.rows(), run.manifest.query_of)
    found = effects[(effects["component"] == "attn_out") & (effects["region"] == "last")]
    assert found["layer"].tolist() == [0, 1, 2, 3]
    for layer, ie in zip(found["layer"], found["ie"], strict=True):
        # Twenty queries of two pairs: the mean of the noise is below 0.03 in all but one of a thousand sites.
        assert abs(ie - (layer + 1) / 4) < 0.04


def test_filtered_pairs_are_judged_and_not_patched(tmp_path: Path) -> None:
    run = open_run(write_synthetic_run(tmp_path / "run", n_pairs=10))
    rows = run.rows()
    judged = judge_quality(rows[rows["experiment"] == "judge"], run.manifest.query_of)
    assert judged.n == 10 + N_FILTERED == len(run.manifest.pairs)
    assert not judged.at_chance
    assert set(site_effects(rows, run.manifest.query_of)["n_pairs"]) == {10}


def test_a_run_of_a_guessing_model_is_said_to_be_at_chance(tmp_path: Path) -> None:
    run = open_run(write_synthetic_run(tmp_path / "run", n_pairs=40, judges_well=False))
    assert judge_quality(run.rows("judge"), run.manifest.query_of).at_chance
