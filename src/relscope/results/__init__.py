"""results room: what a run leaves on disk, and how it is read back.

One row is one measured site of one pair (`schema`); a run is a folder of immutable Parquet parts beside one
manifest (`manifest`, `run`); every file appears whole or not at all (`files`). Nothing here imports torch.
"""

from relscope.results.changes import HEAD_CHANGES, WEIGHT_CHANGES, changes_path, read_changes, write_changes
from relscope.results.comparison import ComparisonFolder, ComparisonHeader, create_or_resume_comparison
from relscope.results.files import RunError, make_folder, write_whole
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
from relscope.results.path_ends import HEAD_INPUTS, PathEnd
from relscope.results.readouts import (
    CONTRIBUTIONS,
    INTERACTION,
    LENS,
    VOCABULARY,
    read_readout,
    readout_path,
    write_readout,
)
from relscope.results.run import Run, create_or_resume, open_run
from relscope.results.schema import (
    DIRECT,
    DIRECTIONS,
    EXACT_SAMPLE,
    JOINT,
    KEY_COLUMNS,
    NO_EFFECTS,
    PATHS,
    SCHEMA,
    SITE_COLUMNS,
    TOTAL,
    VALUE_COLUMNS,
    key_index,
    rows_table,
)
from relscope.results.verdicts import Asked, Verdicts

__all__ = [
    "CONTRIBUTIONS",
    "DIRECT",
    "DIRECTIONS",
    "EXACT_SAMPLE",
    "HEAD_CHANGES",
    "HEAD_INPUTS",
    "INTERACTION",
    "JOINT",
    "KEY_COLUMNS",
    "LENS",
    "NO_EFFECTS",
    "PATHS",
    "SCHEMA",
    "SITE_COLUMNS",
    "TOTAL",
    "VALUE_COLUMNS",
    "VOCABULARY",
    "WEIGHT_CHANGES",
    "Asked",
    "ComparisonFolder",
    "ComparisonHeader",
    "ExclusionRecord",
    "Lint",
    "Manifest",
    "PairRecord",
    "PathEnd",
    "PromptSample",
    "Resumption",
    "Run",
    "RunError",
    "Segment",
    "Verdicts",
    "changes_path",
    "create_or_resume",
    "create_or_resume_comparison",
    "identity_differences",
    "identity_hash",
    "key_index",
    "make_folder",
    "open_run",
    "read_changes",
    "read_readout",
    "readout_path",
    "rows_table",
    "write_changes",
    "write_readout",
    "write_whole",
]
