"""Tuning a judge: questions, prompts and their labels, the training loop, and the card of the adapter it makes.

Names are imported when they are first used, so that options are checked before torch is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from relscope.tuning.card import Validated, evaluation_table, method_of_intervals
    from relscope.tuning.config import TuneConfig
    from relscope.tuning.run import Tuned, tune

_MODULE_OF = {
    "TuneConfig": "relscope.tuning.config",
    "Tuned": "relscope.tuning.run",
    "Validated": "relscope.tuning.card",
    "evaluation_table": "relscope.tuning.card",
    "method_of_intervals": "relscope.tuning.card",
    "tune": "relscope.tuning.run",
}

__all__ = ["TuneConfig", "Tuned", "Validated", "evaluation_table", "method_of_intervals", "tune"]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'relscope.tuning' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
