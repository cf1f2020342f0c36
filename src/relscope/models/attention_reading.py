"""How do some heads attend from the query to the document, and how little of the model does it take to know?

    total   = sum over document tokens k of mean over query tokens i of A[i, k]       A: the pattern, post-softmax
    largest = mean over query tokens i of max over document tokens k of A[i, k]

The query stands behind the document, so that nothing behind the query can change these numbers. What is not computed:

- every layer above the last one that has such a head, the final norm and the unembedding; of that last layer, all that
  follows its queries, keys and values: the pass is left as soon as they are there;
- the tokens behind the query;
- a document a second time for a second query. Prompts of one document are one row, `document, query 1, query 2`: each
  query stands at the positions that it has in its own prompt, and sees the document and itself alone. Which positions
  see each other there is read from the model's own mask (causal, windowed, ...).

Sources: `total` is how Chen, Jimenez Gutierrez and Su weigh documents (Attention in Large Language Models Yields
Efficient Zero-Shot Re-Rankers, arXiv 2410.02642), who have all documents in one prompt; `largest` is the interaction
score s(q, d) of Liu, Mao and Wen (arXiv 2504.07898), divided by the number of query tokens.

Cost: of a forward pass of the document with all its queries, the layers up to the last that is read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from relscope.errors import InputError
from relscope.models.attention import (
    AttentionCall,
    UnsupportedAttentionError,
    attend,
    attention_replaced,
    attention_scores,
    masked_softmax,
    visible,
)
from relscope.models.prefixes import WORTH_SHARING, KeysAndValues, continued, shared_beginnings
from relscope.prompts import Prompt

if TYPE_CHECKING:
    from relscope.models.judge import JudgeModel

_PADDING = -1


@dataclass(frozen=True)
class QueryAttention:
    """What heads attend to, from each prompt's query to its document; float32 on the CPU, between 0 and 1."""

    total: Float[Tensor, "document prompt head"]
    largest: Float[Tensor, "document prompt head"]


@torch.no_grad()
def query_attention(
    judge: JudgeModel, prompts: Sequence[Sequence[Prompt]], heads: Sequence[tuple[int, int]]
) -> QueryAttention:
    """The attention of some heads from the query to the document of each prompt.

    Args:
        judge: the model.
        prompts: of each document, its prompts with several queries, as many of each document; pointwise.
        heads: layer and head of each.

    Raises:
        InputError: as `check_readable`, a query does not stand behind its document, or a prompt is too long.
        UnsupportedAttentionError: the model's attention cannot be replaced.
    """
    check_readable(judge, heads)
    n_prompts = len(prompts[0]) if prompts else 0
    rows = [row for number, of in enumerate(prompts) for row in _rows_of(number, of, whole=judge.length_matters)]
    found = torch.zeros(2, len(prompts), n_prompts, len(heads))
    for shared, numbers in _shared(judge, rows):
        reading = _Reading(judge, heads, found)
        beginning = reading.beginning(rows[numbers[0]].ids[:shared])
        for batch in judge.batches([rows[i].ids[shared:] for i in numbers]):
            reading.run([rows[numbers[i]] for i in batch], shared, beginning)
    return QueryAttention(*found)


@dataclass(frozen=True)
class _Seen:
    """One prompt within its row: which document and prompt it is, and where its query and its document stand."""

    document: int
    prompt: int
    query: tuple[int, ...]
    text: tuple[int, ...]


@dataclass(frozen=True)
class _Row:
    """Prompts that begin alike, as one row of tokens: the beginning, and behind it what each has of its own.

    Attributes:
        ids: tokens.
        positions: of each token, in its own prompt.
        branch: of each token, the prompt that it belongs to, from 1; 0 where it belongs to all.
        n_shareable: tokens at the beginning that other rows may have too, and one more.
        seen: the prompts.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    branch: tuple[int, ...]
    n_shareable: int
    seen: tuple[_Seen, ...]


def _rows_of(document: int, prompts: Sequence[Prompt], *, whole: bool) -> list[_Row]:
    """The row of a document's prompts; `whole`: a row for each, with all of its tokens."""
    if whole:
        return [_row([(document, number, prompt)], [prompt.ids]) for number, prompt in enumerate(prompts)]
    up_to_query = [prompt.ids[: prompt.region("query")[-1] + 1] for prompt in prompts]
    return [_row([(document, number, prompt) for number, prompt in enumerate(prompts)], up_to_query)]


