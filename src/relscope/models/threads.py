"""How many threads should torch use? As many as the process may really run on, no more."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Cores that this process may run on, after affinity and a container's CPU quota; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if _QUOTA.is_file():
        limit, _, period = _QUOTA.read_text().partition(" ")
        if limit != "max":
            cores = min(cores, max(1, round(int(limit) / int(period))))
    return max(1, cores)


def set_sensible_threads() -> None:
    """Set torch's and the tokenizers' threads, unless the user's environment already does.

    More threads than cores make torch many times slower; tokenizers that fork their own threads warn and stall.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "OMP_NUM_THREADS" not in os.environ and "MKL_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
