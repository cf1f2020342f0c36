"""The judge model: loading, one architecture table, recording, restarting, and the load-time contract."""

from relscope.models.architectures import ARCHITECTURES, DecoderLayer
from relscope.models.contract import Clause, Contract, check_contract
from relscope.models.embedded import EMBEDDED_MODELS
from relscope.models.judge import JudgeModel, ModelIdentity, ModelShape
from relscope.models.loading import load_judge, load_tokenizer
from relscope.models.patching import patched
from relscope.models.recording import RecordedRun
from relscope.models.verdict import VerdictLint, lint_verdict

__all__ = [
    "ARCHITECTURES",
    "EMBEDDED_MODELS",
    "Clause",
    "Contract",
    "DecoderLayer",
    "JudgeModel",
    "ModelIdentity",
    "ModelShape",
    "RecordedRun",
    "VerdictLint",
    "check_contract",
    "lint_verdict",
    "load_judge",
    "load_tokenizer",
    "patched",
]
