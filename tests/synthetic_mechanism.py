"""A synthetic run with edges, sets of heads and readouts whose means are known beforehand. No model runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from relscope.results import (
    CONTRIBUTIONS,
    INTERACTION,
    LENS,
    VOCABULARY,
    Manifest,
    create_or_resume,
    open_run,
    write_readout,
)
from synthetic import write_synthetic_run

LAYERS, HEADS = 4, 4
JOINT_HEADS = ("L3H1@last", "L2H0@query", "L1H1@query")
SINGLES = dict(zip(JOINT_HEADS, (4.0, 2.0, 1.0), strict=True))
INTERACTIONS = {
    frozenset(JOINT_HEADS[:2]): -0.5,
    frozenset((JOINT_HEADS[0], JOINT_HEADS[2])): 0.25,
    frozenset(JOINT_HEADS[1:]): 0.0,
    frozenset(JOINT_HEADS): -1.0,
}
"""Joint effect less the sum of the single ones, the same on every pair."""
PATHS = {
    ("embedding@document", "L1H1@query"): 0.5,
    ("L1H1@query", "L2H0@query"): -0.25,
    ("L2H0@query", "L3H1@last"): 1.5,
    ("L2H0@query", "L3H1.k_view@query"): 0.1,
    ("L2H0@query", "L3H1.v_view@query"): 1.25,
    ("L1H1@query", "L3H1@last"): 0.001,
}
"""Effects of frozen paths, the same on every pair."""
DIRECT_SHARE = 0.75
"""Of a head's total effect at the last token."""
ATTACK = "</script><img src=x onerror=alert(9)>"


def write_mechanism_run(directory: Path) -> Path:
    """A complete run of 24 pairs of 12 queries with `heads` at query and last, and everything of the mechanism.

    Planted: edges query<-document have exactly the effects of z at the query, and those of last<-query are 0.01 for
    every head but L0H2, whose is 1; s(q, d) with the positive document exceeds that with the negative by the effect of
    z at the query; in the clean run each head writes layer + head / 10 into LD, in the corrupted run nothing, and the
    MLP of the last layer writes what is left; of each head's effect at the last token DIRECT_SHARE is direct, and an
    MLP's direct effect is 1 where its total is none; the logit lens reads 0 up to layer 1 and LD from layer 2 on.
    """
    run = open_run(write_synthetic_run(directory / "base", 24, LAYERS, HEADS, ("query", "last"), components=["z"]))
    identity = json.loads(json.dumps(run.manifest.identity))
    identity["config"]["experiments"] |= {
        "edges": {"edges": ["query<-document", "last<-query"], "components": ["scores"]},
        "joint": {"top": 2, "heads": None},
        "paths": {"top": 2},
        "interaction": {},
        "vocabulary": {"regions": ["query", "last"]},
    }
    changes = {"identity": identity, "identity_hash": "", "joint_heads": list(JOINT_HEADS)}
    manifest = Manifest.model_validate({**run.manifest.model_dump(), **changes})
    heads = run.rows("heads").astype(dict.fromkeys(("region", "dest", "src", "pair_id", "experiment"), object))
    target = directory / "run"
    with create_or_resume(target, manifest) as new:
        for name in ("judge", "heads"):
            new.write_part(name, run.rows(name))
        new.write_part("edges", _edges(heads))
        new.write_part("joint", _joint(heads))
        for name, part in _paths(heads).items():
            new.write_part(name, part)
    for schema, table in (
        (INTERACTION, _interaction(heads)),
        (CONTRIBUTIONS, _contributions(heads)),
        (LENS, _lens(heads)),
        (VOCABULARY, _vocabulary()),
    ):
        write_readout(target, schema, {str(name): table[name] for name in table})
    return target


def _patched(rows: pd.DataFrame, effect: Any) -> pd.DataFrame:
    """With the effect, in logits, on a corrupted run."""
    patched = rows["ld_corrupted"].astype(np.float64) + effect
    return rows.assign(ld_patched=patched, p_patched=np.tanh(patched / 2))


def _edges(heads: pd.DataFrame) -> pd.DataFrame:
    at_query = heads[heads["region"] == "query"].assign(experiment="edges", component="scores", region=None)
    late = np.where((at_query["layer"] == 0) & (at_query["head"] == 2), 1.0, 0.01)
    of_last = _patched(at_query.assign(dest="last", src="query"), late)
    return pd.concat([at_query.assign(dest="query", src="document"), of_last])


