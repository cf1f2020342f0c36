"""How relevant does the model find each of many prompts, in as few and as large products as possible?

Prompts are batched by length and padded on the right, where causal attention cannot see it from a real token. So no
mask is needed and positions stay as they are. What rendered prompts begin with (a system turn; in the orders `qdi` and
`idq` the query or the instruction) is run once for all of them, where that pays and the model can go on from it.

Edits that are in force (`JudgeModel.edits`; an ablation) are told, before each pass, what to do at each of its
positions. A beginning is shared only as far as the same is done in all prompts.

Cost: one forward pass a prompt, less what is shared.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from relscope.models.prefixes import WORTH_SHARING, KeysAndValues, continued, shared_beginnings
from relscope.prompts import Prompt

if TYPE_CHECKING:
    from relscope.models.judge import JudgeModel

Treatment = tuple[int, int]
"""What an edit does at a position, in two numbers that mean something to the edit alone."""


@runtime_checkable
class PositionEdit(Protocol):
    """Changes what the model computes of rendered prompts, at each position by what stands there."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Whatever decides what is changed, as JSON values: stored LDs are of the model with its edits."""
        ...

    def treatments(self, prompt: Prompt) -> Sequence[Treatment]:
        """What is done at each position of a prompt; where two prompts' are equal, the same is done."""
        ...

    def applied(self, treatments: Int[Tensor, "row pos 2"]) -> contextlib.AbstractContextManager[None]:
        """Within the context, one pass of so many rows and positions is changed; padding may be given anything."""
        ...


def final_hidden(
    judge: JudgeModel, ids: Sequence[Sequence[int]], tokens_per_batch: int
) -> Float[Tensor, "prompt d_model"]:
    """Normed hidden state at each prompt's last token; `tokens_per_batch` bounds a batch's tokens, with padding."""
    hidden: dict[int, Tensor] = {}
    for batch in judge.batches(ids, tokens_per_batch):
        padded = judge.padded([ids[i] for i in batch])
        states = judge.decoder(input_ids=padded, use_cache=False).last_hidden_state
        hidden.update({i: states[row, len(ids[i]) - 1] for row, i in enumerate(batch)})
    return torch.stack([hidden[i] for i in range(len(ids))])


@torch.no_grad()
def final_hidden_of(judge: JudgeModel, prompts: Sequence[Prompt]) -> Float[Tensor, "prompt d_model"]:
    """Normed hidden state at the last token of each rendered prompt, with the judge's edits.

    Raises:
        InputError: a prompt has more tokens than the model has positions.
    """
    if not prompts:
        return torch.zeros(0, judge.shape.d_model, device=judge.device)
    judge.check_length(max(map(len, prompts)))
    edits = tuple(judge.edits)
    scoring = _Scoring(judge, prompts, edits, [[edit.treatments(prompt) for prompt in prompts] for edit in edits])
    hidden: dict[int, Tensor] = {}
    for n_shared, numbers in scoring.shared():
        beginning = scoring.beginning(numbers[0], n_shared)
        for batch in judge.batches([prompts[i].ids[n_shared:] for i in numbers]):
            of = [numbers[row] for row in batch]
            states = scoring.run(of, slice(n_shared, None), continued(beginning, len(of)) if beginning else None)
            hidden.update({i: states[row, len(prompts[i]) - n_shared - 1] for row, i in enumerate(of)})
    return torch.stack([hidden[i] for i in range(len(prompts))])


@dataclass(frozen=True)
class _Scoring:
    """Prompts with the edits in force, and for each edit what it does in each prompt."""

    judge: JudgeModel
    prompts: Sequence[Prompt]
    edits: Sequence[PositionEdit]
    treatments: Sequence[Sequence[Sequence[Treatment]]]

    def shared(self) -> Iterator[tuple[int, tuple[int, ...]]]:
        """How many positions are shared, and by which prompts; 0 by those that share none."""
        alone = (0, tuple(range(len(self.prompts))))
        if self.judge.length_matters:
            yield alone
            return
        seen = [list(zip(prompt.ids, *done, strict=True)) for prompt, *done in zip(self.prompts, *self.treatments,
                                                                                  strict=True)]  # fmt: skip
        found = shared_beginnings(seen, WORTH_SHARING)
        # The contract costs a few passes: it is asked only where there is something to share.
        if any(of.length for of in found) and self.judge.contract.continuable:
            yield from ((of.length, of.prompts) for of in found)
        else:
            yield alone

    def beginning(self, number: int, length: int) -> KeysAndValues:
        """Keys and values of a prompt's first positions; nothing for none."""
        if length == 0:
            return []
        cache = DynamicCache()
        self.run([number], slice(length), {"past_key_values": cache, "use_cache": True})
        return [(layer.keys[0], layer.values[0]) for layer in cache.layers]

    def run(
        self, numbers: Sequence[int], positions: slice, going_on: dict[str, Any] | None
    ) -> Float[Tensor, "row pos d_model"]:
        """Normed hidden states of some prompts at some positions, in one pass."""
        padded = self.judge.padded([self.prompts[i].ids[positions] for i in numbers])
        with contextlib.ExitStack() as stack:
            for edit, of in zip(self.edits, self.treatments, strict=True):
                done = torch.zeros(*padded.shape, 2, dtype=torch.long)
                for row, i in enumerate(numbers):
                    of_row = torch.tensor(of[i][positions], dtype=torch.long).view(-1, 2)
                    done[row, : len(of_row)] = of_row
                stack.enter_context(edit.applied(done.to(padded.device)))
            passed = self.judge.decoder(input_ids=padded, **(going_on or {"use_cache": False}))
        return passed.last_hidden_state
