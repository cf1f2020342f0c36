"""Which runs are compared, and what tells them apart? Run folders read back, each with a letter and a label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Final

import pandas as pd

from relscope.analysis import RunEffects
from relscope.errors import InputError
from relscope.report import facts, words
from relscope.report.comparison_folder import is_comparison
from relscope.results import NO_EFFECTS, Manifest, open_run

SIMILARITY_NAME: Final = "similarity.json"
_Say = Callable[[Manifest, pd.DataFrame], str]


@dataclass(frozen=True)
class ComparedRun:
    """One of the runs.

    Attributes:
        letter: A for the first run, and so on.
        label: what tells it from the others, such as `pairwise, idq`.
    """

    letter: str
    label: str
    directory: Path
    manifest: Manifest
    rows: pd.DataFrame

    @property
    def name(self) -> str:
        """`A (pairwise, idq)`."""
        return f"{self.letter} ({self.label})"

    @property
    def complete(self) -> bool:
        """True once the study has said so."""
        return self.manifest.status == "complete"

    @property
    def model_fingerprint(self) -> str:
        """The same for two runs of the same weights."""
        identity = self.manifest.identity
        return str(facts.lookup(identity, "model.fingerprint") or facts.model_name(self.manifest))

    def effects(self) -> RunEffects:
        """What the run measured, in the form in which runs are matched.

        A query goes by its id and its text: two collections may give the same id to different queries.
        """
        query_of = {pair.pair_id: f"{pair.query_id} {pair.query_text}" for pair in self.manifest.pairs}
        shape = self.manifest.model_shape
        return RunEffects.of_rows(self.rows, query_of, shape["n_layers"], shape["n_heads"])


def read_runs(folders: Sequence[str | Path]) -> tuple[ComparedRun, ...]:
    """Read the runs, finished or not, and label each by what differs between them.

    Raises:
        InputError: fewer than two folders, one of them twice, more than there are letters, or a folder is no run.
        RunError: a part of the rows is damaged.
    """
    directories = [Path(folder) for folder in folders]
    if not 2 <= len(directories) <= len(ascii_uppercase):
        given = "one run was" if len(directories) == 1 else f"{len(directories)} runs were"
        raise InputError(f"{given} given; give 2 to {len(ascii_uppercase)} folders of `relscope run`")
    seen: set[Path] = set()
    for directory in directories:
        if directory.resolve() in seen:
            raise InputError(f"{directory}: is given twice; give each run once")
        seen.add(directory.resolve())
        if is_comparison(directory):
            raise InputError(
                f"{directory}: holds a comparison of two models, not a run; give the runs in it, {directory / 'base'} "
                f"and {directory / 'tuned'}"
            )
    runs = [open_run(directory) for directory in directories]
    rows = [run.rows() for run in runs]
    labels = run_labels([run.manifest for run in runs], rows, directories)
    return tuple(
        ComparedRun(letter, label, run.directory, run.manifest, of_run)
        for letter, label, run, of_run in zip(ascii_uppercase, labels, runs, rows, strict=False)
    )


def run_labels(manifests: Sequence[Manifest], rows: Sequence[pd.DataFrame], directories: Sequence[Path]) -> list[str]:
    """What tells each run from the others; its folder's name where nothing else does."""
    told = [[say(*run) for say in _TELLING] for run in zip(manifests, rows, strict=True)]
    differing = [i for i in range(len(_TELLING)) if len({said[i] for said in told}) > 1]
    labels = [", ".join(said[i] for i in differing if said[i]) for said in told]
    return [
        label if label and labels.count(label) == 1 else ", ".join(filter(None, [label, facts.short_name(directory)]))
        for label, directory in zip(labels, directories, strict=True)
    ]


def _said(before: str, *paths: str) -> _Say:
    """The value at the first of these paths of the identity that is there, in words."""

    def say(manifest: Manifest, rows: pd.DataFrame) -> str:
        value: Any = facts.lookup(manifest.identity, *paths)
        return "" if value is None else before + facts.short_name(value)

    return say


def _data(manifest: Manifest, rows: pd.DataFrame) -> str:
    return facts.short_name(facts.data_name(manifest))


def _n_pairs(manifest: Manifest, rows: pd.DataFrame) -> str:
    """How many pairs have been patched: of a run that is not complete, fewer than the manifest asks for."""
    return words.count(int(rows.loc[~rows["experiment"].isin(NO_EFFECTS), "pair_id"].nunique()), "patched pair")


_TELLING: Final[tuple[_Say, ...]] = (
    _said("", "config.model", "model.name"),
    _said("adapter ", "config.adapter"),
    _said("revision ", "config.revision"),
    _data,
    _said("", "prompt.format"),
    _said("", "prompt.order"),
    _said("", "config.direction"),
    _said("negatives: ", "config.negatives.kind"),
    _said("filter: ", "config.filter"),
    _n_pairs,
    _said("seed ", "config.seed"),
    _said("", "model.dtype"),
    _said("precision: ", "precision"),
)
"""What may tell runs apart, in the order in which it is said."""
