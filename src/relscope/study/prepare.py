"""From a configuration to a model that is checked and pairs that are aligned: what every command begins with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from relscope.data import PairSet, load_pairs
from relscope.errors import InputError
from relscope.interventions import Precision, check_precision
from relscope.models import Contract, JudgeModel, load_judge, load_tokenizer
from relscope.prompts import AlignedPair, Exclusion, PromptRenderer, align_all
from relscope.study.config import StudyConfig
from relscope.study.joint import head_site


class Progress(Protocol):
    """Somebody who wants to know how far a study is. Amounts of work are floating-point operations."""

    def stage(self, text: str) -> None:
        """Another stage has begun."""
        ...

    def start(self, n_patches: int, work: float) -> None:
        """Patching begins: so many patches, so much work."""
        ...

    def advance(self, n_patches: int, work: float) -> None:
        """So much more is done."""
        ...

    def warn(self, text: str) -> None:
        """Something that the reader of the results should know."""
        ...


class Silent:
    """A progress that tells nobody."""

    def stage(self, text: str) -> None:
        """Say nothing."""

    def start(self, n_patches: int, work: float) -> None:
        """Say nothing."""

    def advance(self, n_patches: int, work: float) -> None:
        """Say nothing."""

    def warn(self, text: str) -> None:
        """Say nothing."""


class Noting:
    """A progress that keeps what was warned of, and passes everything on; a warning comes once.

    Args:
        progress: that it is passed on to.

    Attributes:
        notes: what was warned of.
    """

    def __init__(self, progress: Progress) -> None:
        self.to = progress
        self.notes: dict[str, None] = {}
        self.advance = progress.advance

    def stage(self, text: str) -> None:
        """Pass it on."""
        self.to.stage(text)

    def start(self, n_patches: int, work: float) -> None:
        """Pass it on."""
        self.to.start(n_patches, work)

    def warn(self, text: str) -> None:
        """Pass it on the first time, and keep it."""
        if text not in self.notes:
            self.notes[text] = None
            self.to.warn(text)


class Within(Noting):
    """The progress of one task within a larger one: amounts go on and warnings are kept, stages do not."""

    def stage(self, text: str) -> None:
        """Say nothing: the larger task has its own."""

    def start(self, n_patches: int, work: float) -> None:
        """Say nothing: the whole was begun before."""


@dataclass(frozen=True)
class Prepared:
    """A model and the pairs it can be asked about."""

    judge: JudgeModel
    contract: Contract
    renderer: PromptRenderer
    loaded: PairSet
    aligned: list[AlignedPair]
    exclusions: list[Exclusion]

    def precision(self, config: StudyConfig) -> Precision:
        """The precision of patched runs on this model and device.

        Raises:
            InputError: delta is asked for, and the model's numbers or its architecture do not allow it.
        """
        if config.precision == "auto":
            fits = self.judge.dtype == torch.float32 and self.contract.restartable
            on_cuda = self.judge.device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
            return "delta" if fits and on_cuda else "exact"
        if config.precision == "delta":
            check_precision(self.judge, "delta", restart=self.contract.restartable)
        return config.precision

    @property
    def token_sha256(self) -> str:
        """SHA-256 over every prompt's token ids: changes with the data, the texts, the tokenizer or its template."""
        digest = hashlib.sha256()
        for pair in self.aligned:
            digest.update(f"{pair.pair_id}{pair.clean.ids}{pair.corrupted.ids}{pair.answer_ids}".encode())
        return digest.hexdigest()


def load_model(config: StudyConfig) -> JudgeModel:
    """Load the configured model."""
    return load_judge(
        config.model,
        adapter=config.adapter,
        dtype=config.dtype,
        device=config.device,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )


def load_data(config: StudyConfig, progress: Progress) -> PairSet:
    """Load the configured pairs.

    Raises:
        InputError: the data cannot be used.
    """
    progress.stage(f"reading {config.data}")
    return load_pairs(config.data, negatives=config.sampling(), limit=config.pairs)


def prepare(config: StudyConfig, progress: Progress) -> Prepared:
    """Load data and model, check the contract, render and align the prompts.

    Raises:
        InputError: data or model cannot be used, or no pair is left.
    """
    loaded = load_data(config, progress)
    progress.stage(f"loading {config.model}")
    return prepare_judge(config, load_model(config), loaded, progress)


