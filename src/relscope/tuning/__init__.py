"""Tuning a judge: questions, prompts and their labels, the training loop, and the card of the adapter it makes."""

from relscope.tuning.card import Validated, evaluation_table
from relscope.tuning.config import TuneConfig
from relscope.tuning.run import Tuned, tune

__all__ = ["TuneConfig", "Tuned", "Validated", "evaluation_table", "tune"]
