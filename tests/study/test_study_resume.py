"""Resuming: nothing is computed twice; another study, model or data is refused; a bad disk breaks nothing."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from replaced import fail, replace, study_module

from relscope.errors import InputError
from relscope.results import Run, RunError, open_run
from relscope.study import StudyConfig, run_study
from tiny_study import MODEL_SEED, Told, assert_same_rows, save_tiny_model, tiny_config

# Room for one pair at a time: each is then a part of its own.
SMALL: dict[str, Any] = {
    "experiments": {"flow": {"regions": ["last", "query"]}, "heads": {"regions": ["last"]}},
    "memory": "7MiB",
}


@pytest.fixture(scope="module")
def uninterrupted(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run_study(tiny_config(tiny_model_folder, **SMALL), tmp_path_factory.mktemp("whole") / "run")


def test_the_same_study_again_computes_and_writes_nothing(
    tiny_model_folder: Path, uninterrupted: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = {path: path.stat().st_mtime_ns for path in (uninterrupted.directory / "rows").iterdir()}
    replace(monkeypatch, "run", "patch_pairs", fail)
    replace(monkeypatch, "run", "verdicts", fail)
    told = Told()
    again = run_study(tiny_config(tiny_model_folder, **SMALL), uninterrupted.directory, told)
    assert again.manifest.status == "complete"
    assert {path: path.stat().st_mtime_ns for path in (uninterrupted.directory / "rows").iterdir()} == parts
    assert told.n_patches == 0


def test_only_what_is_missing_is_measured(
    tiny_model_folder: Path, tmp_path: Path, uninterrupted: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_model_folder, **SMALL)
    run = run_study(config, tmp_path / "run")
    lost = tmp_path / "run" / "rows" / "heads-00001.parquet"
    lost.unlink()
    measured: list[tuple[str, int]] = []
    patch_pairs = study_module("run").patch_pairs

    def counted(judge: Any, work: Any, **options: Any) -> Any:
        measured.extend((pair.pair_id, len(sites)) for pair, sites in work)
        return patch_pairs(judge, work, **options)

    replace(monkeypatch, "run", "patch_pairs", counted)
    run = run_study(config, tmp_path / "run")
    assert measured == [(run.manifest.pairs[1].pair_id, 16)]  # 4 layers of 4 heads, of the second pair
    assert_same_rows(run, uninterrupted)


def test_device_and_memory_may_change_between_sessions(
    tiny_model_folder: Path, tmp_path: Path, uninterrupted: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at_pair(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        run_study(tiny_config(tiny_model_folder, **SMALL), tmp_path / "run")
    monkeypatch.undo()
    config = tiny_config(tiny_model_folder, **{**SMALL, "device": "auto", "memory": "1GiB"})
    assert_same_rows(run_study(config, tmp_path / "run"), uninterrupted)


def test_a_finished_run_that_lost_a_part_is_unfinished_until_it_is_back(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tiny_model_folder, **SMALL)
    run_study(config, tmp_path / "run")
    (tmp_path / "run" / "rows" / "flow-00002.parquet").unlink()
    interrupt_at_pair(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        run_study(config, tmp_path / "run")
    assert open_run(tmp_path / "run").manifest.status == "running"
    monkeypatch.undo()
    assert run_study(config, tmp_path / "run").manifest.status == "complete"


def interrupt_at_pair(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    patch_pairs = study_module("run").patch_pairs
    seen: list[str] = []

    def interrupted(judge: Any, work: Any, **options: Any) -> Any:
        ((pair, _),) = work
        seen.append(pair.pair_id)
        if len(seen) == number + 1:
            raise KeyboardInterrupt
        return patch_pairs(judge, work, **options)

    replace(monkeypatch, "run", "patch_pairs", interrupted)


def test_an_interrupted_study_keeps_the_pairs_it_has_done(
    tiny_model_folder: Path, tmp_path: Path, uninterrupted: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_at_pair(monkeypatch, 2)
    config = tiny_config(tiny_model_folder, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        run_study(config, tmp_path / "run")
    kept = open_run(tmp_path / "run")
    assert kept.manifest.status == "running"
    assert kept.rows("heads")["pair_id"].nunique() == 2
    monkeypatch.undo()
    assert_same_rows(run_study(config, tmp_path / "run"), uninterrupted)


def other_model(folder: Path, tokenizer: Any) -> Path:
    return save_tiny_model(folder, tokenizer, seed=MODEL_SEED + 1)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"seed": 1}, "config.seed: 0 in the folder, 1 now"),
        ({"pairs": 2}, "config.pairs: 3 in the folder, 2 now"),
        ({"direction": "noise"}, 'config.direction: "denoise" in the folder, "noise" now'),
        ({"filter": "correct"}, 'config.filter: "all" in the folder, "correct" now'),
        ({"dtype": "bfloat16"}, 'model.dtype: "float32" in the folder, "bfloat16" now'),
        ({"negatives": "random"}, 'config.negatives.kind: "hard" in the folder, "random" now'),
        ({"prompt": {"order": "idq"}}, 'prompt.order: "dqi" in the folder, "idq" now'),
        ({"prompt": {"instruction": "Relevant?"}}, "prompt.instruction: "),
        ({"experiments": {"heads": {"regions": ["last"]}}}, "config.experiments.flow: "),
    ],
)
def test_another_configuration_is_refused_and_what_differs_is_named(
    tiny_model_folder: Path, uninterrupted: Run, changed: dict[str, Any], field: str
) -> None:
    before = uninterrupted.rows()
    with pytest.raises(InputError) as refusal:
        run_study(tiny_config(tiny_model_folder, **{**SMALL, **changed}), uninterrupted.directory)
    assert field in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert_same_rows(open_run(uninterrupted.directory), before)


def test_other_weights_at_the_same_place_are_refused(
    tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = save_tiny_model(tmp_path / "model", tiny_tokenizer)
    run_study(tiny_config(model, pairs=1, **SMALL), tmp_path / "run")
    other_model(model, tiny_tokenizer)
    with pytest.raises(InputError, match=r"model\.fingerprint: .* in the folder, .* now"):
        run_study(tiny_config(model, pairs=1, **SMALL), tmp_path / "run")


def test_another_model_folder_is_refused_by_name(
    tiny_model_folder: Path, tiny_tokenizer: Any, tmp_path: Path, uninterrupted: Run
) -> None:
    other = other_model(tmp_path / "other", tiny_tokenizer)
    with pytest.raises(InputError) as refusal:
        run_study(tiny_config(other, **SMALL), uninterrupted.directory)
    assert f'config.model: "{tiny_model_folder}"' in str(refusal.value)
    assert "fingerprint" not in str(refusal.value)  # which follows from it, and says nothing to a reader


def test_changed_data_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    line = {"query": "cat", "positive_document": "The cat sat.", "hard_negative_document": ["A dog ran."]}
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps(line) + "\n")
    config = tiny_config(tiny_model_folder, data=str(data), **SMALL)
    run_study(config, tmp_path / "run")
    data.write_text(json.dumps(line | {"positive_document": "The cat slept."}) + "\n")
    with pytest.raises(InputError, match=r"data\.sha256: .*prompt\.token_sha256: "):
        run_study(config, tmp_path / "run")


def test_a_chat_template_that_was_edited_is_refused(tiny_tokenizer: Any, tmp_path: Path) -> None:
    # Not in the configuration, nor in the weights: the prompts' tokens tell.
    model = save_tiny_model(tmp_path / "model", tiny_tokenizer)
    config = tiny_config(model, pairs=1, **SMALL)
    run_study(config, tmp_path / "run")
    template = model / "chat_template.jinja"
    template.write_text("<|im_start|>" + template.read_text())
    with pytest.raises(InputError, match=r"prompt\.scaffold"):
        run_study(config, tmp_path / "run")


@pytest.mark.parametrize("nth", [1, 3, 4, 6])
def test_a_full_disk_is_one_clear_error_and_leaves_no_damaged_part(
    tiny_model_folder: Path, tmp_path: Path, uninterrupted: Run, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    # The nth flush fails: of the manifest, of the verdicts, of a part of rows.
    fsync, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls >= nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    config = tiny_config(tiny_model_folder, **SMALL)
    with pytest.raises(RunError, match="the disk is full") as failure:
        run_study(config, tmp_path / "run")
    assert "\n" not in str(failure.value)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "run").rglob("*.partial")] == []
    if nth > 1:
        open_run(tmp_path / "run").rows()  # whatever is there can be read
    assert_same_rows(run_study(config, tmp_path / "run"), uninterrupted)


def test_a_folder_below_a_file_cannot_be_written_and_says_so(tiny_model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/run: cannot make this folder"):
        run_study(tiny_config(tiny_model_folder, pairs=1, **SMALL), tmp_path / "file" / "run")


def test_two_studies_cannot_write_into_one_folder_at_once(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: StudyConfig = tiny_config(tiny_model_folder, pairs=1, **SMALL)
    patch_pairs = study_module("run").patch_pairs

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        with pytest.raises(RunError, match="another process writes this run"):
            run_study(config, tmp_path / "run")
        return patch_pairs(*arguments, **options)

    replace(monkeypatch, "run", "patch_pairs", meanwhile)
    assert run_study(config, tmp_path / "run").manifest.status == "complete"
