"""When a model is tuned for relevance, what in it changes? Two models of one shape, on the same pairs.

    base/, tuned/              the study of each model, as `run_study` makes it
    into_base/, into_tuned/    each prompt of each pair read by both models, activations of the one in the other
    changes/                   how far each head's output and each weight moved

Cost: two studies; four sweeps more a pair (two receivers, two prompts), whose regions count in full; and four recorded
runs a pair. A comparison can be killed at any moment and started again, as a run can.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from relscope.errors import InputError
from relscope.interventions import (
    Patch,
    PatchCost,
    PatchedPair,
    PromptName,
    Transfer,
    head_changes,
    require_comparable_weights,
    require_same_shape,
    transfer_cost,
    transfer_pair,
    weight_changes,
)
from relscope.models import is_adapter_on, load_judges
from relscope.prompts import AlignedPair
from relscope.results import (
    HEAD_CHANGES,
    WEIGHT_CHANGES,
    ComparisonFolder,
    ComparisonHeader,
    create_or_resume,
    create_or_resume_comparison,
    identity_hash,
    read_changes,
    write_changes,
)
from relscope.study.config import StudyConfig
from relscope.study.experiments import DEFAULT_HEAD_REGIONS
from relscope.study.manifest import identity_of, new_manifest, now
from relscope.study.measuring import OnGroup, Sweep, Work, mark_complete, measure_missing
from relscope.study.prepare import Prepared, Progress, Silent, load_data, prepare_judge
from relscope.study.run import run_prepared
from relscope.version import __version__

_PROMPTS: tuple[PromptName, ...] = get_args(PromptName)


@dataclasses.dataclass(frozen=True)
class _Side:
    """One of the two models: its name in the comparison, its configuration, and the model with its pairs."""

    name: str
    config: StudyConfig
    prepared: Prepared


class _Named:
    """A progress that says which part of the comparison it speaks of."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name
        self.start = progress.start
        self.advance = progress.advance

    def stage(self, text: str) -> None:
        self._progress.stage(f"{self._name}: {text}")

    def warn(self, text: str) -> None:
        self._progress.warn(f"{self._name}: {text}")


def compare_models(config: StudyConfig, tuned: str | None, out: str | Path, progress: Progress | None = None) -> Path:
    """Compare a base model with a tuned one, or go on with it, and return the comparison's folder.

    Args:
        config: the study of the base, `config.model`; the tuned model's is the same. With `tuned` None,
            `config.adapter` is what makes the base into the tuned model. `config.revision` is the base's.
            `config.direction` is that of both studies; transfers always denoise. The filter must be `all`: each model
            judges other pairs correctly, and effects of different pairs could not be compared. The experiments may be
            flow and heads.
        tuned: the tuned model, by any name that a model can have.
        out: the comparison's folder; made if absent, continued if it holds a comparison of the same identity.
        progress: is told of stages, patches and warnings.

    Raises:
        InputError: configuration, data or a model cannot be used; the models differ in shape or read the prompts as
            different tokens, or have the same weights; the folder holds something else.
    """
    progress = Silent() if progress is None else progress
    if config.filter != "all":
        raise InputError(
            f"filter: {config.filter!r} would keep other pairs for the base than for the tuned model; a comparison "
            "needs 'all'"
        )
    if others := set(config.experiments.chosen) - {"flow", "heads"}:
        raise InputError(
            f"experiments: {', '.join(sorted(others))}: comparisons measure flow and heads; leave the others out, and "
            "run each model's own study for them"
        )
    if config.precision == "delta":
        raise InputError("precision: comparisons are measured exactly; leave it out, or give 'exact'")
    config = config.model_copy(update={"precision": "exact"})
    if (tuned is None) == (config.adapter is None):
        raise InputError("tuned: give either a tuned model or an adapter on the base, and not both")
    base, other = _sides(config, tuned, progress)
    header = _header(base, other, tuned or str(config.adapter))
    with create_or_resume_comparison(Path(out), header) as folder:
        folder.mark("running")
        for side in (base, other):
            run_prepared(side.config, side.prepared, folder.directory / side.name, _Named(progress, side.name))
        for receiver, donor in ((base, other), (other, base)):
            _transfer(folder, receiver, donor, _Named(progress, f"into {receiver.name}"))
        _heads(folder, base, other, progress)
        _weights(folder, base, other, progress)
        folder.mark("complete")
    return folder.directory


def _sides(config: StudyConfig, tuned: str | None, progress: Progress) -> tuple[_Side, _Side]:
    """Both models, checked, with the same pairs."""
    loaded = load_data(config, progress)
    progress.stage(f"loading {config.model} and {tuned or config.adapter}")
    judges = load_judges(
        config.model,
        tuned,
        adapter=config.adapter,
        dtype=config.dtype,
        device=config.device,
        revision=config.revision,
        trust_remote_code=config.trust_remote_code,
    )
    base, other = judges
    # Said before anything is measured, not at the end.
    require_same_shape(base, other)
    require_comparable_weights(base, other)
    if base.identity.fingerprint == other.identity.fingerprint:
        raise InputError(
            f"the two models have the same weights: {config.model!r} and {tuned or config.adapter!r}; name the model "
            "before tuning and the one after it"
        )
    configs = config.model_copy(update={"adapter": None}), config
    if tuned is not None:
        revision = config.revision if is_adapter_on(config.model, tuned) else None
        configs = config, config.model_copy(update={"model": tuned, "revision": revision})
    sides = [
        _Side(name, chosen, prepare_judge(chosen, judge, loaded, _Named(progress, name)))
        for name, chosen, judge in zip(("base", "tuned"), configs, judges, strict=True)
    ]
    _require_same_prompts(sides[0].prepared, sides[1].prepared)
    return sides[0], sides[1]


