"""The tiny model, and the study on it that most tests here begin with."""

from __future__ import annotations

from pathlib import Path

import pytest

from relscope.study import Prepared, Silent, StudyConfig
from relscope.study.prepare import prepare
from tiny_study import tiny_config, tiny_model_folder

__all__ = ["tiny_model_folder"]


@pytest.fixture(scope="module")
def config(tiny_model_folder: Path) -> StudyConfig:
    return tiny_config(tiny_model_folder)


@pytest.fixture(scope="module")
def prepared(config: StudyConfig) -> Prepared:
    return prepare(config, Silent())
