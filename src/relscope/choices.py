"""Which values may options take? Names of components, paths, ablations and readings; known without torch.

Every room may import them, so that what is misspelt is refused before a model's libraries are loaded.
"""

from __future__ import annotations

from typing import Final, Literal

RESIDUAL_COMPONENTS: Final = ("resid_pre", "attn_out", "mlp_out", "resid_post")
"""Components of a whole layer."""
HEAD_COMPONENTS: Final = ("z", "q", "k_view", "v_view")
"""Components of a query head."""
KV_HEAD_COMPONENTS: Final = ("k", "v")
"""Components of a key/value head."""
EDGE_COMPONENTS: Final = ("scores", "pattern", "pattern_renormalised")
"""Components of a query head, from source to destination positions."""

VARIANTS: Final = ("frozen", "open")
"""frozen: the direct path alone, all between held at the base run. open: all paths from sender to receiver."""

Kind = Literal["mean", "zero", "resample"]
"""What an ablated output is replaced by."""
Positions = Literal["region", "relative", "fixed"]
"""Over which positions a mean is taken."""

READINGS: Final = ("total", "largest")
"""What is made of a head's pattern where documents are ranked by attention."""

DEFAULT_MEMORY_BYTES: Final = 1 << 30
"""Bound on the patched activations held at once."""
