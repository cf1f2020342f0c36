"""A whole comparison folder made from random numbers, with planted changes and awkward names. No model runs.

Planted: the tuned model separates the documents GAIN times as well (half as well where it is told to do worse); the
last layer but one's head 1 matters at `last` in the tuned model alone; this head and attn_out of its layer carry most
of the extra separation alone, everything else next to nothing; this head, and the layers above, have moved farthest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from relscope.results import ComparisonHeader, Manifest, create_or_resume, identity_hash, open_run
from relscope.results.comparison import COMPARISON_NAME
from synthetic import FLOW_COMPONENTS, REGIONS, sites_of, write_synthetic_run

BASE = "synthetic/<base>"
TUNED = "synthetic/tuned & <b>bold<b>"
GAIN = 3.0
NEW_HEAD_EFFECT = 0.4
"""Share of the gap that the new head carries in the tuned model and does not in the base model."""
TRANSFERRED = {"attn_out": 0.7, "z": 0.6}
"""Share of the extra separation that the new head, and the attention it is part of, alone carry at `last`."""
PARTS = ("base", "tuned", "into_base", "into_tuned", "changes")


def write_comparison(
    folder: Path,
    n_pairs: int = 12,
    n_layers: int = 4,
    n_heads: int = 4,
    regions: Sequence[str] = REGIONS,
    *,
    parts: Sequence[str] = PARTS,
    status: str = "complete",
    alike: bool = False,
) -> Path:
    """Write a comparison folder with the given parts; returns `folder`.

    Two pairs share each query. `alike`: the tuned model is the base model with some noise, and nothing is transferred.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {"n_pairs": n_pairs, "n_layers": n_layers, "n_heads": n_heads, "regions": regions}
    source = write_synthetic_run(folder / "base", **options)
    rows = open_run(source).rows()
    tuned = _tuned(rows, 1.0 if alike else GAIN, n_layers, alike=alike)
    manifest = open_run(source).manifest
    if "tuned" in parts:
        _write(folder / "tuned", _named(manifest, TUNED), tuned)
    judged = {"base": rows[rows["experiment"] == "judge"], "tuned": tuned[tuned["experiment"] == "judge"]}
    patched = [pair.pair_id for pair in manifest.pairs if not pair.filtered]
    for receiver, donor in (("base", "tuned"), ("tuned", "base")):
        if f"into_{receiver}" in parts:
            transferred = _transfer_rows(judged[donor], judged[receiver], patched, (n_layers, n_heads), regions)
            _write(folder / f"into_{receiver}", _named(manifest, f"{donor} into {receiver}"), transferred)
    if "changes" in parts:
        (folder / "changes").mkdir()
        head_changes(patched, n_layers, n_heads, regions).to_parquet(folder / "changes" / "heads.parquet")
        weight_changes(n_layers, n_heads).to_parquet(folder / "changes" / "weights.parquet")
    identity = manifest.identity
    header = ComparisonHeader(
        status=status,  # type: ignore[arg-type]
        base=BASE,
        tuned=TUNED,
        identity=identity,
        identity_hash=identity_hash(identity),
        config=identity["config"],
        created="2025-01-02T03:04:05+00:00",
        relscope_version="0.1.0",
    )
    (folder / COMPARISON_NAME).write_text(header.model_dump_json(), encoding="utf-8")
    return folder


def new_head(n_layers: int) -> tuple[int, int]:
    """The head that matters in the tuned model alone: (layer, head)."""
    return max(0, n_layers - 2), 1


def head_changes(pair_ids: Sequence[str], n_layers: int, n_heads: int, regions: Sequence[str]) -> pd.DataFrame:
    """What `changes/heads.parquet` holds: distances grow with depth, and the new head moved farthest."""
    rng = np.random.default_rng(7)
    cells = [
        (pair, prompt, layer, head, region)
        for pair in pair_ids
        for prompt in ("clean", "corrupted")
        for layer in range(n_layers)
        for head in range(n_heads)
        for region in regions
    ]
    frame = pd.DataFrame(cells, columns=["pair_id", "prompt", "layer", "head", "region"])
    norm = rng.uniform(0.5, 2.0, len(frame))
    depth = (frame["layer"].to_numpy() + 1) / n_layers
    is_new = (frame["layer"] == new_head(n_layers)[0]) & (frame["head"] == new_head(n_layers)[1])
    share = 0.1 * depth + 0.5 * is_new.to_numpy() + rng.uniform(0, 0.05, len(frame))
    return frame.assign(
        norm_base=norm.astype(np.float32),
        norm_tuned=(norm * (1 + share / 2)).astype(np.float32),
        distance=(norm * share).astype(np.float32),
    ).astype({"layer": np.int16, "head": np.int16})


