"""Can this model be studied? The load-time contract, clause by clause, and the lints of its verdict."""

from __future__ import annotations

from dataclasses import dataclass

from relscope.data import RelevancePair
from relscope.models import Contract, JudgeModel, VerdictLint, lint_verdict
from relscope.prompts import Exclusion, PromptRenderer, align
from relscope.study.config import StudyConfig
from relscope.study.prepare import load_model

_PROBE = RelevancePair(
    pair_id="probe",
    query_id="probe",
    query_text="why do leaves change color in autumn",
    positive_text="In autumn trees stop making chlorophyll, the green pigment; the yellow and orange pigments that "
    "were hidden beneath it then show.",
    negative_text="The autumn timetable of the regional railway begins on the first Sunday of October and adds two "
    "trains in the evening.",
    negative_kind="hard",
)


@dataclass(frozen=True)
class ModelCheck:
    """What was found out about a model."""

    judge: JudgeModel
    contract: Contract
    lints: list[VerdictLint]

    @property
    def ok(self) -> bool:
        """Whether every clause holds; lints warn only."""
        return all(clause.ok for clause in self.contract.clauses)


def check_model(config: StudyConfig) -> ModelCheck:
    """Check the configured model's contract, and its verdict on one built-in pair with the configured prompt."""
    judge = load_model(config)
    contract = judge.contract
    aligned = align(PromptRenderer(judge.tokenizer, config.prompt), _PROBE)
    if isinstance(aligned, Exclusion):
        lints = [VerdictLint("answer tokens", False, f"{aligned.reason}: {aligned.detail}")]
    else:
        prompts = [aligned.clean, aligned.corrupted]
        lints = lint_verdict(judge, prompts, config.prompt.answers, aligned.answer_ids)
    return ModelCheck(judge, contract, lints)
