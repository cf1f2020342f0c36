"""A study without a model: plans rows, measures those that are missing, stores them in small parts.

Run as a program it is what the tests kill: `python fake_study.py FOLDER [N]`. It prints a line after each
part, and with N it kills itself (SIGKILL) when it is about to flush or rename a file for the N-th time.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from relscope.results import KEY_COLUMNS, Manifest, PairRecord, create_or_resume

N_PAIRS, N_LAYERS, N_HEADS = 12, 3, 2
REGIONS = ("last", "query")
ROWS_PER_PART = 7  # not a divisor of a pair's sites, so that parts split pairs


def manifest(**identity: Any) -> Manifest:
    pairs = [PairRecord(pair_id=f"q{i}:0", query_id=f"q{i}", query_text="text", n_tokens=9) for i in range(N_PAIRS)]
    return Manifest(
        identity={"config": {"seed": 0} | identity, "model": {"name": "none"}},
        created="2025-01-02T03:04:05+00:00",
        environment={"threads": 1},
        model_shape={"n_layers": N_LAYERS, "n_heads": N_HEADS},
        seeds={},
        n_pairs_loaded=N_PAIRS,
        pairs=pairs,
    )


def planned() -> pd.DataFrame:
    """All keys, of three experiments, KEY_COLUMNS with None for null."""
    keys: list[tuple[Any, ...]] = []
    for pair in manifest().pairs:
        keys.append(("judge", pair.pair_id, *[None] * 7))
        for layer in range(N_LAYERS):
            for region in REGIONS:
                site = (region, None, None, "denoise")
                keys.append(("flow", pair.pair_id, "attn_out", layer, None, *site))
                keys += [("heads", pair.pair_id, "z", layer, head, *site) for head in range(N_HEADS)]
    return pd.DataFrame(keys, columns=list(KEY_COLUMNS)).astype({"layer": "Int16", "head": "Int16"})


def measure(keys: pd.DataFrame) -> pd.DataFrame:
    """Rows whose values depend on their key alone, whenever and with whatever others they are measured."""
    values = []
    for key in keys.itertuples(index=False):
        text = "|".join(str(part) for part in key)
        of_pair, of_row = (sum(word.encode()) % 97 / 16 - 3 for word in (str(key.pair_id), text))
        after = None if key.experiment == "judge" else of_row
        margin = None if after is None else np.tanh(after / 2)
        values.append((of_pair, -of_pair, after, np.tanh(of_pair / 2), -np.tanh(of_pair / 2), margin))
    columns = ["ld_clean", "ld_corrupted", "ld_patched", "p_clean", "p_corrupted", "p_patched"]
    measured = pd.DataFrame(values, columns=columns, index=keys.index)
    return pd.concat([keys, measured], axis=1)


def run(folder: Path, after_part: Callable[[int], None] = lambda _: None) -> None:
    with create_or_resume(folder, manifest()) as store:
        left = store.missing(planned())
        for experiment in ("judge", "flow", "heads"):
            of_experiment = left[left["experiment"] == experiment]
            for start in range(0, len(of_experiment), ROWS_PER_PART):
                keys = of_experiment.iloc[start : start + ROWS_PER_PART]
                store.write_part(experiment, measure(keys))
                after_part(start)
        store.save_manifest(store.manifest.model_copy(update={"status": "complete"}))


def die_at(nth: int) -> None:
    """Arrange that the process dies right before its n-th fsync or replace."""
    left = nth

    def dying(call: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: Any) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            call(*arguments)

        return counted

    os.fsync, os.replace = dying(os.fsync), dying(os.replace)  # type: ignore[assignment]


if __name__ == "__main__":
    if len(sys.argv) > 2:
        die_at(int(sys.argv[2]))
    run(Path(sys.argv[1]), after_part=lambda start: print(start, flush=True))
    print("done", flush=True)