def _require_same_prompts(base: Prepared, tuned: Prepared) -> None:
    """Refuse models that read other tokens, or other pairs."""
    pairs = {pair.pair_id: pair for pair in tuned.aligned}
    names = f"{base.judge.identity.name!r} and its tuned model"
    for pair in base.aligned:
        other = pairs.pop(pair.pair_id, None)
        if other is None:
            raise InputError(f"pair {pair.pair_id} can be asked of the base model only: it is excluded for the tuned")
        for run in _PROMPTS:
            ours, theirs = getattr(pair, run), getattr(other, run)
            if (ours.ids, ours.parts, pair.answer_ids) != (theirs.ids, theirs.parts, other.answer_ids):
                raise InputError(
                    f"{names} read the {run} prompt of pair {pair.pair_id} as different tokens ({len(ours.ids)} and "
                    f"{len(theirs.ids)}); a comparison needs the same. Where only the chat templates differ, set "
                    "prompt.style: plain"
                )
    if pairs:
        raise InputError(f"pair {min(pairs)} can be asked of the tuned model only: it is excluded for the base")


def _header(base: _Side, tuned: _Side, tuned_name: str) -> ComparisonHeader:
    identity = identity_of(base.config, base.prepared) | {
        "tuned": {
            "config": tuned.config.identity(),
            "model": dataclasses.asdict(tuned.prepared.judge.identity),
        }
    }
    return ComparisonHeader(
        base=base.config.model,
        tuned=tuned_name,
        identity=identity,
        identity_hash=identity_hash(identity),
        config=base.config.identity(),
        created=now(),
        relscope_version=__version__,
    )


def _transfer(folder: ComparisonFolder, receiver: _Side, donor: _Side, progress: Progress) -> None:
    """Patch the donor's activations into the receiver: every pair, both prompts, what is not stored yet."""
    config, judge = receiver.config, receiver.prepared.judge
    transfer = Transfer(judge, donor.prepared.judge)
    restart = receiver.prepared.contract.restartable and donor.prepared.contract.restartable
    sites = config.sites(judge.shape.n_layers, judge.shape.n_heads)

    def sweep(prompt: PromptName) -> Sweep:
        def patch(work: Work, on_group: OnGroup) -> list[PatchedPair]:
            return [
                transfer_pair(
                    transfer,
                    pair,
                    chosen,
                    prompt=prompt,
                    memory_bytes=config.memory,
                    restart=restart,
                    on_group=functools.partial(on_group, pair),
                )
                for pair, chosen in work
            ]

        def cost(pair: AlignedPair, chosen: Sequence[Patch]) -> PatchCost:
            return transfer_cost(judge, pair, chosen, restart=restart)

        wanted = {f"transfer_{experiment}_{prompt}": chosen for experiment, chosen in sites.items()}
        return Sweep(wanted, "denoise", patch, cost, config.memory, most_together=1)

    manifest = new_manifest(config, receiver.prepared, [], donor=donor.prepared.judge.identity)
    with create_or_resume(folder.directory / f"into_{receiver.name}", manifest) as run:
        for prompt in _PROMPTS:
            measure_missing(run, sweep(prompt), receiver.prepared.aligned, _Named(progress, f"{prompt} prompts"))
        mark_complete(run)


def _heads(folder: ComparisonFolder, base: _Side, tuned: _Side, progress: Progress) -> None:
    """Write how far heads moved, if it is not written yet."""
    if read_changes(folder.directory, HEAD_CHANGES) is not None:
        return
    heads = base.config.experiments.heads
    regions = DEFAULT_HEAD_REGIONS if heads is None else heads.regions
    pairs, shape = base.prepared.aligned, base.prepared.judge.shape
    progress.stage(f"reading the heads of both models on {len(pairs)} pairs")
    progress.start(len(pairs), float(len(pairs)))
    size = (len(pairs), len(_PROMPTS), len(regions), shape.n_layers, shape.n_heads)
    norms = {name: np.empty(size, dtype=np.float32) for name in ("norm_base", "norm_tuned", "distance")}
    for i, pair in enumerate(pairs):
        for j, prompt in enumerate(getattr(pair, name) for name in _PROMPTS):
            runs = [side.prepared.judge.record(prompt.ids, for_restart=False) for side in (base, tuned)]
            found = head_changes(runs[0], runs[1], prompt, regions)
            for name, values in norms.items():
                values[i, j] = getattr(found, name).numpy()
        progress.advance(1, 1.0)
    place = np.indices(size).reshape(len(size), -1)
    columns: dict[str, Any] = {
        "pair_id": np.array([pair.pair_id for pair in pairs], dtype=object)[place[0]],
        "prompt": np.array(_PROMPTS, dtype=object)[place[1]],
        "region": np.array(regions, dtype=object)[place[2]],
        "layer": place[3].astype(np.int16),
        "head": place[4].astype(np.int16),
    }
    write_changes(folder.directory, HEAD_CHANGES, columns | {name: values.ravel() for name, values in norms.items()})


def _weights(folder: ComparisonFolder, base: _Side, tuned: _Side, progress: Progress) -> None:
    """Write how far weights moved, if it is not written yet."""
    if read_changes(folder.directory, WEIGHT_CHANGES) is not None:
        return
    progress.stage("comparing the weights")
    changes = weight_changes(base.prepared.judge, tuned.prepared.judge)
    columns = {name: [getattr(change, name) for change in changes] for name in WEIGHT_CHANGES.names}
    write_changes(folder.directory, WEIGHT_CHANGES, columns)
