"""Models whose mechanism is known because every weight was set by hand.

Documents and queries are made of words with five meanings, each with one word in documents and another in queries
(`MEANINGS`: "feline" and "cat"). A document is relevant if it has the meaning of one of the query's words. Prompts are
the default template in the order document, query, instruction: the matcher looks back from the query.

    matcher  head    each query word attends to the document words of its meaning, or to <bos> if there are none;
                     document words have value 1, <bos> has 0; writes: match, -1 -> +1
    carrier  head    the last token attends to the query words that are matched, or to <bos>; query words have value 1,
                     <bos> has 0; writes: carried, -1 -> +1
    writer   head    the last token attends to itself, with value (carried + 1) / 2; writes: verdict, -1 -> +1
             or MLP  the same at each position for itself
    default  MLP 0   writes verdict -1 everywhere, in every run: all of "no", and no effect

All other heads and MLPs write nothing. Elsewhere than at the positions named here the planted heads attend to <bos> and
write nothing either.

The residual stream, [d_model = 20]. A token is 1 in one of the dimensions 1 to 13, and as below in the others:

    dimension  name      in the embedding             changed by
    0          constant  1                            -
    1          bos       1 at <bos>                   -
    2          scaffold  1 at the template's words    -
    3          last      1 at "Answer:"               -
    4 to 8     asked n   1 at query word n            -
    9 to 13    told n    1 at document word n         -
    14         match     -1                           matcher, +2 at a matched query word
    15, 16     carried   -1 and -1                    carrier (of two: each its own), +2 at the last token
    17         verdict   0                            default, -1 everywhere; writer, +2 at the last token
    18, 19     -          0                            - (the width must be a multiple of the number of heads)

Every residual so has the length sqrt(5), and sqrt(6) once the default verdict is written, matched or not. Each norm's
weight is that length over sqrt(20), so that norms pass on what they read: x / (|x| / sqrt(20)) * weight = x. The
unembedding has +2 verdict for yes and -2 verdict for no: LD = 4 * verdict, +4 clean and -4 corrupted.

Scores are 60 where a head finds what it looks for, 40 at <bos> (the carrier's: 60 * match, and 100 - 60) and at most 0
elsewhere, so that patterns are 0 or 1 to within e^-20 = 2e-9, and match must rise above 2/3 before it is carried.
Rotary embedding turns dimension i of a head together with i + 4, by the position times theta^(-i / 4): by 1e-8 at most
for theta = 1e38 and 0 < i < 4, and heads leave the dimensions 0 and 4 alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as hf

from families import as_judge
from relscope.data import RelevancePair
from relscope.interventions import Direction, Site
from relscope.models import JudgeModel
from relscope.prompts import AlignedPair, PromptRenderer, PromptTemplate, align

N_LAYERS, N_HEADS, D_HEAD, D_MODEL = 4, 4, 8, 20
LD_CLEAN, LD_CORRUPTED = 4.0, -4.0

MEANINGS = (("cat", "feline"), ("dog", "hound"), ("bread", "loaf"), ("river", "stream"), ("hill", "summit"))
"""The word that queries have for a meaning, and the word that documents have."""

CONSTANT, BOS, SCAFFOLD, LAST = range(4)
ASKED, TOLD = range(4, 9), range(9, 14)
MATCH, *CARRIED = 14, 15, 16
VERDICT = 17

PAIRS = (
    # Both documents begin with the same word.
    RelevancePair("cat:0", "cat", "cat river", "loaf feline summit hound", "loaf hound summit loaf", "hard"),
    RelevancePair("bread:0", "bread", "dog bread", "summit feline loaf stream", "feline stream summit feline", "hard"),
    RelevancePair("hill:0", "hill", "hill cat", "summit loaf hound stream", "hound stream loaf loaf", "hard"),
)
MATCHED_WORD = {"cat:0": "query.first", "bread:0": "query.last", "hill:0": "query.first"}
"""The query's one word whose meaning the positive document has; the negative has none."""

REGIONS = ("document", "query", "instruction", "last", "other", "all")
"""Those that `causal_sites` knows."""

