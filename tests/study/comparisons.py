"""A tiny model, the same after some training, and the comparison of both that most tests here begin with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from families import tiny_model
from relscope.results import HEAD_CHANGES, WEIGHT_CHANGES, open_run, read_changes
from relscope.study import StudyConfig, compare_models
from tiny_study import MODEL_SEED, Told, assert_same_rows, tiny_config

SMALL: dict[str, Any] = {
    "memory": "7MiB",  # room for one pair at a time: each is then a part of its own
    "experiments": {
        "flow": {"regions": ["last", "query"], "components": ["attn_out", "mlp_out"]},
        "heads": {"regions": ["last", "document"]},
    },
}
FOLDERS = ("base", "tuned", "into_base", "into_tuned")


def changed_model(tokenizer: Any) -> Any:
    """The tiny model after some training: attention's outputs of layer 1, and one head's queries in layer 2."""
    model = tiny_model("llama", len(tokenizer), MODEL_SEED)
    other = tiny_model("llama", len(tokenizer), MODEL_SEED + 1)
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.copy_(other.model.layers[1].self_attn.o_proj.weight)
        model.model.layers[2].self_attn.q_proj.weight[8:16] += 0.5  # head 1 of 8 rows each
    return model


@pytest.fixture(scope="module")
def tuned_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("tuned-model")
    changed_model(tiny_tokenizer).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@dataclass
class Done:
    """A comparison that was run, and what it was told and run with."""

    folder: Path
    config: StudyConfig
    told: Told


@pytest.fixture(scope="module")
def done(tiny_model_folder: Path, tuned_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    config, told = tiny_config(tiny_model_folder, **SMALL), Told()
    out = tmp_path_factory.mktemp("comparison") / "out"
    assert compare_models(config, str(tuned_folder), out, told) == out
    return Done(out, config, told)


def header(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "comparison.json").read_text()))


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}


def assert_same_comparison(found: Path, wanted: Path) -> None:
    for name in FOLDERS:
        assert_same_rows(open_run(found / name), open_run(wanted / name))
        assert open_run(found / name).manifest.status == "complete"
    for schema in (HEAD_CHANGES, WEIGHT_CHANGES):
        ours, theirs = read_changes(found, schema), read_changes(wanted, schema)
        assert ours is not None
        assert ours.equals(theirs)
    assert header(found)["status"] == "complete"
    assert header(found)["identity_hash"] == header(wanted)["identity_hash"]
