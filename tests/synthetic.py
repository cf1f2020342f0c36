"""A whole run folder made from random numbers, with planted effects and awkward texts. No model runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from relscope.results import (
    ExclusionRecord,
    Lint,
    Manifest,
    PairRecord,
    PromptSample,
    Segment,
    create_or_resume,
)

FLOW_COMPONENTS = ("attn_out", "mlp_out", "resid_post")
REGIONS = ("query", "document", "instruction", "last", "all")
AWKWARD_TEXTS = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "a \"quoted\" & <b>bold</b> 'query'",
    "{{ 7 * 7 }} {% raw %} ${jndi} `tick`",
    "שלום עולם, 日本語のクエリ, naïve café 🙂",
    "line one\nline two\ttabbed \u2028 separated",
    "averylongwordthatneverends" * 12,
)
N_FILTERED = 2
"""So many pairs, the last ones, are judged only, as by a study's filter (in runs of 4 pairs or more)."""


def write_synthetic_run(
    directory: Path,
    n_pairs: int = 12,
    n_layers: int = 4,
    n_heads: int = 4,
    regions: Sequence[str] = REGIONS,
    seed: int = 0,
    components: Sequence[str] = (*FLOW_COMPONENTS, "z"),
    *,
    judges_well: bool = True,
    direction: str = "denoise",
    status: str = "complete",
    pairs_per_part: int = 8,
) -> Path:
    """Write a run of `n_pairs` patched pairs, and N_FILTERED judged only; returns `directory`.

    The rows: "judge"; "flow" for those of `components` that are no heads; "heads" if "z" is among them. Two
    pairs share each query. Planted: at `last` and `all` effects grow with depth, elsewhere they fall; head 1
    of the last layer is the strongest there, and head 0 of layer 0 the most negative anywhere. With
    `judges_well=False` the model judges at chance. The same arguments give the same rows.
    """
    rng = np.random.default_rng(seed)
    n_filtered = N_FILTERED if n_pairs >= 4 else 0
    pairs = _pairs(n_pairs, n_filtered)
    manifest = _manifest(pairs, regions, (n_layers, n_heads), seed, components, direction)
    signal = 3.0 if judges_well else 0.0
    ld_clean = rng.normal(signal, 1.5, len(pairs))
    ld_corrupted = rng.normal(-signal, 1.5, len(pairs))
    with create_or_resume(directory, manifest) as run:
        ids = [pair.pair_id for pair in pairs]
        run.write_part("judge", _judge_rows(ids, ld_clean, ld_corrupted))
        flow = [name for name in components if name != "z"]
        experiments = [("flow", flow, None), ("heads", [name for name in components if name == "z"], n_heads)]
        for experiment, names, heads in experiments:
            for start in range(0, n_pairs, pairs_per_part):
                chosen = slice(start, min(start + pairs_per_part, n_pairs))
                if names:
                    sites = sites_of(names, n_layers, heads, regions, direction)
                    values = (ld_clean[chosen], ld_corrupted[chosen])
                    run.write_part(experiment, _patched_rows(ids[chosen], sites, values, rng))
        run.save_manifest(manifest.model_copy(update={"status": status}))
    return directory


