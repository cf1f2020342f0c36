"""Every family of models, each as a tiny random judge."""

from __future__ import annotations

from typing import Any

import pytest

from families import FAMILIES, tiny_judge
from relscope.models import JudgeModel


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def judge(family: str, tiny_tokenizer: Any) -> JudgeModel:
    return tiny_judge(family, tiny_tokenizer)
