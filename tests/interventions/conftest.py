"""Every family of models, each as a tiny random judge; one of them; the prompts of the ablations."""

from __future__ import annotations

from typing import Any

import pytest
from ablations import prompts_of

from families import FAMILIES, tiny_judge
from relscope.models import JudgeModel
from relscope.prompts import Prompt


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def judge(family: str, tiny_tokenizer: Any) -> JudgeModel:
    return tiny_judge(family, tiny_tokenizer)


@pytest.fixture(scope="module")
def llama(tiny_tokenizer: Any) -> JudgeModel:
    """One model is enough for what does not depend on the layout of its layers."""
    return tiny_judge("llama", tiny_tokenizer)


@pytest.fixture
def judged(tiny_tokenizer: Any) -> list[Prompt]:
    """The prompts that are judged with something ablated."""
    return prompts_of(tiny_tokenizer, 0)


@pytest.fixture
def others(tiny_tokenizer: Any) -> list[Prompt]:
    """Prompts of another query, to gather reference values on."""
    return prompts_of(tiny_tokenizer, 1)
