"""How long does an action take on a device, and how fast does the device multiply matrices?"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def timed(device: torch.device, action: Callable[[], T]) -> tuple[T, float]:
    """What an action gives, and its seconds, until the device has done all that it was given."""
    wait_for(device)
    began = time.perf_counter()
    result = action()
    wait_for(device)
    return result, time.perf_counter() - began


def wait_for(device: torch.device) -> None:
    """Return when the device has nothing left to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_flops(device: torch.device, dtype: torch.dtype, rows: int, d_in: int, d_out: int) -> float:
    """Measured floating-point operations a second of a matrix product, [rows, d_in] x [d_in, d_out]: the best of 50."""
    a = torch.randn(rows, d_in, device=device, dtype=dtype)
    b = torch.randn(d_in, d_out, device=device, dtype=dtype)
    best = min(timed(device, lambda: torch.matmul(a, b))[1] for _ in range(50))
    return 2 * rows * d_in * d_out / best