# Dimensions of a head for what it looks for, and for <bos>; rotary embedding turns the dimensions 0 and 4.
_LOOKS, _NULL = (1, 2, 3, 5, 6), 7
_FOUND, _NOTHING = 60.0, 40.0
# silu(x) is x, and silu(-x) is 0, to within float32 from here on.
_STEEP = 30.0

Head = tuple[int, int]
"""Layer and head."""


@dataclass(frozen=True)
class Planted:
    """A planted model with its pairs.

    Attributes:
        judge: the model with a tokenizer of whole words.
        pairs: aligned; clean LD is `LD_CLEAN`, corrupted LD is `LD_CORRUPTED`.
        matcher: the head that matches.
        carriers: one head, or two of which either suffices.
        writer: layer and head, or layer and None where the MLP writes the verdict.
        decoy: a head that attends as the matcher does and writes nothing.
    """

    judge: JudgeModel
    pairs: tuple[AlignedPair, ...]
    matcher: Head
    carriers: tuple[Head, ...]
    writer: tuple[int, int | None]
    decoy: Head | None = None

    @property
    def steps(self) -> tuple[tuple[Site, ...], ...]:
        """What each step from the document to the verdict writes, and where; sites of one step stand in for another."""
        layer, head = self.writer
        return (
            (_z(self.matcher, "query"),),
            tuple(_z(carrier, "last") for carrier in self.carriers),
            (Site("mlp_out", layer, "last") if head is None else _z((layer, head), "last"),),
        )


def matching_model(n_kv_heads: int = N_HEADS) -> Planted:
    """Matcher, carrier and writer, all of them heads."""
    return _with_chain(_empty_model(n_kv_heads), matcher=(0, 2), carrier=(2, 1), writer=(3, 3))


def mlp_writing_model(n_kv_heads: int = N_HEADS) -> Planted:
    """As `matching_model`, but the last layer's MLP writes the verdict."""
    model = _empty_model(n_kv_heads)
    carried = {CARRIED[0]: 0.5, CONSTANT: 0.5}
    _plant_neuron(model, 3, gate={CONSTANT: 1.0}, up=carried, writes={VERDICT: 2.0})
    return _with_chain(model, matcher=(0, 2), carrier=(2, 1), writer=(3, None))


def redundant_model(n_kv_heads: int = N_HEADS) -> Planted:
    """Two carriers, of which either suffices: the verdict is yes if one of them, or both, have carried the match.

    The last layer's MLP reads u = how many have carried it, and writes 2 min(u, 1) = 2 relu(u) - 2 relu(u - 1):

        noise     (base clean, u = 2): one carrier corrupted leaves u = 1, still yes; both leave u = 0, no.
                  Single patches understate, each with effect 0; the joint patch has the whole effect.
        denoise   (base corrupted, u = 0): one carrier restored gives u = 1, yes, and so do both.
                  Each has the whole effect, and their sum is twice that of the joint patch.
    """
    model = _empty_model(n_kv_heads)
    carriers = (2, 0), (2, 3)
    for carrier, carried in zip(carriers, CARRIED, strict=True):
        _plant_carrier(model, carrier, carried)
    n_carried = {CARRIED[0]: 0.5, CARRIED[1]: 0.5, CONSTANT: 1.0}
    _plant_neuron(model, 3, gate=n_carried, up={CONSTANT: 1.0}, writes={VERDICT: 2.0})
    above_one = {**n_carried, CONSTANT: 0.0}
    _plant_neuron(model, 3, gate=above_one, up={CONSTANT: 1.0}, writes={VERDICT: -2.0}, neuron=1)
    _plant_matcher(model, (0, 2), {MATCH: 2.0})
    return _finished(model, matcher=(0, 2), carriers=carriers, writer=(3, None))


def decoy_model(n_kv_heads: int = N_HEADS) -> Planted:
    """As `matching_model`, with one more head that attends and reads as the matcher does, and whose output is lost."""
    model = _empty_model(n_kv_heads)
    _plant_matcher(model, (1, 0), {})
    return _with_chain(model, matcher=(0, 2), carrier=(2, 1), writer=(3, 3), decoy=(1, 0))


