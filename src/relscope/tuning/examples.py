"""What does the model read in a training step, and what should it say?

A question becomes one small group of prompts of one template, drawn from the mixture: pointwise its passage and some
negatives, pairwise its passage and one negative in both orders. Draws depend on the seed, the epoch and the question
only, so that a run that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relscope.errors import InputError
from relscope.prompts import PartError, PromptRenderer
from relscope.tuning.config import Mix
from relscope.tuning.questions import Question, as_typed

_WORD = re.compile(r"\S+")
_HARD_SHARE = 3.0


@dataclass(frozen=True)
class Example:
    """One prompt with its label.

    Attributes:
        ids: token ids.
        answer_ids: of the positive and of the negative answer.
        relevant: whether the right answer is the positive one.
        weight: of its cross-entropy; in a group, right and wrong ones weigh the same, and a hard negative weighs as
            much as three random ones, which are soon learned.
    """

    ids: tuple[int, ...]
    answer_ids: tuple[int, int]
    relevant: bool
    weight: float


class ExampleMaker:
    """Draws the examples of questions.

    Args:
        renderers: of each template of the mixture, with its weight.
        passages: of each source, the texts that its questions' random negatives are drawn from: another source's
            would be told apart by their kind.
        mix: what a group holds, and how its texts are written.
        seed: decides all draws.
    """

    def __init__(
        self,
        renderers: Sequence[tuple[PromptRenderer, float]],
        passages: Mapping[str, Sequence[str]],
        mix: Mix,
        seed: int,
    ) -> None:
        self._renderers = [renderer for renderer, _ in renderers]
        self._weights = [weight for _, weight in renderers]
        self._passages = passages
        self._mix, self._seed = mix, seed
        self._answers: dict[int, tuple[int, int]] = {}
        self.n_refused = 0
        """Groups that could not be rendered (a passage holds control tokens, say)."""
        self.n_substituted = 0
        """Random negatives that stand in for hard ones that a question does not have."""

    def group(self, question: Question, epoch: int) -> list[Example]:
        """The examples of one question in one epoch; empty if a text cannot be rendered, which is counted."""
        mix = self._mix
        draw = random.Random(f"{self._seed}:{epoch}:{question.question_id}")
        number = draw.choices(range(len(self._renderers)), self._weights)[0]
        renderer = self._renderers[number]
        pairwise = renderer.template.format == "pairwise"
        negatives, n_hard = self._negatives(question, draw, one=pairwise)
        longest = mix.max_words
        if draw.random() < mix.cut_share:
            longest = draw.randint(min(15, longest), longest)
        positive, *negatives = (_cut(text, longest) for text in (question.positive_text, *negatives))
        query = question.query_text
        if draw.random() < mix.plain_query_share:
            query = as_typed(query)
        documents = [[positive, negatives[0]], [negatives[0], positive]] if pairwise else [
            [text] for text in (positive, *negatives)
        ]  # fmt: skip
        try:
            prompts = [renderer.render(query, texts) for texts in documents]
        except PartError:
            self.n_refused += 1
            return []
        if number not in self._answers:
            self._answers[number] = renderer.answer_ids(prompts[0])
        # Pairwise, the second prompt is the first with its documents swapped.
        shares = [_HARD_SHARE if i < n_hard else 1.0 for i in range(len(prompts) - 1)]
        weights = [1.0, *(share / sum(shares) for share in shares)]
        return [
            Example(prompt.ids, self._answers[number], i == 0, weight)
            for i, (prompt, weight) in enumerate(zip(prompts, weights, strict=True))
        ]

    def _negatives(self, question: Question, draw: random.Random, *, one: bool) -> tuple[list[str], int]:
        """Hard negatives, then random ones, and how many are hard."""
        n_hard, n_random = self._mix.hard, self._mix.random
        if one:
            n_hard = int(draw.random() * (n_hard + n_random) < n_hard)
            n_random = 1 - n_hard
        hard = draw.sample(question.hard_negative_texts, min(n_hard, len(question.hard_negative_texts)))
        self.n_substituted += n_hard - len(hard)
        n_random += n_hard - len(hard)
        taken = {question.positive_text, *question.hard_negative_texts, *question.relevant_texts}
        passages = self._passages[question.source]
        others: list[str] = []
        for _ in range(100):
            if len(others) == n_random:
                return hard + others, len(hard)
            text = draw.choice(passages)
            if text not in taken:
                others.append(text)
                taken.add(text)
        raise InputError(f"data: {question.source} has too few different passages to draw random negatives from")


def _cut(text: str, max_words: int) -> str:
    words = list(_WORD.finditer(text))
    return text if len(words) <= max_words else text[: words[max_words - 1].end()]
