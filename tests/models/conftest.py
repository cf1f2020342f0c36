"""Models in folders and files, as users have them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from families import CONFIGS, from_config, tiny_model


def write_model(folder: Path, model: Any, tokenizer: Any) -> Path:
    """Save a model with its tokenizer, as safetensors."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llama(tiny_tokenizer: Any) -> Any:
    """A tiny Llama without biases, as GGUF files and most checkpoints have it."""
    config = CONFIGS["llama"](len(tiny_tokenizer)).to_dict() | {"attention_bias": False, "mlp_bias": False}
    return from_config(transformers.LlamaConfig(**config))


@pytest.fixture(scope="session")
def llama_folder(llama: Any, tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "llama", llama, tiny_tokenizer)


@pytest.fixture
def edited(llama_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the folder; `config` fields are changed, files named in `without` are missing."""

    def copy(*, without: tuple[str, ...] = (), **config: Any) -> Path:
        folder = Path(shutil.copytree(llama_folder, tmp_path / "edited"))
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        for name in without:
            (folder / name).unlink()
        return folder

    return copy


@pytest.fixture(scope="session")
def other_llama(tiny_tokenizer: Any) -> Any:
    """Other weights in the same config."""
    return tiny_model("llama", len(tiny_tokenizer), seed=1)
