"""Tuning a judge: questions, prompts and their labels, the training loop, and the card of the adapter it makes.

Names are imported when they are first used, so that options are checked before torch is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from relscope.lazy import lazily

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


__getattr__ = lazily(__name__, _MODULE_OF)


def __dir__() -> list[str]:
    return list(__all__)
