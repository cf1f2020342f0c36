"""What was run, on what, and what was left out: the one file that explains a run's rows.

`identity` holds whatever changes what a row means; two runs may share a folder only if their identities are
equal.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from relscope.errors import InputError
from relscope.results.files import read_json

SCHEMA_VERSION = 1

# Names of what follows from what was chosen.
_FOLLOWS = re.compile(r"(sha256|fingerprint|n_pairs|n_cut)$")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())  # model_shape is a field of ours


class PairRecord(_Record):
    """One aligned pair. `n_tokens` counts the prompt's tokens; `filtered`: judged, but not patched."""

    pair_id: str
    query_id: str
    query_text: str
    n_tokens: int
    filtered: bool = False


class ExclusionRecord(_Record):
    """A pair that has no rows (stage `data` or `alignment`) or only a judge row (`filter`), and why."""

    pair_id: str
    stage: Literal["data", "alignment", "filter"]
    reason: str
    detail: str = ""


class Segment(_Record):
    """A stretch of a prompt's text and the region its tokens belong to."""

    text: str
    region: Literal["query", "document", "document_a", "document_b", "instruction", "last", "other"]


class PromptSample(_Record):
    """One prompt as the model read it: the segments, joined, are its text."""

    pair_id: str
    run: Literal["clean", "corrupted"]
    segments: list[Segment]


class Lint(_Record):
    """One clause of the model's contract or one lint of its verdict."""

    name: str
    ok: bool
    message: str


class Resumption(_Record):
    """The run was opened again to be continued, in an environment other than the one before."""

    resumed: str
    environment: dict[str, Any]


class Extension(_Record):
    """The run was given more pairs or experiments.

    `n_pairs` counts the pairs that were to be patched before; `heads_kept` names the experiments that had chosen heads
    by the effects of these, and keep them.
    """

    extended: str
    n_pairs: int
    heads_kept: list[str] = Field(default_factory=list)


class Manifest(_Record):
    """The content of `manifest.json`.

    `identity` has the entries config, model, data, prompt and relscope_version; it is kept as JSON sees it
    (tuples become lists). `identity_hash` may be left empty when a manifest is made; it is then computed.
    `joint_heads` are those that the experiment `joint` patches together, the largest single effect first, such as
    "L12H3@last": chosen once, so that a run that is resumed goes on with the same; so are `path_senders` and
    `path_receivers`, the heads between which the experiment `paths` patches. Times are ISO 8601.
    """

    schema_version: int = SCHEMA_VERSION
    identity: dict[str, Any]
    identity_hash: str = ""
    created: str
    status: Literal["running", "complete"] = "running"
    environment: dict[str, Any]
    model_shape: dict[str, int]
    seeds: dict[str, int]
    n_pairs_loaded: int
    pairs: list[PairRecord]
    exclusions: list[ExclusionRecord] = Field(default_factory=list)
    prompt_samples: list[PromptSample] = Field(default_factory=list)
    lints: list[Lint] = Field(default_factory=list)
    joint_heads: list[str] = Field(default_factory=list)
    path_senders: list[str] = Field(default_factory=list)
    path_receivers: list[str] = Field(default_factory=list)
    resumptions: list[Resumption] = Field(default_factory=list)
    extensions: list[Extension] = Field(default_factory=list)

    @field_validator("identity", "environment")
    @classmethod
    def _as_json_sees_it(cls, content: dict[str, Any]) -> dict[str, Any]:
        # Compared with what is read back from the file, so it must not change on the way.
        kept: dict[str, Any] = json.loads(_canonical(content))
        return kept

    @model_validator(mode="after")
    def _hash_belongs_to_identity(self) -> Manifest:
        expected = identity_hash(self.identity)
        if not self.identity_hash:
            self.identity_hash = expected
        elif self.identity_hash != expected:
            raise ValueError("identity_hash does not belong to identity: one of them was changed by hand")
        return self

    @property
    def query_of(self) -> dict[str, str]:
        """The query of each pair, by `pair_id`: the clusters of every interval."""
        return {pair.pair_id: pair.query_id for pair in self.pairs}

    @property
    def patched_queries(self) -> tuple[str, ...]:
        """Ids of the queries with a pair that is patched, each once, in the order of the pairs."""
        return tuple(dict.fromkeys(pair.query_id for pair in self.pairs if not pair.filtered))

    def n_choosing(self, experiment: str) -> int | None:
        """How many pairs chose the heads of `joint` or `paths`, where others came later; None: all that are patched."""
        kept = (extension.n_pairs for extension in self.extensions if experiment in extension.heads_kept)
        return next(kept, None)