def prepare_judge(config: StudyConfig, judge: JudgeModel, loaded: PairSet, progress: Progress) -> Prepared:
    """Check the contract of a model that is loaded, render and align its prompts.

    Raises:
        InputError: the model cannot be patched, or lacks what an experiment needs, or no pair is left.
    """
    contract = judge.contract
    contract.require_patching(judge.identity.name)
    _require_experiments(config, judge)
    if not judge.known_type:
        progress.warn(
            f"model type {judge.identity.model_type!r} is not in the architecture table; it is treated like "
            f"{judge.architecture.name!r}, which the load-time contract confirmed by numbers"
        )
    if not contract.restartable:
        progress.warn(contract.why_not_restartable)
    if config.dtype in ("bfloat16", "float16"):
        progress.warn(
            f"{config.dtype} rounds away effects of a few hundredths of a logit; use float32 for results that matter"
        )
    progress.stage(f"aligning {len(loaded.pairs)} pairs")
    renderer = PromptRenderer(judge.tokenizer, config.prompt)
    aligned, exclusions = align_for(judge, renderer, loaded)
    if not aligned:
        reasons = sorted({exclusion.reason for exclusion in exclusions})
        raise InputError(
            f"no pair is left: all {len(loaded.pairs)} were excluded ({', '.join(reasons)}); the first: "
            f"{exclusions[0].detail}"
        )
    return Prepared(judge, contract, renderer, loaded, aligned, exclusions)


def _require_experiments(config: StudyConfig, judge: JudgeModel) -> None:
    """Refuse, before anything is measured, what the chosen experiments need and this model does not have.

    Raises:
        InputError: names the experiment, and the clause of the contract or the head that is missing.
    """
    chosen = config.experiments
    if chosen.vocabulary is not None:
        judge.contract.require_readouts(judge.identity.name)
    for name in ("edges", "interaction"):
        if name in chosen.chosen and not judge.contract.holds("patterns"):
            raise InputError(
                f"experiments.{name}: model {judge.identity.name!r} fails the contract's clause 'patterns' (attention "
                f"patterns sum to 1), and its attention cannot be taken for one; leave {name} out"
            )
    if chosen.paths is not None:
        judge.contract.require_readouts(judge.identity.name)
        if chosen.paths.chooses or chosen.paths.senders:
            judge.contract.require_paths(judge.identity.name)
    joint = () if chosen.joint is None else chosen.joint.heads or ()
    for option, heads in (("joint.heads", joint), *chosen.named_path_heads()):
        _require_heads(option, heads, judge)


def _require_heads(option: str, heads: Sequence[str], judge: JudgeModel) -> None:
    n_layers, n_heads = judge.shape.n_layers, judge.shape.n_heads
    for head in heads:
        site = head_site(head)
        if site.layer >= n_layers or (site.head or 0) >= n_heads:
            raise InputError(
                f"experiments.{option}: {head} does not exist: the model has layers 0 to {n_layers - 1} with heads "
                f"0 to {n_heads - 1}"
            )


def render_prompts(config: StudyConfig, progress: Progress) -> tuple[list[AlignedPair], list[Exclusion]]:
    """Aligned prompts alone; reads the model's tokenizer and not its weights."""
    loaded = load_data(config, progress)
    tokenizer = load_tokenizer(config.model, revision=config.revision, trust_remote_code=config.trust_remote_code)
    return align_all(PromptRenderer(tokenizer, config.prompt), loaded.pairs)


def align_for(
    judge: JudgeModel, renderer: PromptRenderer, loaded: PairSet
) -> tuple[list[AlignedPair], list[Exclusion]]:
    """The pairs' prompts, and the pairs that cannot be aligned or are longer than what the model reads."""
    aligned, exclusions = align_all(renderer, loaded.pairs)
    too_long = _longer_than_context(judge, aligned)
    exclusions += [Exclusion(pair_id, "longer_than_context", detail) for pair_id, detail in too_long.items()]
    return [pair for pair in aligned if pair.pair_id not in too_long], exclusions


def _longer_than_context(judge: JudgeModel, aligned: list[AlignedPair]) -> dict[str, str]:
    limit = getattr(judge.config, "max_position_embeddings", None)
    return {
        pair.pair_id: f"the prompt has {len(pair.clean.ids)} tokens, the model reads {limit}; set "
        "prompt.max_document_tokens lower"
        for pair in aligned
        if limit is not None and len(pair.clean.ids) > limit
    }
