"""results room: what a run leaves on disk, and how it is read back.

One row is one measured site of one pair (`schema`); a run is a folder of immutable Parquet parts beside one
manifest (`manifest`, `run`); every file appears whole or not at all (`files`). Nothing here imports torch.
"""

from relscope.results.files import RunError
from relscope.results.manifest import (
    ExclusionRecord,
    Lint,
    Manifest,
    PairRecord,
    PromptSample,
    Resumption,
    Segment,
    identity_differences,
    identity_hash,
)
from relscope.results.run import Run, create_or_resume, open_run
from relscope.results.schema import (
    DIRECTIONS,
    KEY_COLUMNS,
    SCHEMA,
    SITE_COLUMNS,
    VALUE_COLUMNS,
    key_index,
    rows_table,
)

__all__ = [
    "DIRECTIONS",
    "KEY_COLUMNS",
    "SCHEMA",
    "SITE_COLUMNS",
    "VALUE_COLUMNS",
    "ExclusionRecord",
    "Lint",
    "Manifest",
    "PairRecord",
    "PromptSample",
    "Resumption",
    "Run",
    "RunError",
    "Segment",
    "create_or_resume",
    "identity_differences",
    "identity_hash",
    "key_index",
    "open_run",
    "rows_table",
]
