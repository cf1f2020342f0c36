"""How far are effects that were measured in less than full precision from the exact ones?

Some patches are measured twice. Over these, in logits:

    rms error = sqrt(mean((LD_patched - LD_patched exactly)^2))        to be compared with the rms of the exact effects
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from relscope.results import DIRECT, EXACT_SAMPLE, NO_EFFECTS, PATHS, key_index


@dataclass(frozen=True)
class PrecisionError:
    """Errors in logits over `n` patches that were measured again exactly.

    Attributes:
        rms: root mean square of the errors.
        largest: in absolute value.
        rms_effect: root mean square of the same patches' exact effects, LD_patched - LD of the run that was patched.
    """

    n: int
    rms: float
    largest: float
    rms_effect: float

    @property
    def sentence(self) -> str:
        """The same in words."""
        share = f", {self.rms / self.rms_effect:.2%} of the rms effect" if self.rms_effect > 0 else ""
        return (
            f"{self.n:,} patches measured again exactly: rms error {self.rms:.1e} logits{share}; largest "
            f"{self.largest:.1e}"
        )


def precision_error(rows: pd.DataFrame) -> PrecisionError | None:
    """The errors of a run's rows; None where no patch that can change anything was measured again.

    Args:
        rows: of all experiments; those of `exact_sample` are the exact ones.
    """
    of = rows["experiment"].astype(str)
    # Paths are always exact, and a direct effect goes by the same component and place as a total one.
    exact, measured = rows[of == EXACT_SAMPLE], rows[~of.isin((*NO_EFFECTS, DIRECT, PATHS))]
    at = key_index(measured).get_indexer(key_index(exact))
    exact, measured = exact[at >= 0], measured.iloc[at[at >= 0]]
    if not len(exact):
        return None
    wanted = exact["ld_patched"].to_numpy(dtype=np.float64)
    error = measured["ld_patched"].to_numpy(dtype=np.float64) - wanted
    effect = wanted - np.where(exact["direction"] == "denoise", exact["ld_corrupted"], exact["ld_clean"])
    # Where nothing can change, nothing was computed: such patches would only make the error look smaller.
    computed = (effect != 0) | (error != 0)
    error, effect = error[computed], effect[computed]
    if not len(error):
        return None
    return PrecisionError(
        n=len(error),
        rms=float(np.sqrt(np.mean(error**2))),
        largest=float(np.abs(error).max()),
        rms_effect=float(np.sqrt(np.mean(effect**2))),
    )
