"""What do heads attend to and write, and what would the model say after each layer? The readouts of a study.

    interaction    s(q, d) of every head, of each pair's two documents
    vocabulary     what each part writes into LD, LD after each layer (logit lens), and the words that heads write

Cost: two forward passes a pair, for all of them together. Tables are written when every pair is read: a study that is
killed before begins its readouts again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from torch import Tensor

from relscope.interventions import direct_contributions, head_writes, logit_lens, pair_interaction, top_tokens
from relscope.models import JudgeModel, RecordedRun
from relscope.prompts import AlignedPair
from relscope.results import CONTRIBUTIONS, INTERACTION, LENS, VOCABULARY, Run, read_readout, write_readout
from relscope.study.config import StudyConfig
from relscope.study.measuring import mark_running
from relscope.study.prepare import Progress

N_TOKENS = 10
"""Top tokens of a head, and bottom ones."""


@dataclass(frozen=True)
class _Reading:
    """A pair with its two recorded runs."""

    judge: JudgeModel
    pair: AlignedPair
    clean: RecordedRun
    corrupted: RecordedRun
    regions: tuple[str, ...]

    def runs(self) -> dict[str, RecordedRun]:
        return {"clean": self.clean, "corrupted": self.corrupted}


def read_missing(
    run: Run, config: StudyConfig, judge: JudgeModel, pairs: Sequence[AlignedPair], progress: Progress
) -> None:
    """Read what is chosen of all pairs and not stored yet, and store it.

    Raises:
        InputError: a region has no positions in a prompt, or the model cannot be read out part by part.
    """
    wanted = [schema for schema in _chosen(config) if not _is_stored(run, schema, pairs)]
    if not wanted or not pairs:
        return
    mark_running(run)
    progress.stage(f"reading out {len(pairs)} pairs")
    progress.start(len(pairs), float(len(pairs)))
    vocabulary = config.experiments.vocabulary
    regions = () if vocabulary is None else vocabulary.regions
    # The lens comes first: it says what is wrong with a region.
    makers: list[tuple[pa.Schema, Callable[[_Reading], pd.DataFrame]]] = [
        (LENS, _lens),
        (CONTRIBUTIONS, _contributions),
        (INTERACTION, _interaction),
    ]
    tables = [(schema, rows_of, list[pd.DataFrame]()) for schema, rows_of in makers if schema in wanted]
    written: Tensor | None = None
    for pair in pairs:
        clean, corrupted = judge.record_all([pair.clean.ids, pair.corrupted.ids], for_restart=INTERACTION in wanted)
        reading = _Reading(judge, pair, clean, corrupted, regions)
        for _, rows_of, frames in tables:
            frames.append(rows_of(reading))
        if VOCABULARY in wanted:
            of_pair = head_writes(judge, clean, [pair.clean.region(region) for region in regions])
            written = of_pair if written is None else written + of_pair
        progress.advance(1, 1.0)
    for schema, _, frames in tables:
        write_readout(run.directory, schema, _columns(pd.concat(frames)))
    if written is not None:
        write_readout(run.directory, VOCABULARY, _words(judge, written / len(pairs), regions, len(pairs)))


def _chosen(config: StudyConfig) -> list[pa.Schema]:
    """The tables of the chosen readouts."""
    of_words = [] if config.experiments.vocabulary is None else [LENS, CONTRIBUTIONS, VOCABULARY]
    return of_words + ([] if config.experiments.interaction is None else [INTERACTION])


def _is_stored(run: Run, schema: pa.Schema, pairs: Sequence[AlignedPair]) -> bool:
    """Whether a table is there, of just these pairs."""
    table = read_readout(run.directory, schema)
    if schema == VOCABULARY:
        return len(table) > 0 and bool((table["n_pairs"] == len(pairs)).all())
    return set(table["pair_id"]) == {pair.pair_id for pair in pairs}


def _interaction(reading: _Reading) -> pd.DataFrame:
    found = pair_interaction(reading.pair, reading.clean, reading.corrupted)
    layer, head = _places(found.positive)
    return pd.DataFrame(
        {
            "pair_id": reading.pair.pair_id,
            "layer": layer,
            "head": head,
            "positive": found.positive.flatten().numpy(),
            "negative": found.negative.flatten().numpy(),
        }
    )


def _lens(reading: _Reading) -> pd.DataFrame:
    frames = []
    for name, run in reading.runs().items():
        prompt = getattr(reading.pair, name)
        found = logit_lens(reading.judge, run, prompt, reading.regions, reading.pair.answer_ids, k=1).logit_diff
        region, layer = _places(found)
        values = {"region": np.array(reading.regions, dtype=object)[region], "layer": layer}
        frames.append(pd.DataFrame({**values, "logit_diff": found.flatten().numpy()}).assign(run=name))
    return pd.concat(frames).assign(pair_id=reading.pair.pair_id)


def _contributions(reading: _Reading) -> pd.DataFrame:
    frames = []
    for name, run in reading.runs().items():
        found = direct_contributions(reading.judge, run, reading.pair.answer_ids)
        layer, head = _places(found.head)
        layers = range(len(found.mlp))
        parts = [
            _parts("embedding", [found.embedding]),
            _parts("head", found.head.flatten().numpy(), layer, head),
            _parts("attn_bias", found.attn_bias.numpy(), layers),
            _parts("mlp", found.mlp.numpy(), layers),
            _parts("constant", [found.constant]),
            _parts("logit_diff", [found.ld_uncapped]),
        ]
        frames.append(pd.concat(parts).assign(run=name))
    return pd.concat(frames).assign(pair_id=reading.pair.pair_id)


def _parts(part: str, values: Any, layer: Any = None, head: Any = None) -> pd.DataFrame:
    places = {name: pd.array([None] * len(values) if of is None else list(of), dtype="Int16")
              for name, of in (("layer", layer), ("head", head))}  # fmt: skip
    return pd.DataFrame({"part": part, **places, "value": np.asarray(values, dtype=np.float32)})


def _words(judge: JudgeModel, written: Tensor, regions: Sequence[str], n_pairs: int) -> dict[str, Any]:
    """The top and bottom tokens of what heads write, [region, layer, head, d_model]."""
    tokens = top_tokens(judge, written, min(N_TOKENS, judge.shape.d_vocab))
    frames = []
    for end, ids, logits in (
        ("top", tokens.top_ids, tokens.top_logits),
        ("bottom", tokens.bottom_ids, tokens.bottom_logits),
    ):
        region, layer, head, rank = _places(ids)
        columns = {"region": np.array(regions, dtype=object)[region], "layer": layer, "head": head, "rank": rank}
        columns |= {"token_id": ids.flatten().numpy(), "logit": logits.flatten().numpy()}
        frames.append(pd.DataFrame(columns).assign(end=end, n_pairs=n_pairs))
    words = pd.concat(frames)
    texts = {token_id: judge.tokenizer.decode([token_id]) for token_id in words["token_id"].unique().tolist()}
    return _columns(words.assign(token=words["token_id"].map(texts)))


def _places(values: Tensor) -> tuple[np.ndarray, ...]:
    """The place of each value along each axis, in the order of `values.flatten()`."""
    return tuple(np.indices(tuple(values.shape)).reshape(values.dim(), -1))


def _columns(frame: pd.DataFrame) -> dict[str, Any]:
    return {str(name): frame[name] for name in frame}
