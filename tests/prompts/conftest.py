"""Tokenizers for the tests of prompts, each built once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from tokenizer_zoo import ZOO


@cache
def _tokenizer(name: str) -> Any:
    return ZOO[name]()


@pytest.fixture(scope="session")
def zoo() -> Callable[[str], Any]:
    """A tokenizer of the zoo by name."""
    return _tokenizer


@pytest.fixture(params=sorted(ZOO), scope="session")
def any_tokenizer(request: pytest.FixtureRequest) -> Any:
    """Each tokenizer of the zoo in turn."""
    return _tokenizer(request.param)