def _row(of: Sequence[tuple[int, int, Prompt]], ids: Sequence[tuple[int, ...]]) -> _Row:
    """One row of prompts' tokens, each a prompt's first ones."""
    n_common = sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*ids, strict=False)))
    n_common = min(n_common, min(map(len, ids)) - 1)  # something is left of each
    row: list[int] = list(ids[0][:n_common])
    positions, branch, seen = list(range(n_common)), [0] * n_common, []
    for number, ((document, prompt_number, prompt), own) in enumerate(zip(of, ids, strict=True), start=1):
        moved = len(row) - n_common
        query, text = (
            tuple(p if p < n_common else p + moved for p in prompt.region(name)) for name in ("query", "document")
        )
        if not query or not text or prompt.region("query")[0] <= prompt.region("document")[-1]:
            raise InputError(
                "what a query attends to in a document needs the query behind it: attention is causal, and a query "
                "before the document cannot see it; use an order with d before q ('dqi' or 'idq')"
            )
        seen.append(_Seen(document, prompt_number, query, text))
        row += own[n_common:]
        positions += range(n_common, len(own))
        branch += [number] * (len(own) - n_common)
    n_shareable = min(n_common, min(of_prompt.query[0] for of_prompt in seen) + 1)
    return _Row(tuple(row), tuple(positions), tuple(branch), n_shareable, tuple(seen))


