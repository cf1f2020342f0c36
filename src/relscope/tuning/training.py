"""The training loop: loss, learning rate, validation, checkpoints.

    loss = BCE(LD, relevant) + w * softplus(-(LD_positive - LD_negative)) - a * log P(yes or no)

The cross-entropy makes 0 the threshold between yes and no; the pairwise term asks that the relevant passage of a
question wins against each of the others; the last one that the model answers at all, which a difference of two logits
does not see. A step reads several questions, each with all of its prompts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from relscope.errors import InputError
from relscope.models import TunableJudge
from relscope.tuning.config import Optimisation
from relscope.tuning.examples import Example, ExampleMaker
from relscope.tuning.questions import Question


@dataclass(frozen=True)
class Loss:
    """How wrong verdicts are weighed.

    Attributes:
        pairwise_weight: of the pairwise term beside the cross-entropy.
        answer_weight: of the term that asks for an answer.
        label_smoothing: 0.1 asks for P(yes) = 0.95 instead of 1.
    """

    pairwise_weight: float
    answer_weight: float
    label_smoothing: float

    def of(
        self,
        groups: Sequence[Sequence[Example]],
        logit_diffs: Float[Tensor, " example"],
        log_answered: Float[Tensor, " example"],
    ) -> Tensor:
        """Mean loss of the groups, given LD and log P(yes or no) of their examples one after the other."""
        total = -self.answer_weight * len(groups) * log_answered.mean()
        for group, lds in zip(groups, logit_diffs.split([len(group) for group in groups]), strict=True):
            labels = lds.new_tensor([float(example.relevant) for example in group])
            weights = lds.new_tensor([example.weight for example in group])
            targets = labels * (1 - self.label_smoothing) + self.label_smoothing / 2
            pointwise = F.binary_cross_entropy_with_logits(lds, targets, weights, reduction="sum") / weights.sum()
            margins = lds[labels > 0].unsqueeze(1) - lds[labels == 0].unsqueeze(0)
            total = total + pointwise + self.pairwise_weight * F.softplus(-margins).mean()
        return total / len(groups)


def learning_rate(step: int, n_steps: int, peak: float, warmup: float) -> float:
    """One cycle: linear from 0 to the peak in the first `warmup` share of steps, then a half cosine down to 0."""
    n_up = max(1, round(warmup * n_steps))
    if step < n_up:
        return peak * (step + 1) / n_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - n_up) / max(1, n_steps - n_up)))


class Trainer:
    """Takes training steps.

    Args:
        tunable: the judge with its low-rank weights.
        maker: draws examples.
        questions: to train on; each epoch goes through all of them in another order.
        how: the size of a step, the weights of the loss and of the decay.
        seed: decides the order of the questions and dropout.
    """

    def __init__(
        self, tunable: TunableJudge, maker: ExampleMaker, questions: Sequence[Question], how: Optimisation, seed: int
    ) -> None:
        self._tunable, self._maker, self._questions, self._how, self._seed = tunable, maker, questions, how, seed
        self.loss = Loss(how.pairwise_weight, how.answer_weight, how.label_smoothing)
        # In bf16 a step is smaller than the weights' rounding: it is taken on float32 copies.
        self._masters = [w.detach().float().clone().requires_grad_() for w in tunable.weights]
        self.n_steps = 0
        """Steps taken."""
        self.between_updates = True
        """False while weights are being moved: what an interruption leaves then is no state to go on from."""
        self._optimizer = torch.optim.AdamW(self._masters, lr=0.0, weight_decay=how.weight_decay, betas=(0.9, 0.99))

    @property
    def steps_per_epoch(self) -> int:
        """Steps until every question was read once."""
        return -(-len(self._questions) // self._how.questions_per_step)

    def step(self, rate: float) -> float | None:
        """Take one training step at a learning rate, and return its loss; None if no prompt could be rendered.

        Raises:
            InputError: the loss is not a number.
        """
        number = self.n_steps
        epoch, place = divmod(number, self.steps_per_epoch)
        order = list(range(len(self._questions)))
        random.Random(f"{self._seed}:order:{epoch}").shuffle(order)
        size = self._how.questions_per_step
        chosen = order[place * size : (place + 1) * size]
        groups = [group for i in chosen if (group := self._maker.group(self._questions[i], epoch))]
        if not groups:
            self.n_steps += 1
            return None
        torch.manual_seed(self._seed + number)  # of dropout
        examples = [example for group in groups for example in group]
        with self._tunable.training():
            readout = self._tunable.readout(
                [e.ids for e in examples], [e.answer_ids for e in examples], self._how.tokens_per_batch
            )
            loss = self.loss.of(groups, *readout)
            if not torch.isfinite(loss):
                raise InputError(
                    f"the loss is not a number any more at step {number + 1}; lower optimisation.learning_rate"
                )
            loss.backward()
        self._update(rate)
        return float(loss.detach())

    def state(self) -> dict[str, Any]:
        """Everything that changes while training."""
        return {
            "n_steps": self.n_steps,
            "weights": [master.detach() for master in self._masters],
            "optimizer": self._optimizer.state_dict(),
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state."""
        self.n_steps = state["n_steps"]
        for master, saved in zip(self._masters, state["weights"], strict=True):
            master.copy_(saved)
        self._optimizer.load_state_dict(state["optimizer"])
        self._to_model()

    def _update(self, rate: float) -> None:
        for master, weight in zip(self._masters, self._tunable.weights, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        torch.nn.utils.clip_grad_norm_(self._masters, 1.0)
        self.between_updates = False
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._to_model()
        self.n_steps += 1
        self.between_updates = True

    @torch.no_grad()
    def _to_model(self) -> None:
        for master, weight in zip(self._masters, self._tunable.weights, strict=True):
            weight.copy_(master)
