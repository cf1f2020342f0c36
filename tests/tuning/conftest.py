"""A tiny model and a file of questions that it can be tuned on in seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from relscope.tuning import TuneConfig
from tiny_study import tiny_model_folder

__all__ = ["tiny_model_folder"]

ANIMALS = ("cat", "dog", "cow", "hen", "fox", "owl", "bee", "ant", "eel", "elk", "ape", "bat")


@pytest.fixture(scope="session")
def questions_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve questions that a bag of letters can answer: the relevant passage names the animal."""
    rows = [
        {
            "query": f"where did the {animal} sit",
            "positive_document": f"The {animal} sat on the mat near the river.",
            "hard_negative_document": [f"The {ANIMALS[i - k]} ran to the hill near the mat." for k in (1, 2, 3)],
        }
        for i, animal in enumerate(ANIMALS)
    ]
    path = tmp_path_factory.mktemp("questions") / "animals.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def config_of(tiny_model_folder: Path, questions_file: Path) -> Callable[..., TuneConfig]:
    """A configuration for the tiny model; fields on top."""

    def make(**fields: Any) -> TuneConfig:
        return TuneConfig(
            **{
                "model": str(tiny_model_folder),
                "device": "cpu",
                "dtype": "float32",
                "data": str(questions_file),
                "prompts": {"pointwise-dqi": 2, "pairwise-dqi": 1},
                "optimisation": {"epochs": 2, "questions_per_step": 2, "learning_rate": 0.01},
                "validation": {"share": 0.3, "every": 2},
            }
            | fields
        )

    return make
