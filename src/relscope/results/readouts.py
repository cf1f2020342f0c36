"""What did a study read without intervening? Its readouts, each a table of its own in the run folder.

readouts/interaction.parquet      how much each head matches the query with the document in what it attends to
readouts/contributions.parquet    what each part writes directly into LD, of each pair's clean and corrupted run
readouts/lens.parquet             LD as it would be, were each layer the last
readouts/vocabulary.parquet       the tokens that each head writes, averaged over the clean runs

`relscope.interventions` has the formulas (`interaction`, `contributions`, `vocabulary`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pandas as pd
import pyarrow as pa

from relscope.results.tables import Columns, as_frame, read_table, write_table

INTERACTION: Final = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("positive", pa.float32(), nullable=False),
        pa.field("negative", pa.float32(), nullable=False),
    ]
)
"""s(q, d) of each head, with the pair's positive and with its negative document."""
CONTRIBUTIONS: Final = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("layer", pa.int16()),
        pa.field("head", pa.int16()),
        pa.field("value", pa.float32(), nullable=False),
    ]
)
"""In logits. `run` is clean or corrupted; `part` is embedding, head, attn_bias, mlp or constant, which sum to the value
of the part `logit_diff`: LD before any soft cap."""
LENS: Final = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("run", pa.string(), nullable=False),
        pa.field("region", pa.string(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("logit_diff", pa.float32(), nullable=False),
    ]
)
"""LD of `resid_post` of each layer, the mean over a region's positions; soft cap included."""
VOCABULARY: Final = pa.schema(
    [
        pa.field("region", pa.string(), nullable=False),
        pa.field("layer", pa.int16(), nullable=False),
        pa.field("head", pa.int16(), nullable=False),
        pa.field("end", pa.string(), nullable=False),
        pa.field("rank", pa.int16(), nullable=False),
        pa.field("token_id", pa.int32(), nullable=False),
        pa.field("token", pa.string(), nullable=False),
        pa.field("logit", pa.float32(), nullable=False),
        pa.field("n_pairs", pa.int32(), nullable=False),
    ]
)
"""The tokens whose logits a head adds most to (`end` top) and takes most from (bottom), rank 0 the most extreme."""

_NAMES: Final = {
    tuple(schema.names): name
    for name, schema in (
        ("interaction", INTERACTION),
        ("contributions", CONTRIBUTIONS),
        ("lens", LENS),
        ("vocabulary", VOCABULARY),
    )
}


def readout_path(run_dir: Path, schema: pa.Schema) -> Path:
    """Where a run folder has the table of a schema of this module."""
    return Path(run_dir) / "readouts" / f"{_NAMES[tuple(schema.names)]}.parquet"


def write_readout(run_dir: Path, schema: pa.Schema, columns: Columns) -> Path:
    """Write one of the tables, whole or not at all, in place of one that is there.

    Args:
        run_dir: the run folder.
        schema: INTERACTION, CONTRIBUTIONS, LENS or VOCABULARY.
        columns: one sequence for each field; None is null.

    Raises:
        InputError: a column is missing or unknown, or holds what its field does not allow, or a value is not finite.
        RunError: the disk refuses.
    """
    return write_table(readout_path(run_dir, schema), schema, columns)


def read_readout(run_dir: Path, schema: pa.Schema) -> pd.DataFrame:
    """One of the tables; without any rows where it is not written (yet).

    Raises:
        RunError: the file is damaged.
    """
    frame = read_table(readout_path(run_dir, schema), schema)
    return as_frame(schema.empty_table()) if frame is None else frame
