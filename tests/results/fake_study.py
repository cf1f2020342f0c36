"""A study without a model: plans rows, measures those that are missing, stores them in small parts.

Run as a program it is what the tests kill. `python fake_study.py FOLDER` runs to the end, and prints a line after each
part; with `paced` behind it, it then waits for a line before it goes on; with a number N, it kills itself (SIGKILL) at
its N-th step: half-way through the bytes of a file, before a flush, before a rename.
"""

from __future__ import annotations

import builtins
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
    """Arrange that the process dies at its n-th step: in the middle of a file, before a flush, before a rename."""
    left = nth

    def step() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def dying(call: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: Any) -> None:
            step()
            call(*arguments)

        return counted

    class Halves:
        """A file opened for writing bytes, which it does in two goes."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def __enter__(self) -> Halves:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            half = len(content) // 2
            self.file.write(content[:half])
            self.file.flush()
            step()
            self.file.write(content[half:])

    def opened(path: Any, mode: str = "r", *options: Any, **named: Any) -> Any:
        file = plain_open(path, mode, *options, **named)
        return Halves(file) if mode == "wb" else file

    plain_open = builtins.open
    builtins.open = opened  # type: ignore[assignment]
    os.fsync, os.replace = dying(os.fsync), dying(os.replace)  # type: ignore[assignment]


def told(start: int, *, paced: bool) -> None:
    print(start, flush=True)
    if paced:
        sys.stdin.readline()


if __name__ == "__main__":
    how = sys.argv[2] if len(sys.argv) > 2 else ""
    if how.isdigit():
        die_at(int(how))
    run(Path(sys.argv[1]), after_part=lambda start: told(start, paced=how == "paced"))
    print("done", flush=True)