def identity_hash(identity: dict[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON of `identity`: sorted keys, no spaces, UTF-8.

    Raises:
        InputError: `identity` holds what JSON cannot: NaN, an infinity, an object, text that is no valid Unicode.
    """
    return hashlib.sha256(_canonical(identity)).hexdigest()


def identity_differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The fields in which two identities differ, each as `dotted.path: OLD in the folder, NEW now`."""
    before, now = json.loads(_canonical(old)), json.loads(_canonical(new))
    return [
        f"{path}: {was} in the folder, {is_now} now"
        for path, *both in _differences("", before, now)
        for was, is_now in [_shown_apart(*both)]
    ]


def chosen_differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """As `identity_differences`, in one text and without checksums and counts that follow from what else differs."""
    differences = identity_differences(old, new)
    return "; ".join([d for d in differences if not _FOLLOWS.search(d.partition(": ")[0])] or differences)


def read_manifest(path: Path) -> Manifest:
    """The manifest in `path`.

    Raises:
        InputError: the file cannot be read, is not JSON, was written by a newer version, or lacks a field (named).
    """
    content = read_json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise InputError(f"{path}: not the manifest of a run (no schema_version)")
    if version != SCHEMA_VERSION:
        raise InputError(f"{path}: has schema_version {version}; this relscope reads {SCHEMA_VERSION}")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{path}: {_problems(error)}") from error


def checked(manifest: Manifest) -> Manifest:
    """A copy that shares nothing with `manifest`, as it will be read back from the disk.

    Raises:
        InputError: a field was set, which nothing checks, to a value of the wrong kind or to what JSON cannot hold.
    """
    try:
        return Manifest.model_validate(manifest.model_dump(warnings=False))
    except ValidationError as error:
        raise InputError(f"manifest: {_problems(error)}") from error


def manifest_bytes(manifest: Manifest) -> bytes:
    """A checked manifest as the JSON text of `manifest.json`."""
    text = json.dumps(manifest.model_dump(mode="json"), ensure_ascii=False, allow_nan=False, indent=1)
    return (text + "\n").encode()


def _canonical(identity: dict[str, Any]) -> bytes:
    try:
        text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"cannot be written as JSON ({error}); use plain finite values") from error


_ABSENT = object()


def _differences(path: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            deeper = f"{path}.{key}" if path else key
            found += _differences(deeper, old.get(key, _ABSENT), new.get(key, _ABSENT))
        return found
    if old is _ABSENT or new is _ABSENT:
        return [(path, old, new)]
    # Compared as text, as the hash does: to Python true equals 1, and 0 equals 0.0.
    same = json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)
    return [] if same else [(path, old, new)]


def _shown_apart(old: Any, new: Any, longest: int = 80) -> tuple[str, str]:
    """Two values that differ; of long texts the part around the first difference, and where it is."""
    texts = ["(absent)" if value is _ABSENT else json.dumps(value, ensure_ascii=False) for value in (old, new)]
    if all(len(text) <= longest for text in texts):
        return texts[0], texts[1]
    first = next((n for n, (one, other) in enumerate(zip(*texts, strict=False)) if one != other), min(map(len, texts)))
    start = first - longest // 4 if first > longest * 3 // 4 else 0
    shown = [
        ("..." if start else "") + text[start : start + longest] + ("..." if len(text) > start + longest else "")
        for text in texts
    ]
    where = f" (from character {start} on)" if start else ""
    return shown[0] + where, shown[1] + where


def _problems(error: ValidationError, most: int = 3) -> str:
    problems = error.errors()
    shown = [
        (".".join(str(part) for part in problem["loc"]) + ": " if problem["loc"] else "") + problem["msg"]
        for problem in problems[:most]
    ]
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "; ".join(shown + more)