def _pairs(n_patched: int, n_filtered: int) -> list[PairRecord]:
    return [
        PairRecord(
            pair_id=f"q{number // 2}:{number % 2}",
            query_id=f"q{number // 2}",
            query_text=AWKWARD_TEXTS[number // 2 % len(AWKWARD_TEXTS)],
            n_tokens=80 + 7 * number % 90,
            filtered=number >= n_patched,
        )
        for number in range(n_patched + n_filtered)
    ]


def sites_of(
    components: Sequence[str], n_layers: int, n_heads: int | None, regions: Sequence[str], direction: str
) -> dict[str, list[Any]]:
    heads: Sequence[int | None] = [None] if n_heads is None else range(n_heads)
    cells = [(c, layer, h, r) for c in components for layer in range(n_layers) for h in heads for r in regions]
    return {
        "component": [cell[0] for cell in cells],
        "layer": [cell[1] for cell in cells],
        "head": [cell[2] for cell in cells],
        "region": [cell[3] for cell in cells],
        "dest": [None] * len(cells),
        "src": [None] * len(cells),
        "direction": [direction] * len(cells),
    }


def _planted(sites: dict[str, list[Any]]) -> np.ndarray:
    """Share of the gap that each site restores on average, [site]."""
    n_layers = max(sites["layer"]) + 1
    n_heads = 1 if sites["head"][0] is None else max(sites["head"]) + 1
    shares = []
    for layer, head, region in zip(sites["layer"], sites["head"], sites["region"], strict=True):
        depth = (layer + 1) / n_layers
        late = region in ("last", "all")
        share = depth if late else (1 - depth) * (0.6 if region == "document" else 0.3)
        if head is not None:
            share = 0.02 * share
            share += 0.5 if (layer, head) == (n_layers - 1, min(1, n_heads - 1)) and late else 0.0
            share -= 0.2 if (layer, head) == (0, 0) else 0.0
        shares.append(share)
    return np.array(shares)


def _judge_rows(ids: list[str], ld_clean: np.ndarray, ld_corrupted: np.ndarray) -> dict[str, Any]:
    nothing: list[None] = [None] * len(ids)
    empty = ("component", "layer", "head", "region", "dest", "src", "direction", "ld_patched", "p_patched")
    return {
        "pair_id": ids,
        "ld_clean": ld_clean,
        "ld_corrupted": ld_corrupted,
        "p_clean": np.tanh(ld_clean / 2),
        "p_corrupted": np.tanh(ld_corrupted / 2),
        **dict.fromkeys(empty, nothing),
    }


def _patched_rows(
    ids: list[str],
    sites: dict[str, list[Any]],
    values: tuple[np.ndarray, np.ndarray],
    rng: np.random.Generator,
) -> dict[str, Any]:
    clean, corrupted = values
    n_sites = len(sites["layer"])
    start, end = (corrupted, clean) if sites["direction"][0] == "denoise" else (clean, corrupted)
    noise = rng.normal(0.0, 0.05, (len(ids), n_sites))
    patched = start[:, None] + (end - start)[:, None] * (_planted(sites)[None, :] + noise)  # [pair, site]
    ld = {
        "clean": np.repeat(clean, n_sites),
        "corrupted": np.repeat(corrupted, n_sites),
        "patched": patched.ravel(),
    }
    return {
        "pair_id": np.repeat(np.array(ids, dtype=object), n_sites),
        **{name: list(column) * len(ids) for name, column in sites.items()},
        **{f"ld_{run}": value for run, value in ld.items()},
        **{f"p_{run}": np.tanh(value / 2) for run, value in ld.items()},
    }


def _experiments(regions: Sequence[str], components: Sequence[str]) -> dict[str, Any]:
    """What a study's configuration says of the experiments that have these components."""
    chosen: dict[str, Any] = {}
    flow = [name for name in components if name != "z"]
    if flow:
        chosen["flow"] = {"regions": list(regions), "components": flow}
    if "z" in components:
        chosen["heads"] = {"regions": list(regions)}
    return chosen


def _manifest(
    pairs: list[PairRecord],
    regions: Sequence[str],
    shape: tuple[int, int],
    seed: int,
    components: Sequence[str],
    direction: str,
) -> Manifest:
    n_layers, n_heads = shape
    samples = [
        PromptSample(
            pair_id=pair.pair_id,
            run=run,  # type: ignore[arg-type]
            segments=[
                Segment(text="<|im_start|>user\n", region="other"),
                Segment(text="Document: ", region="other"),
                Segment(text=f"{kind} passage, {AWKWARD_TEXTS[number % len(AWKWARD_TEXTS)]}", region="document"),
                Segment(text="\nQuery: ", region="other"),
                Segment(text=pair.query_text, region="query"),
                Segment(
                    text="\nDoes the document answer the query? Only output 'yes' or 'no'.",
                    region="instruction",
                ),
                Segment(text="<|im_end|>\n<|im_start|>assistant", region="other"),
                Segment(text="\n", region="last"),
            ],
        )
        for number, pair in enumerate(pairs[:3])
        for run, kind in (("clean", "The right"), ("corrupted", "A wrong"))
    ]
    exclusions = [
        ExclusionRecord(
            pair_id="q900:0",
            stage="data",
            reason="empty document",
            detail="line 13: <script>alert(3)</script>",
        ),
        ExclusionRecord(pair_id="q901:0", stage="data", reason="empty document", detail="line 27"),
        ExclusionRecord(pair_id="q902:0", stage="alignment", reason="no document token left", detail="0 < 1"),
    ]
    exclusions += [
        ExclusionRecord(pair_id=pair.pair_id, stage="filter", reason="judged wrongly", detail="LD_clean <= 0")
        for pair in pairs
        if pair.filtered
    ]
    return Manifest(
        identity={
            "config": {
                "model": "synthetic/<model>",
                "adapter": None,
                "revision": None,
                "trust_remote_code": False,
                "dtype": "float32",
                "data": "synthetic",
                "negatives": {"kind": "hard", "per_query": 2, "depth": 100},
                "pairs": None,
                "filter": "correct",
                "experiments": _experiments(regions, components),
                "direction": direction,
                "seed": seed,
            },
            "model": {
                "name": "synthetic/<model>",
                "kind": "hub",
                "revision": "0" * 40,
                "adapter": None,
                "dtype": "float32",
                "fingerprint": "2" * 64,
                "model_type": "llama",
            },
            "data": {"name": "synthetic", "sha256": "1" * 64, "n_pairs": len(pairs) + 1, "n_cut": 0},
            "prompt": {
                "format": "pointwise",
                "order": "dqi",
                "instruction": "Does the document answer the query?",
                "answers": ["yes", "no"],
            },
            "relscope_version": "0.1.0",
        },
        created="2025-01-02T03:04:05+00:00",
        environment={
            "packages": {"torch": "2.9.0", "transformers": "5.0.0"},
            "hardware": {"machine": "a test", "processor": "none", "device": "cpu"},
            "threads": 1,
        },
        model_shape={
            "n_layers": n_layers,
            "n_heads": n_heads,
            "n_kv_heads": n_heads,
            "d_model": 16 * n_heads,
            "d_head": 16,
            "d_vocab": 1000,
            "n_parameters": 123_456,
        },
        seeds={"study": seed},
        n_pairs_loaded=len(pairs) + 3,
        pairs=pairs,
        exclusions=exclusions,
        prompt_samples=samples,
        lints=[
            Lint(name="hooks see the right shapes", ok=True, message="all layers"),
            Lint(
                name="answer tokens hold the probability mass",
                ok=False,
                message="'yes' and 'no' hold 0.41 <of 1>",
            ),
        ],
    )
