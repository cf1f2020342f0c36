"""Does this model do what patching assumes? The load-time contract, clause by clause.

Two short prompts of fixed token ids go through the model; each clause compares numbers that must agree. A model that
fails a clause is refused for the experiments that need it, with the clause in the error. Cost: about eight forward
passes of 24 tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from relscope.errors import InputError
from relscope.models.edits import LayerEdits, Replacement
from relscope.models.judge import JudgeModel
from relscope.models.patching import patched
from relscope.models.recording import PatternChecker, RecordedRun, Recorder, record
from relscope.models.rows import Piece

_N_PROBE = 24


@dataclass(frozen=True)
class Clause:
    """One thing that must hold, and by how much it held: `error` against `tolerance` (same units)."""

    name: str
    statement: str
    ok: bool
    error: float
    tolerance: float
    detail: str = ""


@dataclass(frozen=True)
class Contract:
    """The outcome of all clauses for one model."""

    clauses: tuple[Clause, ...]

    def holds(self, *names: str) -> bool:
        """Whether all the named clauses hold; one that was never reached does not."""
        outcome = {clause.name: clause.ok for clause in self.clauses}
        return all(outcome.get(name, False) for name in names)

    @property
    def restartable(self) -> bool:
        """Whether patched runs may be restarted from the patched layer; otherwise each takes a full forward pass."""
        return self.holds("residual sum", "restart")

    @property
    def continuable(self) -> bool:
        """Whether what several prompts begin with may be run once for all of them."""
        return self.holds("continuation")

    @property
    def why_not_restartable(self) -> str:
        """What a user is told about a model that is patched the plain way."""
        failed = ", ".join(repr(c.name) for c in self.clauses if not c.ok and c.name != "continuation")
        return (
            f"the model cannot be restarted within its layers (contract: {failed}); "
            "each patch takes a full forward pass"
        )

    def require_patching(self, model_name: str) -> None:
        """Refuse a model whose patches would not mean what they say.

        Raises:
            InputError: names the clause that failed.
        """
        self._require(("shapes", "answer logits", "identity patch", "final residual"), model_name, "be patched")

    def require_logits(self, model_name: str) -> None:
        """Refuse a model whose logits are not made of the residual stream by its final norm and unembedding.

        Raises:
            InputError: names the clause that failed.
        """
        self._require(("shapes", "answer logits"), model_name, "be read layer by layer")

    def require_readouts(self, model_name: str) -> None:
        """Refuse a model whose residual stream, or what is read from it, is not the sum that readouts take it for.

        Raises:
            InputError: names the clause that failed.
        """
        self._require(("shapes", "answer logits", "residual sum"), model_name, "be read out part by part")

    def require_paths(self, model_name: str) -> None:
        """Refuse a model whose residual stream does not carry what one part changes to another, or not as a sum.

        Raises:
            InputError: names the clause that failed.
        """
        self.require_patching(model_name)
        self._require(("residual sum", "restart"), model_name, "be patched along paths")

    def _require(self, names: tuple[str, ...], model_name: str, purpose: str) -> None:
        for clause in self.clauses:
            if clause.name in names and not clause.ok:
                raise InputError(
                    f"model {model_name!r} fails the contract's clause {clause.name!r} ({clause.statement}): "
                    f"{clause.detail or f'error {clause.error:.2g}, tolerance {clause.tolerance:.2g}'}; "
                    f"it cannot {purpose}"
                )


def check_contract(judge: JudgeModel) -> Contract:
    """Run every clause. A clause that raises has failed, with the exception as its detail."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, judge.shape.d_vocab, (2, _N_PROBE), generator=generator).tolist()
    answer_ids = (judge.shape.d_vocab // 3, judge.shape.d_vocab // 2)
    # bf16 keeps 8 bits of mantissa, float32 24: roundings add up to about 0.02 and 1e-6 of the largest entry.
    # The kernels of quantised weights round as bf16 does.
    precise = {torch.float32: 1e-4, torch.float64: 1e-6}
    relative = 5e-2 if is_quantised(judge.model) else precise.get(judge.dtype, 5e-2)
    try:
        own, other = judge.record(ids[0], for_restart=False), judge.record(ids[1], for_restart=False)
    except Exception as failure:  # any failure to record is the clause's finding, and is shown
        return Contract((Clause("shapes", "hooks see the right shapes", False, 1.0, 0.0, _describe(failure)),))
    logits = _own_logits(judge, ids[0], answer_ids)
    logit_scale = max(1.0, float(logits.abs().max()))

    def whole(component: str, layer: int, head: int | None) -> Replacement:
        return Replacement(component, layer, head, tuple(range(_N_PROBE)))

    def identity_patch() -> float:
        worst = 0.0
        for component, head in (("attn_out", None), ("mlp_out", None), ("resid_post", None), ("z", 0)):
            for layer in {0, judge.shape.n_layers - 1}:
                with patched(judge.layers, judge.config, [whole(component, layer, head)], own):
                    worst = max(worst, _gap(_own_logits(judge, ids[0], answer_ids), logits))
        return worst

    def final_residual() -> float:
        with patched(judge.layers, judge.config, [whole("resid_post", judge.shape.n_layers - 1, None)], other):
            return _gap(_own_logits(judge, ids[0], answer_ids), _own_logits(judge, ids[1], answer_ids))

    def pattern_sums() -> float:
        checker = PatternChecker()
        record(judge, [ids[0]], checker)
        return checker.pattern_error

    answer = lambda: _gap(judge.answer_logits(own.resid_post[-1, -1], answer_ids), logits)  # noqa: E731

    def residual_sum() -> float:
        parts = zip(own.resid_pre, own.attn_out, own.mlp_out, own.resid_post, strict=True)
        return max(_row_gap(resid_pre + attn_out + mlp_out, post) for resid_pre, attn_out, mlp_out, post in parts)

    return Contract(
        (
            _clause("shapes", "hooks see the right shapes", lambda: _shape_errors(judge, own), 0.0),
            _clause("patterns", "attention patterns sum to 1", pattern_sums, 1e-4),
            _clause("answer logits", "answer rows of the unembedding give the model's logits", answer,
                    relative * logit_scale),
            _clause("residual sum", "resid_pre + attn_out + mlp_out = resid_post",
                    residual_sum, relative),
            _clause("identity patch", "patching a run with itself changes nothing", identity_patch,
                    relative * logit_scale),
            _clause("final residual", "patching the whole final residual gives the other run", final_residual,
                    relative * logit_scale),
            _clause("restart", "restarting from any layer equals the full forward pass",
                    lambda: _restart_error(judge, ids[0], own), relative),
            _clause("continuation", "going on from a prompt's beginning equals the full forward pass",
                    lambda: _continuation_error(judge, ids[0], own), relative),
        )
    )  # fmt: skip


def is_quantised(model: nn.Module) -> bool:
    """Whether some of a model's matrices are stored as integers."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    integers = (torch.int8, torch.uint8, torch.int16, torch.int32)
    return any(tensor.dim() >= 2 and tensor.dtype in integers for tensor in tensors)


def _clause(name: str, statement: str, measure: Callable[[], float], tolerance: float) -> Clause:
    try:
        error = measure()
    except Exception as failure:  # any failure is the clause's finding, and is shown
        return Clause(name, statement, False, float("inf"), tolerance, _describe(failure))
    return Clause(name, statement, error <= tolerance, error, tolerance)


def _shape_errors(judge: JudgeModel, run: RecordedRun) -> float:
    shape = judge.shape
    residual = (shape.n_layers, _N_PROBE, shape.d_model)
    expected = {
        "resid_pre": residual, "attn_out": residual, "mlp_out": residual, "resid_post": residual,
        "z": (shape.n_layers, _N_PROBE, shape.n_heads, shape.d_head),
    }  # fmt: skip
    wrong = {name: tuple(getattr(run, name).shape) for name in expected}
    wrong = {name: seen for name, seen in wrong.items() if seen != expected[name]}
    if wrong:
        raise ValueError(", ".join(f"{n} is {s} instead of {expected[n]}" for n, s in wrong.items()))
    return 0.0


def _restart_error(judge: JudgeModel, ids: list[int], own: RecordedRun) -> float:
    base = judge.record(ids)
    worst = 0.0
    for start in (0, _N_PROBE // 3, _N_PROBE - 1):
        for layer in range(judge.shape.n_layers):
            resid_pre, wanted = own.resid_pre[layer, None, start:], own.resid_post[layer, start:]
            nothing = LayerEdits(base, [(Replacement("q", layer, 0, ()),)])  # attention that replaces at no position
            pieces, _ = judge.advance(
                layer, [Piece(resid_pre, base), Piece(resid_pre, base, nothing)], [], only_last=False
            )
            worst = max(worst, *(_row_gap(restarted[0], wanted) for restarted in pieces))
    return worst


def _continuation_error(judge: JudgeModel, ids: list[int], own: RecordedRun) -> float:
    (beginning,) = record(judge, [ids[: _N_PROBE // 2]], Recorder())
    # A shorter prompt in the same batch is padded.
    prompts = [ids, ids[: _N_PROBE - 2]]
    runs = record(judge, prompts, Recorder(), prefix=beginning)
    return max(
        _row_gap(found, wanted[: run.n_positions])
        for run in runs
        for found, wanted in zip(run.resid_post, own.resid_post, strict=True)
    )


@torch.no_grad()
def _own_logits(judge: JudgeModel, ids: list[int], answer_ids: tuple[int, int]) -> Tensor:
    """The answers' logits as the model itself computes them, head and all."""
    return judge.model(input_ids=judge.padded([ids]), use_cache=False).logits[0, -1, list(answer_ids)].float()


def _row_gap(a: Tensor, b: Tensor) -> float:
    """Largest difference of two residuals, each in units of the largest entry of its position in `b`.

    Some models carry entries that are thousands of times larger than all others, at a few positions. A tolerance in
    their units would let anything pass at the other positions; rounding is as large as these units allow at theirs.
    """
    scale = b.float().abs().amax(-1, keepdim=True).clamp(min=1e-9)
    return _largest((a.float() - b.to(a.device).float()).abs() / scale.to(a.device))


def _gap(a: Tensor, b: Tensor) -> float:
    return _largest((a.float() - b.to(a.device).float()).abs())


def _largest(errors: Tensor) -> float:
    # Of a NaN and a number, `max` may pick the number: a NaN must not look like no error.
    return float(errors.nan_to_num(nan=torch.inf).max())


def _describe(failure: Exception) -> str:
    return f"{type(failure).__name__}: {failure}"
