"""A tiny model in a folder, as a user would have it, and studies on it that take a second."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from families import tiny_model
from relscope.models import JudgeModel
from relscope.prompts import PromptTemplate
from relscope.results import KEY_COLUMNS, Run
from relscope.study import StudyConfig

N_LAYERS, N_HEADS = 4, 4
# With these weights 3 of the first 10 demo pairs are judged correctly, and none of the first 3.
MODEL_SEED = 3
N_RIGHT_OF_10 = 3
# The tiny tokenizer cuts words into pieces; 24 tokens are some eight words.
SHORT = {"max_document_tokens": 24}
POINTWISE, PAIRWISE = PromptTemplate(**SHORT), PromptTemplate(format="pairwise", **SHORT)


def save_tiny_model(folder: Path, tokenizer: Any, seed: int = MODEL_SEED) -> Path:
    """A random model of the Llama family (4 layers, 4 heads, 2 key/value heads) with its tokenizer, as safetensors."""
    tiny_model("llama", len(tokenizer), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """The folder of the tiny model."""
    return save_tiny_model(tmp_path_factory.mktemp("tiny-model"), tiny_tokenizer)


def tiny_config(model: Path, **fields: Any) -> StudyConfig:
    """A study of three demo pairs with short documents; `fields` on top (those of the prompt too)."""
    prompt = {**SHORT, **fields.pop("prompt", {})}
    return StudyConfig(**{"model": str(model), "device": "cpu", "pairs": 3, "prompt": prompt, **fields})


def keyed(rows: pd.DataFrame | Run) -> pd.DataFrame:
    """The values of rows, sorted by their keys (as text); fails where a key is there twice."""
    frame = rows.rows() if isinstance(rows, Run) else rows
    frame = frame.astype(dict.fromkeys(KEY_COLUMNS, "str")).set_index(list(KEY_COLUMNS)).sort_index()
    assert not frame.index.has_duplicates
    return frame


def assert_same_rows(rows: pd.DataFrame | Run, expected: pd.DataFrame | Run) -> None:
    """The same keys, each once, and the same values.

    Within 1e-5 logits: which patches share a batch decides how float32 products are rounded, and a study that was
    interrupted batches what is left.
    """
    pd.testing.assert_frame_equal(keyed(rows), keyed(expected), check_exact=False, rtol=0, atol=1e-5)


@contextlib.contextmanager
def interrupted_after(n_calls: int, of: Any = JudgeModel, name: str = "relevance") -> Iterator[None]:
    """Within it, what `of` calls by this name answers `n_calls` times; from then on it raises KeyboardInterrupt."""
    real, n_asked = getattr(of, name), 0

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal n_asked
        n_asked += 1
        if n_asked > n_calls:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(of, name, interrupted)
        yield


@dataclass
class Told:
    """A progress that remembers everything it was told."""

    stages: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    n_patches: int = 0
    work: float = 0.0
    n_done: int = 0
    work_done: float = 0.0

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def start(self, n_patches: int, work: float) -> None:
        self.n_patches, self.work = n_patches, work

    def advance(self, n_patches: int, work: float) -> None:
        self.n_done += n_patches
        self.work_done += work

    def warn(self, text: str) -> None:
        self.warnings.append(text)
