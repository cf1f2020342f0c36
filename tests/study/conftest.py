"""The tiny model, the study on it that most tests here begin with, and the collection that it reranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from killing import server

from relscope.data import Collection, load_collection
from relscope.models import JudgeModel, load_judge
from relscope.study import Prepared, Silent, StudyConfig
from relscope.study.prepare import prepare
from tiny_study import tiny_config, tiny_model_folder

__all__ = ["server", "tiny_model_folder"]


@pytest.fixture(scope="module")
def config(tiny_model_folder: Path) -> StudyConfig:
    return tiny_config(tiny_model_folder)


@pytest.fixture(scope="module")
def prepared(config: StudyConfig) -> Prepared:
    return prepare(config, Silent())


@pytest.fixture(scope="module")
def judge(tiny_model_folder: Path) -> JudgeModel:
    """The tiny model, loaded."""
    return load_judge(str(tiny_model_folder), device="cpu")


@pytest.fixture(scope="module")
def demo() -> Collection:
    return load_collection("demo")


@pytest.fixture
def counted(judge: JudgeModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The ids of every prompt that the model was given."""
    seen: list[tuple[int, ...]] = []
    relevance = judge.relevance

    def remembering(prompts: Sequence[Any], answer_ids: tuple[int, int]) -> Any:
        seen.extend(prompt.ids for prompt in prompts)
        return relevance(prompts, answer_ids)

    monkeypatch.setattr(judge, "relevance", remembering)
    return seen
