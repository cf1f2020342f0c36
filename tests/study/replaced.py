"""Parts of a study that a test takes out or watches."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


def study_module(name: str) -> Any:
    """A module of the study by its name in full: the package has functions of the modules' names, which hide them."""
    return importlib.import_module(f"relscope.study.{name}")


def replace(monkeypatch: pytest.MonkeyPatch, module: str, name: str, value: Any) -> None:
    """Put `value` in the place of a function or constant of a module of the study."""
    monkeypatch.setattr(study_module(module), name, value)


def fail(*_: Any, **__: Any) -> None:
    """Stands in the place of what must not be computed again."""
    raise AssertionError("something was computed again")
