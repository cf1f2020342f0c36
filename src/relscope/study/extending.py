"""May a stored run go on as the study that is asked for now, with more pairs or more experiments?

    the study that is asked for, cut to the pairs and experiments of the stored run, has the stored identity

Then each stored row means what it would mean in a run made in one go, and what is missing is measured as when a run is
resumed. Heads that `joint` and `paths` chose by their effects stay those that the pairs of that time chose: so their
rows stay, and the manifest and the report say so.

Cost: no forward pass; one SHA-256 over the pairs and their tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from relscope.data import pairs_sha256
from relscope.errors import InputError
from relscope.results import Extension, Manifest, identity_hash, identity_problem
from relscope.study.config import StudyConfig
from relscope.study.prepare import Prepared, Progress

_OF_TOTALS = {"flow", "heads"}


def extender(
    config: StudyConfig, prepared: Prepared, manifest: Manifest, out: Path, progress: Progress
) -> Callable[[Manifest], Manifest]:
    """What makes the manifest of the extended run of a stored one; `manifest` is that of a new run.

    What it returns raises InputError where the stored run is not the beginning of this one: it names what differs.
    """

    def extend(stored: Manifest) -> Manifest:
        _require_beginning(prepared, manifest, stored, out)
        n_before = sum(not pair.filtered for pair in stored.pairs)
        n_added = len(manifest.pairs) - len(stored.pairs)
        kept = _chosen_heads(config, stored) if n_added else []
        progress.stage(f"extending {out} from {len(stored.pairs)} to {len(manifest.pairs)} pairs")
        if kept:
            progress.warn(
                f"{' and '.join(kept)}: the heads stay those that {n_before} pairs chose; for heads that all pairs "
                "choose, give another folder"
            )
        extension = Extension(extended=manifest.created, n_pairs=n_before, heads_kept=kept)
        kept_fields = ("created", "environment", "joint_heads", "path_senders", "path_receivers", "resumptions")
        update = {name: getattr(stored, name) for name in kept_fields}
        return manifest.model_copy(update=update | {"extensions": [*stored.extensions, extension]})

    return extend


def _require_beginning(prepared: Prepared, manifest: Manifest, stored: Manifest, out: Path) -> None:
    """Refuse a stored run that is not the beginning of the one that is asked for.

    Raises:
        InputError: names what differs.
    """
    asked, had = manifest.identity, stored.identity
    if asked["relscope_version"] != had.get("relscope_version"):
        raise InputError(identity_problem(out, had, asked))
    n_before, n_asked = had["data"]["n_pairs"], asked["config"]["pairs"]
    if n_asked is not None and n_asked < n_before:
        advice = f"a run takes more pairs, and never fewer: ask for {n_before} or more, or give another folder"
        raise InputError(identity_problem(out, had, asked, advice))
    beginning = _beginning(prepared, asked, had)
    if identity_hash(beginning) != stored.identity_hash:
        raise InputError(identity_problem(out, had, beginning))


def _beginning(prepared: Prepared, asked: dict[str, Any], had: dict[str, Any]) -> dict[str, Any]:
    """The identity that is asked for, cut to the pairs and the experiments of the one that the folder has."""
    first = prepared.loaded.pairs[: had["data"]["n_pairs"]]
    names = {pair.pair_id for pair in first}
    cut = dataclasses.replace(prepared, aligned=[pair for pair in prepared.aligned if pair.pair_id in names])
    config = {"pairs": had["config"]["pairs"], "experiments": _experiments(asked["config"], had["config"])}
    # How many of these pairs' documents were cut is not counted apart; their texts are equal, or the SHA-256 differs.
    data = {"sha256": pairs_sha256(first), "n_pairs": len(first), "n_cut": had["data"]["n_cut"]}
    return asked | {
        "config": asked["config"] | config,
        "data": asked["data"] | data,
        "prompt": asked["prompt"] | {"token_sha256": cut.token_sha256},
    }


def _experiments(asked: dict[str, Any], had: dict[str, Any]) -> dict[str, Any]:
    """The experiments of the folder, where those that are asked for only add to them; else those asked for."""
    now, before = asked["experiments"], had["experiments"]
    added = now.keys() - before.keys()
    # `paths` measures the total effects that these would measure again, under another name.
    measured_twice = "paths" in before and added & _OF_TOTALS
    only_adds = all(now.get(name) == options for name, options in before.items())
    found: dict[str, Any] = before if only_adds and not measured_twice else now
    return found


def _chosen_heads(config: StudyConfig, stored: Manifest) -> list[str]:
    """The experiments whose heads were chosen by their effects already, and not named."""
    joint, paths = config.experiments.joint, config.experiments.paths
    chosen = {
        "joint": joint is not None and joint.heads is None and stored.joint_heads,
        "paths": paths is not None and paths.chooses and (stored.path_senders or stored.path_receivers),
    }
    return [name for name, heads in chosen.items() if heads]
