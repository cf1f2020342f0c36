"""results room: what a run leaves on disk, and how it is read back.

One row is one measured site of one pair (`schema`); a run is a folder of immutable Parquet parts beside one
manifest (`manifest`, `run`); every file appears whole or not at all (`files`). Nothing here imports torch.
"""

from relscope.results.changes import HEAD_CHANGES, WEIGHT_CHANGES, changes_path, read_changes, write_changes
from relscope.results.circuits import (
    SET_RANKINGS,
    SET_VERDICTS,
    CircuitFolder,
    create_or_resume_circuit,
    holds_circuit,
    open_circuit,
)
from relscope.results.comparison import ComparisonFolder, ComparisonHeader, create_or_resume_comparison
from relscope.results.files import RunError, make_folder, read_json, write_whole
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
    DIRECTIONS,
    EXACT_SAMPLE,
    JOINT,
    KEY_COLUMNS,
    NO_EFFECTS,
    SCHEMA,
    SITE_COLUMNS,
    VALUE_COLUMNS,
    key_index,
    rows_table,
)
from relscope.results.verdicts import Asked, Verdicts

__all__ = [
    "CONTRIBUTIONS",
    "DIRECTIONS",
    "EXACT_SAMPLE",
    "HEAD_CHANGES",
    "INTERACTION",
    "JOINT",
    "KEY_COLUMNS",
    "LENS",
    "NO_EFFECTS",
    "SCHEMA",
    "SET_RANKINGS",
    "SET_VERDICTS",
    "SITE_COLUMNS",
    "VALUE_COLUMNS",
    "VOCABULARY",
    "WEIGHT_CHANGES",
    "Asked",
    "CircuitFolder",
    "ComparisonFolder",
    "ComparisonHeader",
    "ExclusionRecord",
    "Lint",
    "Manifest",
    "PairRecord",
    "PromptSample",
    "Resumption",
    "Run",
    "RunError",
    "Segment",
    "Verdicts",
    "changes_path",
    "create_or_resume",
    "create_or_resume_circuit",
    "create_or_resume_comparison",
    "holds_circuit",
    "identity_differences",
    "identity_hash",
    "key_index",
    "make_folder",
    "open_circuit",
    "open_run",
    "read_changes",
    "read_json",
    "read_readout",
    "readout_path",
    "rows_table",
    "write_changes",
    "write_readout",
    "write_whole",
]
