"""How long do error bars and tests of a large run take, and how much memory?

Synthetic rows (no model) of a model of 32 layers of 32 heads at five regions, with intervals from 10,000 resamples
of the queries and p-values from 10,000 sign flips. Prints the seconds and the peak memory of the process against the
goals.

    python benchmarks/error_bars.py [--pairs 100] [--layers 32] [--heads 32] [--resamples 10000] [--flips 10000]
"""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
import pandas as pd

from relscope.analysis import site_effects, split_half_stability

GOAL_SECONDS = 30.0
GOAL_GIBIBYTES = 4.0
REGIONS = ("query", "document", "instruction", "last", "all")
N_CAUSAL = 20


def main() -> None:
    """Make the rows, compute everything once, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--flips", type=int, default=10_000)
    options = parser.parse_args()
    rows = synthetic_rows(options.pairs, options.layers, options.heads)
    query_of = {f"p{pair}": f"q{pair}" for pair in range(options.pairs)}
    held = _peak_gibibytes()
    began = time.perf_counter()
    effects = site_effects(rows, query_of, n_resamples=options.resamples, n_flips=options.flips)
    seconds = time.perf_counter() - began
    print(f"{len(rows)} rows, {len(effects)} sites: {seconds:.1f} s ({_verdict(seconds, GOAL_SECONDS)})")
    began = time.perf_counter()
    split_half_stability(rows, query_of)
    print(f"split-half stability besides: {time.perf_counter() - began:.1f} s")
    peak = _peak_gibibytes()
    print(f"peak memory {peak:.2f} GiB ({_verdict(peak, GOAL_GIBIBYTES)}), {held:.2f} GiB of it before")


def synthetic_rows(n_pairs: int, n_layers: int, n_heads: int) -> pd.DataFrame:
    """Rows of the experiment `heads` as a run gives them, one pair a query: N_CAUSAL sites cause something."""
    rng = np.random.default_rng(0)
    shape = (n_pairs, n_layers, n_heads, len(REGIONS))
    pair, layer, head, region = (axis.ravel() for axis in np.indices(shape))
    share = np.zeros(shape[1:])
    share.ravel()[rng.choice(share.size, N_CAUSAL, replace=False)] = rng.uniform(0.05, 0.5, N_CAUSAL)
    clean, corrupted = (rng.normal(ld, 1.0, n_pairs)[pair] for ld in (2.0, -2.0))
    restored = np.tile(share.ravel(), n_pairs) + rng.normal(0.0, 0.02, pair.size)
    lds = {"clean": clean, "corrupted": corrupted, "patched": corrupted + (clean - corrupted) * restored}
    columns: dict[str, object] = {
        "experiment": pd.Categorical.from_codes(np.zeros_like(pair), ["heads"]),
        "pair_id": pd.Categorical.from_codes(pair, [f"p{i}" for i in range(n_pairs)]),
        "component": pd.Categorical.from_codes(np.zeros_like(pair), ["z"]),
        "layer": layer,
        "head": head,
        "region": pd.Categorical.from_codes(region, list(REGIONS)),
        "dest": pd.Categorical.from_codes(np.full_like(pair, -1), np.array([], dtype=object)),
        "src": pd.Categorical.from_codes(np.full_like(pair, -1), np.array([], dtype=object)),
        "direction": pd.Categorical.from_codes(np.zeros_like(pair), ["denoise"]),
    }
    columns |= {f"ld_{run}": ld.astype(np.float32) for run, ld in lds.items()}
    columns |= {f"p_{run}": np.tanh(ld / 2).astype(np.float32) for run, ld in lds.items()}
    return pd.DataFrame(columns).astype({"layer": "Int16", "head": "Int16"})


def _peak_gibibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _verdict(measured: float, goal: float) -> str:
    return f"goal < {goal:g}, {'within' if measured < goal else 'falls short'}"


if __name__ == "__main__":
    main()
