"""Resuming a comparison: nothing is computed twice; another one, or another writer, is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from comparisons import SMALL, Done, assert_same_comparison, done, header, snapshot, tuned_folder
from replaced import replace, study_module

from relscope.errors import InputError
from relscope.results import WEIGHT_CHANGES, RunError, open_run, read_changes
from relscope.study import compare_models
from tiny_study import MODEL_SEED, assert_same_rows, interrupted_after, save_tiny_model, tiny_config

__all__ = ["done", "tuned_folder"]


def test_the_same_comparison_again_measures_and_writes_nothing(
    done: Done, tuned_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(done.folder)
    created = header(done.folder)["created"]
    for module, name in (("run", "patch_pairs"), ("comparing", "transfer_pair"), ("comparing", "head_changes"),
                         ("comparing", "weight_changes")):  # fmt: skip
        replace(monkeypatch, module, name, None)
    compare_models(done.config, str(tuned_folder), done.folder)
    assert snapshot(done.folder) == before
    assert (header(done.folder)["created"], header(done.folder)["status"]) == (created, "complete")


@pytest.mark.parametrize("lost", ["into_tuned/rows/transfer_heads_clean-00001.parquet", "changes/weights.parquet"])
def test_a_part_that_was_lost_is_measured_again(done: Done, tuned_folder: Path, tmp_path: Path, lost: str) -> None:
    folder = Path(shutil.copytree(done.folder, tmp_path / "copy"))
    (folder / lost).unlink()
    compare_models(done.config, str(tuned_folder), folder)
    assert_same_rows(open_run(folder / "into_tuned"), open_run(done.folder / "into_tuned"))
    assert read_changes(folder, WEIGHT_CHANGES).equals(read_changes(done.folder, WEIGHT_CHANGES))  # type: ignore[union-attr]
    assert header(folder)["status"] == "complete"


@pytest.mark.parametrize(
    ("module", "name", "nth"),
    [("run", "patch_pairs", 2), ("run", "patch_pairs", 5), ("comparing", "transfer_pair", 2),
     ("comparing", "transfer_pair", 8), ("comparing", "head_changes", 3), ("comparing", "weight_changes", 1)],
)  # fmt: skip
def test_interrupted_anywhere_and_resumed_it_has_what_an_uninterrupted_one_has(
    done: Done, tuned_folder: Path, tmp_path: Path, module: str, name: str, nth: int
) -> None:
    with interrupted_after(nth - 1, study_module(module), name), pytest.raises(KeyboardInterrupt):
        compare_models(done.config, str(tuned_folder), tmp_path / "out")
    assert header(tmp_path / "out")["status"] == "running"
    compare_models(done.config, str(tuned_folder), tmp_path / "out")
    assert_same_comparison(tmp_path / "out", done.folder)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"seed": 1}, "config.seed: 0 in the folder, 1 now"),
        ({"pairs": 2}, "config.pairs: 3 in the folder, 2 now"),
        ({"direction": "noise"}, "config.direction"),
        ({"experiments": "heads"}, "config.experiments.flow"),
    ],
)
def test_another_configuration_is_refused_and_what_differs_is_named(
    done: Done, tuned_folder: Path, tiny_model_folder: Path, changed: dict[str, Any], field: str
) -> None:
    before = snapshot(done.folder)
    with pytest.raises(InputError, match="holds another comparison") as refusal:
        compare_models(tiny_config(tiny_model_folder, **{**SMALL, **changed}), str(tuned_folder), done.folder)
    assert field in str(refusal.value)
    assert snapshot(done.folder) == before


def test_another_tuned_model_is_refused_in_the_same_folder(done: Done, tiny_tokenizer: Any, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other", tiny_tokenizer, seed=MODEL_SEED + 5)
    with pytest.raises(InputError, match=r"tuned\.model\.fingerprint: "):
        compare_models(done.config, str(other), done.folder)


def test_a_folder_that_holds_something_else_is_refused(done: Done, tuned_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds 'manifest\.json' and no comparison\.json"):
        compare_models(done.config, str(tuned_folder), done.folder / "base")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        compare_models(done.config, str(tuned_folder), tmp_path / "file")


@pytest.mark.parametrize("text", ["{", "[]", '{"schema_version": 2}', '{"schema_version": 1}'])
def test_a_damaged_header_is_refused(done: Done, tuned_folder: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(InputError, match=r"comparison\.json: "):
        compare_models(done.config, str(tuned_folder), tmp_path)


def test_two_comparisons_cannot_write_into_one_folder_at_once(
    done: Done, tuned_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = study_module("comparing")
    real = place.weight_changes

    def meanwhile(*arguments: Any) -> Any:
        with pytest.raises(RunError, match="another process writes"):
            compare_models(done.config, str(tuned_folder), tmp_path / "out")
        return real(*arguments)

    monkeypatch.setattr(place, "weight_changes", meanwhile)
    compare_models(done.config, str(tuned_folder), tmp_path / "out")