def _joint(heads: pd.DataFrame) -> pd.DataFrame:
    one_a_pair = heads.drop_duplicates("pair_id")
    nothing = {"experiment": "joint", "component": "joint", "head": None, "region": None}
    sets = [frozenset((name,)) for name in JOINT_HEADS] + list(INTERACTIONS)
    return pd.concat(
        _patched(
            one_a_pair.assign(**nothing, src="+".join(sorted(of_set)), layer=min(int(name[1]) for name in of_set)),
            sum(SINGLES[name] for name in of_set) + INTERACTIONS.get(of_set, 0.0),
        )
        for of_set in sets
    )


def _paths(heads: pd.DataFrame) -> dict[str, pd.DataFrame]:
    at_last = heads[heads["region"] == "last"]
    effect = at_last["ld_patched"].astype(np.float64) - at_last["ld_corrupted"]
    of_heads = _patched(at_last.assign(experiment="direct"), DIRECT_SHARE * effect)
    one_a_pair = at_last.drop_duplicates("pair_id")
    of_mlps = [one_a_pair.assign(component="mlp_out", layer=layer, head=None) for layer in range(LAYERS)]
    between = [
        _patched(
            one_a_pair.assign(
                experiment="paths", component="frozen", region=None, src=src, dest=dest,
                layer=int(src[1]) if src[0] == "L" else 0, head=int(src[3]) if src[0] == "L" else None,
            ),
            value,
        )
        for (src, dest), value in PATHS.items()
    ]  # fmt: skip
    return {
        "direct": pd.concat([of_heads, *(_patched(of.assign(experiment="direct"), 1.0) for of in of_mlps)]),
        "total": pd.concat([_patched(of.assign(experiment="total"), 0.0) for of in of_mlps]),
        "paths": pd.concat(between),
    }


def _interaction(heads: pd.DataFrame) -> pd.DataFrame:
    at_query = heads[heads["region"] == "query"]
    effect = at_query["ld_patched"] - at_query["ld_corrupted"]
    return at_query[["pair_id", "layer", "head"]].assign(negative=5.0, positive=5.0 + effect)


def _contributions(heads: pd.DataFrame) -> pd.DataFrame:
    of_heads = [("head", layer, head, layer + head / 10) for layer in range(LAYERS) for head in range(HEADS)]
    written = sum(value for *_, value in of_heads)
    rows = []
    for pair in heads.drop_duplicates("pair_id").itertuples():
        for run, share, whole in (("clean", 1.0, pair.ld_clean), ("corrupted", 0.0, pair.ld_corrupted)):
            parts = [("embedding", None, None, 0.0), *of_heads, *(("mlp", n, None, 0.0) for n in range(LAYERS - 1))]
            parts = [(part, layer, head, share * value) for part, layer, head, value in parts]
            parts += [("mlp", LAYERS - 1, None, whole - share * written), ("logit_diff", None, None, whole)]
            rows += [(pair.pair_id, run, *part) for part in parts]
    table = pd.DataFrame(rows, columns=["pair_id", "run", "part", "layer", "head", "value"])
    return table.astype({"layer": "Int16", "head": "Int16"})


def _lens(heads: pd.DataFrame) -> pd.DataFrame:
    rows = [
        (pair.pair_id, run, region, layer, whole if layer > 1 else 0.0)
        for pair in heads.drop_duplicates("pair_id").itertuples()
        for run, whole in (("clean", pair.ld_clean), ("corrupted", pair.ld_corrupted))
        for region in ("query", "last")
        for layer in range(LAYERS)
    ]
    return pd.DataFrame(rows, columns=["pair_id", "run", "region", "layer", "logit_diff"])


def _vocabulary() -> pd.DataFrame:
    rows = []
    for region in ("query", "last"):
        for layer in range(LAYERS):
            for head in range(HEADS):
                strongest = (region, layer, head) == ("last", 3, 1)
                top = [" yes", "\n"] if strongest else [ATTACK, f"top{layer}{head}"]
                tokens = [("top", token) for token in top] + [("bottom", f"bottom{layer}{head}"), ("bottom", " \t")]
                for number, (end, token) in enumerate(tokens):
                    rows.append((region, layer, head, end, number % 2, number, token, 1.0 - number, 24))
    names = ["region", "layer", "head", "end", "rank", "token_id", "token", "logit", "n_pairs"]
    return pd.DataFrame(rows, columns=names)