def causal_sites(planted: Planted, direction: Direction) -> set[Site]:
    """Sites at `REGIONS` that, patched alone, give the source run's verdict; all others leave the base run's.

    But for `pattern_renormalised`, which halves attention: see `test_planted_models`.
    """
    (at_match, match), (at_carry, _), (at_write, write) = planted.matcher, planted.carriers[0], planted.writer
    group = N_HEADS // planted.judge.shape.n_kv_heads
    sites: set[Site] = set()

    def add(component: str, layer: int, region: str, head: int | None = None, src: str | None = None) -> None:
        sources: Iterable[str | None] = (None,) if src is None else (src, "all")
        sites.update(Site(component, layer, r, head, s) for r in (region, "all") for s in sources)

    def add_reading(layer: int, head: int, dest: str, src: str) -> None:
        """A head that finds out where to look: by its keys, not by its queries or values, which are the same."""
        add("z", layer, dest, head)
        add("k", layer, src, head // group)
        add("k_view", layer, src, head)
        add("scores", layer, dest, head, src)
        add("pattern", layer, dest, head, src)

    for layer in range(N_LAYERS):
        held = ["document" if n <= at_match else "query" if n <= at_carry else "last" for n in (layer, layer + 1)]
        add("resid_pre", layer, held[0])
        add("resid_post", layer, held[1])
    add("attn_out", at_match, "query")
    add_reading(at_match, match, "query", "document")
    add("attn_out", at_carry, "last")
    # Of two carriers either suffices: one alone restores the verdict, and one alone does not destroy it.
    for layer, head in planted.carriers if len(planted.carriers) == 1 or direction == "denoise" else ():
        add_reading(layer, head, "last", "query")
    if write is None:
        add("mlp_out", at_write, "last")
    else:  # attends to where it is, in both runs, and finds another value there
        for component, head in (("attn_out", None), ("z", write), ("v", write // group), ("v_view", write)):
            add(component, at_write, "last", head)
    return sites


def _with_chain(
    model: Any, matcher: Head, carrier: Head, writer: tuple[int, int | None], decoy: Head | None = None
) -> Planted:
    _plant_matcher(model, matcher, {MATCH: 2.0})
    _plant_carrier(model, carrier, CARRIED[0])
    layer, head = writer
    if head is not None:
        carried = {CARRIED[0]: 0.5, CONSTANT: 0.5}
        _plant_head(model, (layer, head), [(LAST, LAST)], reads=carried, writes={VERDICT: 2.0})
    return _finished(model, matcher=matcher, carriers=(carrier,), writer=writer, decoy=decoy)


def _plant_matcher(model: Any, head: Head, writes: Mapping[int, float]) -> None:
    _plant_head(model, head, list(zip(ASKED, TOLD, strict=True)), reads=dict.fromkeys(TOLD, 1.0), writes=writes)


def _plant_carrier(model: Any, head: Head, carried: int) -> None:
    # At <bos> too match is -1, which the null's score has to make up for.
    null, reads = _NOTHING + _FOUND, dict.fromkeys(ASKED, 1.0)
    _plant_head(model, head, [(LAST, MATCH)], null=null, reads=reads, writes={carried: 2.0})


@torch.no_grad()
def _plant_head(
    model: Any,
    head: Head,
    looks: Sequence[tuple[int, int]],
    *,
    null: float = _NOTHING,
    reads: Mapping[int, float],
    writes: Mapping[int, float],
) -> None:
    """A head with scores sum of 60 dest[a] src[b] over (a, b) in `looks`, and `null` at <bos>; the value is a number.

    `reads` and `writes` give each dimension's weight in it, and its weight in each dimension.
    """
    attention = model.model.layers[head[0]].self_attn
    q_at = head[1] * D_HEAD
    kv_at = head[1] // attention.num_key_value_groups * D_HEAD
    unscaled = D_HEAD**0.5  # scores are divided by it
    for dimension, (dest, src) in zip(_LOOKS, looks, strict=False):
        attention.q_proj.weight[q_at + dimension, dest] = _FOUND * unscaled
        attention.k_proj.weight[kv_at + dimension, src] = 1.0
    attention.q_proj.weight[q_at + _NULL, CONSTANT] = null * unscaled
    attention.k_proj.weight[kv_at + _NULL, BOS] = 1.0
    for dimension, weight in reads.items():
        attention.v_proj.weight[kv_at, dimension] = weight
    for dimension, weight in writes.items():
        attention.o_proj.weight[dimension, q_at] = weight


@torch.no_grad()
def _plant_neuron(
    model: Any,
    layer: int,
    *,
    gate: Mapping[int, float],
    up: Mapping[int, float],
    writes: Mapping[int, float],
    neuron: int = 0,
) -> None:
    """A neuron that writes relu(gate) * up: silu(30 gate) / 30 is relu(gate) for the values that it meets."""
    mlp = model.model.layers[layer].mlp
    for dimension, weight in gate.items():
        mlp.gate_proj.weight[neuron, dimension] = _STEEP * weight
    for dimension, weight in up.items():
        mlp.up_proj.weight[neuron, dimension] = weight
    for dimension, weight in writes.items():
        mlp.down_proj.weight[dimension, neuron] = weight / _STEEP


@torch.no_grad()
def _empty_model(n_kv_heads: int) -> Any:
    """Embedding, norms, the default verdict and the unembedding; nothing else is written anywhere."""
    vocabulary = _vocabulary()
    config = hf.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=D_MODEL, intermediate_size=2, num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS, num_key_value_heads=n_kv_heads, head_dim=D_HEAD, rms_norm_eps=1e-12,
        rope_parameters={"rope_type": "default", "rope_theta": 1e38}, max_position_embeddings=128,
        tie_word_embeddings=False, pad_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in model.parameters():
        parameter.zero_()
    embedding = model.model.embed_tokens.weight
    embedding[:, CONSTANT] = 1
    embedding[:, [MATCH, *CARRIED]] = -1
    embedding[range(len(vocabulary)), list(vocabulary.values())] = 1
    for name, parameter in model.named_parameters():
        if "norm" in name:
            before_default = name.startswith("model.layers.0.")
            parameter.fill_(((5 if before_default else 6) / D_MODEL) ** 0.5)
    _plant_neuron(model, 0, gate={CONSTANT: 1.0}, up={CONSTANT: 1.0}, writes={VERDICT: -1.0})
    words = list(vocabulary)
    for answer, sign in zip(PromptTemplate().answers, (1, -1), strict=True):
        model.lm_head.weight[words.index(answer), VERDICT] = 2 * sign
    return model.eval().requires_grad_(False)


def _finished(model: Any, **parts: Any) -> Planted:
    tokenizer = _tokenizer()
    return Planted(as_judge(model, tokenizer), aligned_pairs(tokenizer), **parts)


def aligned_pairs(tokenizer: Any) -> tuple[AlignedPair, ...]:
    """`PAIRS` as prompts of the default template."""
    renderer = PromptRenderer(tokenizer, PromptTemplate())
    pairs = [align(renderer, pair) for pair in PAIRS]
    assert all(isinstance(pair, AlignedPair) for pair in pairs), pairs
    return tuple(pairs)  # type: ignore[arg-type]


def saved(planted: Planted, folder: Path) -> tuple[Path, Path]:
    """The model and its pairs as a user would have them: a folder, and a file of questions."""
    planted.judge.model.save_pretrained(folder / "model")
    planted.judge.tokenizer.save_pretrained(folder / "model")
    lines = [
        {"query": p.query_text, "positive_document": p.positive_text, "hard_negative_document": [p.negative_text]}
        for p in PAIRS
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "model", folder / "pairs.jsonl"


def _vocabulary() -> dict[str, int]:
    """Each word, and which of the dimensions 1 to 13 it is 1 in."""
    template = PromptTemplate()
    labels = (template.document_label.strip(), template.query_label.strip())
    scaffold = ("<unk>", *labels, *template.instruction.split(), *template.answers)
    asked, told = zip(*MEANINGS, strict=True)
    return {
        "<bos>": BOS,
        **dict.fromkeys(scaffold, SCAFFOLD),
        template.answer_prefix.strip(): LAST,
        **dict(zip(asked, ASKED, strict=True)),
        **dict(zip(told, TOLD, strict=True)),
    }


def _tokenizer() -> Any:
    """Words between white space, after <bos>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    ids = {word: number for number, word in enumerate(_vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>")


def _z(head: Head, region: str) -> Site:
    return Site("z", head[0], region, head[1])