def _shared(judge: JudgeModel, rows: Sequence[_Row]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """How many tokens rows begin with together, and the rows' numbers."""
    alone = (0, tuple(range(len(rows))))
    if judge.length_matters:
        yield alone
        return
    found = shared_beginnings([row.ids[: row.n_shareable] for row in rows], WORTH_SHARING)
    # The contract costs a few passes: it is asked only where there is something to share.
    if any(of.length for of in found) and judge.contract.continuable:
        yield from ((of.length, of.prompts) for of in found)
    elif rows:
        yield alone


class _EnoughError(Exception):
    """The last layer that is read has been read."""


@dataclass(frozen=True)
class _Reading:
    """Passes that are left at the last layer with a chosen head; they fill `found`."""

    judge: JudgeModel
    heads: Sequence[tuple[int, int]]
    found: Float[Tensor, "2 document prompt head"]

    def beginning(self, ids: Sequence[int]) -> KeysAndValues:
        """Keys and values of what rows begin with, up to the last layer that is read; nothing for none."""
        if not ids:
            return []
        cache = DynamicCache()
        self._pass([_Row(tuple(ids), tuple(range(len(ids))), (0,) * len(ids), 0, ())], 0,
                   {"past_key_values": cache, "use_cache": True})  # fmt: skip
        return [(layer.keys[0], layer.values[0]) for layer in cache.layers]

    def run(self, rows: Sequence[_Row], n_before: int, beginning: KeysAndValues) -> None:
        """One pass of rows behind what they begin with."""
        self._pass(rows, n_before, continued(beginning, len(rows)) if beginning else {"use_cache": False})

    def _pass(self, rows: Sequence[_Row], n_before: int, going_on: dict[str, Any]) -> None:
        judge = self.judge
        judge.check_length(max(max(row.positions) for row in rows) + 1)  # a row may have more tokens than positions
        reader = _Reader(rows, n_before, self.heads, self.found)
        ids = reader.padded([row.ids[n_before:] for row in rows], 0).to(judge.device)
        with attention_replaced(judge.config, reader):
            try:
                judge.decoder(
                    input_ids=ids,
                    position_ids=(reader.positions + n_before).to(ids.device),
                    # Without it, positions that begin again are taken for those of another prompt.
                    attention_mask=torch.ones(len(rows), n_before + ids.shape[1], dtype=torch.long, device=ids.device),
                    **going_on,
                )
            except _EnoughError:
                return
        raise UnsupportedAttentionError("the model's attention does not go through the registry of transformers")


class _Reader:
    """An attention function that reads chosen heads, and leaves the pass when it has read the last of them."""

    def __init__(
        self,
        rows: Sequence[_Row],
        n_before: int,
        heads: Sequence[tuple[int, int]],
        found: Float[Tensor, "2 document prompt head"],
    ) -> None:
        self._rows, self._n_before, self._found = rows, n_before, found
        self._columns: dict[int, list[int]] = defaultdict(list)  # of `found`, by layer
        for column, (layer, _) in enumerate(heads):
            self._columns[layer].append(column)
        self._heads = {layer: [heads[i][1] for i in columns] for layer, columns in self._columns.items()}
        self._last = max(self._heads)
        self._masks: dict[int, tuple[Any, Tensor]] = {}
        self.positions = self.padded([[p - n_before for p in row.positions[n_before:]] for row in rows], 0)
        self._branch = self.padded([row.branch[n_before:] for row in rows], _PADDING)

    @staticmethod
    def padded(rows: Sequence[Sequence[int]], padding: int) -> Int[Tensor, "row pos"]:
        """Numbers of each token, as one tensor; on the right, where causal attention cannot see it, `padding`."""
        longest = max(map(len, rows))
        return torch.tensor([[*row, *[padding] * (longest - len(row))] for row in rows], dtype=torch.long)

    def __call__(self, call: AttentionCall, /) -> Float[Tensor, "row pos head d_head"]:
        """The heads' outputs, each prompt of a row seeing no other."""
        # Layers of one kind are given the same mask.
        if id(call.mask) not in self._masks:
            self._masks[id(call.mask)] = call.mask, self._mask(call)
        mask = self._masks[id(call.mask)][1].to(call.q.device)
        if call.layer in self._heads:
            self._read(call, mask)
        if call.layer == self._last:
            raise _EnoughError
        return _attended(call, mask)

    def _mask(self, call: AttentionCall) -> Bool[Tensor, "row pos src"]:
        """Who sees whom in each row: as the model's mask says of their positions, and within one prompt."""
        of_model = visible(call)
        positions, branch = self.positions.to(of_model.device), self._branch.to(of_model.device)
        seen = of_model[positions]
        n_rows, n_pos = positions.shape
        own = seen[..., self._n_before :].gather(-1, positions[:, None].expand(n_rows, n_pos, n_pos))
        together = (branch[:, None] == 0) | (branch[:, None] == branch[:, :, None])
        return torch.cat([seen[..., : self._n_before], own & together], dim=-1)

    def _read(self, call: AttentionCall, mask: Bool[Tensor, "row pos src"]) -> None:
        heads, columns = self._heads[call.layer], self._columns[call.layer]
        of_group = call.q.shape[1] // call.k.shape[1]
        for number, row in enumerate(self._rows):
            k = call.k[number, [head // of_group for head in heads]]
            for seen in row.seen:
                dest = [position - self._n_before for position in seen.query]
                scores = attention_scores(call.q[number, heads][:, dest], k, call.scaling, call.softcap)
                of_text = masked_softmax(scores, mask[number, dest])[..., list(seen.text)]
                readings = of_text.sum(-1).mean(-1), of_text.amax(-1).mean(-1)
                self._found[:, seen.document, seen.prompt, columns] = torch.stack(readings).cpu()


def _attended(call: AttentionCall, mask: Bool[Tensor, "row pos src"]) -> Float[Tensor, "row pos head d_head"]:
    """Attention in which each row has a mask of its own."""
    if call.softcap is not None:
        parts = zip(*(of.split(1) for of in (call.q, call.k, call.v)), mask, strict=True)
        return torch.cat([attend(replace(call, q=q, k=k, v=v, mask=None), of_row) for q, k, v, of_row in parts])
    groups = call.q.shape[1] // call.k.shape[1]
    k, v = (of.repeat_interleave(groups, dim=1) for of in (call.k, call.v))
    z = functional.scaled_dot_product_attention(call.q, k, v, attn_mask=mask[:, None], scale=call.scaling)
    return z.transpose(1, 2)


def check_readable(judge: JudgeModel, heads: Sequence[tuple[int, int]]) -> None:
    """Refuse heads whose attention cannot be read.

    Raises:
        InputError: no head is given, the model has no such head, its attention patterns are none (contract), or it is
            being edited (an ablation).
    """
    if judge.edits:
        raise InputError("attention is read of the model as it is: leave ablated(...) first")
    if not heads:
        raise InputError("heads: none is given: a head set needs at least one member")
    shape = judge.shape
    for layer, head in heads:
        if not (0 <= layer < shape.n_layers and 0 <= head < shape.n_heads):
            raise InputError(
                f"heads: layer {layer}, head {head} does not exist: the model has {shape.n_layers} layers of "
                f"{shape.n_heads} heads, both counted from 0"
            )
    if not judge.contract.holds("patterns"):
        raise InputError(
            f"model {judge.identity.name!r} fails the contract's clause 'patterns' (attention patterns sum to 1), and "
            "its attention cannot be taken for one"
        )