def weight_changes(n_layers: int, n_heads: int) -> pd.DataFrame:
    """What `changes/weights.parquet` holds: q and o moved, more with depth; everything else is as it was."""
    rows: list[dict[str, Any]] = [_weight("model.embed_tokens.weight", None, None, "embedding", (64_000, 80.0, 0.0))]
    for layer in range(n_layers):
        for part in ("q", "k", "v", "o", "mlp", "norm"):
            name = f"model.layers.{layer}.{part}.weight"
            moved = 0.02 * (layer + 1) if part in ("q", "o") else 0.0
            rows.append(_weight(name, layer, None, part, (4096, 10.0, 10.0 * moved)))
            if part in ("q", "k", "v", "o"):
                for head in range(n_heads):
                    of_head = (4096 // n_heads, 5.0, 5.0 * moved * (1 + head))
                    rows.append(_weight(name, layer, head, part, of_head))
    frame = pd.DataFrame(rows)
    frame[["layer", "head"]] = frame[["layer", "head"]].astype("Int16")
    return frame.astype({"norm_base": np.float32, "norm_change": np.float32})


def _weight(
    name: str, layer: int | None, head: int | None, part: str, values: tuple[int, float, float]
) -> dict[str, Any]:
    n_values, norm, change = values
    return {
        "name": name, "layer": layer, "head": head, "part": part, "n_values": n_values, "norm_base": norm,
        "norm_change": change,
    }  # fmt: skip


def _named(manifest: Manifest, name: str) -> Manifest:
    content = manifest.model_dump()
    content["identity"] = {**content["identity"], "model": {**content["identity"]["model"], "name": name}}
    return Manifest.model_validate({**content, "identity_hash": ""})


def _write(directory: Path, manifest: Manifest, rows: pd.DataFrame) -> None:
    with create_or_resume(directory, manifest) as run:
        for experiment in rows["experiment"].astype(str).unique():
            run.write_part(experiment, rows[rows["experiment"] == experiment])


def _tuned(rows: pd.DataFrame, gain: float, n_layers: int, *, alike: bool) -> pd.DataFrame:
    """The base model's rows with every LD `gain` times as large, a little noise, and the new head."""
    rng = np.random.default_rng(1)
    clean, corrupted = gain * rows["ld_clean"], gain * rows["ld_corrupted"]
    share = (rows["ld_patched"] - rows["ld_corrupted"]) / (rows["ld_clean"] - rows["ld_corrupted"])
    layer, head = new_head(n_layers)
    is_new = (rows["layer"] == layer) & (rows["head"] == head) & rows["region"].isin(["last", "all"])
    share = share + rng.normal(0, 0.01, len(rows))
    if not alike:
        share = share + NEW_HEAD_EFFECT * is_new.fillna(False).to_numpy(dtype=bool)
    return _with_values(rows, clean, corrupted, corrupted + share * (clean - corrupted))


def _with_values(rows: pd.DataFrame, clean: Any, corrupted: Any, patched: Any) -> pd.DataFrame:
    values: Mapping[str, Any] = {"clean": clean, "corrupted": corrupted, "patched": patched}
    new = rows.assign(**{f"ld_{run}": value for run, value in values.items()})
    return new.assign(**{f"p_{run}": np.tanh(value / 2) for run, value in values.items()})


def _transfer_rows(
    donor: pd.DataFrame, receiver: pd.DataFrame, pair_ids: Sequence[str], shape: tuple[int, int], regions: Sequence[str]
) -> pd.DataFrame:
    """Rows of all four experiments: the planted site carries TRANSFERRED, resid_post at `all` carries everything."""
    n_layers, n_heads = shape
    rng = np.random.default_rng(2)
    parts = []
    of_donor, of_receiver = (frame.set_index("pair_id").loc[list(pair_ids)] for frame in (donor, receiver))
    for kind, names, heads in (("flow", FLOW_COMPONENTS, None), ("heads", ("z",), n_heads)):
        sites = pd.DataFrame(sites_of(names, n_layers, heads, regions, "denoise"))
        resid_all = (sites["component"] == "resid_post") & (sites["region"] == "all")
        here = (sites["layer"] == new_head(n_layers)[0]) & (sites["region"] == "last")
        here &= (sites["component"] == "attn_out") | (sites["head"] == new_head(n_layers)[1])
        planted = sites["component"].map(TRANSFERRED).fillna(0.0)
        share = np.where(resid_all, 1.0, np.where(here, planted, 0.02 * (sites["layer"] + 1) / n_layers))
        for prompt in ("clean", "corrupted"):
            start = of_receiver[f"ld_{prompt}"].to_numpy(dtype=np.float64)
            end = of_donor[f"ld_{prompt}"].to_numpy(dtype=np.float64)
            noise = rng.normal(0, 0.01, (len(pair_ids), len(sites)))
            patched = start[:, None] + (end - start)[:, None] * (share + noise)
            repeated = pd.concat([sites] * len(pair_ids), ignore_index=True).assign(
                experiment=f"transfer_{kind}_{prompt}", pair_id=np.repeat(list(pair_ids), len(sites))
            )
            values = (np.repeat(end, len(sites)), np.repeat(start, len(sites)), patched.ravel())
            parts.append(_with_values(repeated, *values))
    return pd.concat(parts, ignore_index=True)
