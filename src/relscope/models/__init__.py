"""The judge model: loading, one architecture table, recording, restarting, and the load-time contract."""

from relscope.choices import EDGE_COMPONENTS, HEAD_COMPONENTS, KV_HEAD_COMPONENTS, RESIDUAL_COMPONENTS
from relscope.models.architectures import ARCHITECTURES, DecoderLayer
from relscope.models.attention import MOST_SCORES, EditFunction
from relscope.models.attention_reading import QueryAttention, check_readable, query_attention
from relscope.models.contract import Clause, Contract, check_contract
from relscope.models.differences import BaseRows, linear_modules
from relscope.models.edits import (
    ATTENTION_COMPONENTS,
    LayerEdits,
    Replacement,
    source_edges,
)
from relscope.models.embedded import EMBEDDED_ADAPTERS, EMBEDDED_MODELS
from relscope.models.judge import TOKENS_RECORDED_AT_ONCE, JudgeModel, ModelIdentity, ModelShape
from relscope.models.loading import load_judge, load_judges, load_tokenizer
from relscope.models.lora import LoraSettings, TunableJudge
from relscope.models.norms import LinearNorm, linear_norm
from relscope.models.patching import hook, patched
from relscope.models.projections import ParameterPart, parameter_parts
from relscope.models.receiving import AlteredHeads
from relscope.models.recording import RecordedRun
from relscope.models.rows import Joining, Piece, goes_by_rows
from relscope.models.scoring import PositionEdit, Treatment
from relscope.models.sources import is_adapter_on, split_adapter
from relscope.models.verdict import VerdictLint, lint_verdict

__all__ = [
    "ARCHITECTURES",
    "ATTENTION_COMPONENTS",
    "EDGE_COMPONENTS",
    "EMBEDDED_ADAPTERS",
    "EMBEDDED_MODELS",
    "HEAD_COMPONENTS",
    "KV_HEAD_COMPONENTS",
    "MOST_SCORES",
    "RESIDUAL_COMPONENTS",
    "TOKENS_RECORDED_AT_ONCE",
    "AlteredHeads",
    "BaseRows",
    "Clause",
    "Contract",
    "DecoderLayer",
    "EditFunction",
    "Joining",
    "JudgeModel",
    "LayerEdits",
    "LinearNorm",
    "LoraSettings",
    "ModelIdentity",
    "ModelShape",
    "ParameterPart",
    "Piece",
    "PositionEdit",
    "QueryAttention",
    "RecordedRun",
    "Replacement",
    "Treatment",
    "TunableJudge",
    "VerdictLint",
    "check_contract",
    "check_readable",
    "goes_by_rows",
    "hook",
    "is_adapter_on",
    "linear_modules",
    "linear_norm",
    "lint_verdict",
    "load_judge",
    "load_judges",
    "load_tokenizer",
    "parameter_parts",
    "patched",
    "query_attention",
    "source_edges",
    "split_adapter",
]
