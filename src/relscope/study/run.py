"""The study: from a configuration to a run folder full of rows. The only writer of rows.

    load -> align -> judge every pair -> filter -> read out -> patch the sites of each pair that are not stored yet
         -> patch sets of the heads that were found strongest, and the paths between them

A run can be killed at any moment and started again with the same command: what is stored is not computed again. With
more pairs or experiments the rest is measured (`relscope.study.extending` says when).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from relscope.analysis import judge_quality
from relscope.interventions import Joint, Patch, PatchCost, PatchedPair, Precision, patch_cost, patch_pairs
from relscope.prompts import AlignedPair
from relscope.results import EXACT_SAMPLE, JOINT, SCHEMA, ExclusionRecord, Run, create_or_resume
from relscope.study.config import StudyConfig
from relscope.study.extending import extender
from relscope.study.joint import head_name, head_site, joint_sets, strongest_heads
from relscope.study.judging import judged_correctly, lints_of, margin, verdicts
from relscope.study.manifest import new_manifest
from relscope.study.measuring import OnGroup, Sweep, Work, mark_complete, mark_running, measure_missing
from relscope.study.path_sweep import measure_paths
from relscope.study.prepare import Prepared, Progress, Silent, prepare
from relscope.study.readouts import read_missing

_PAIRS_PER_PART = 16
_SAMPLED_SITES, _SAMPLED_PAIRS = 48, 8


def run_study(config: StudyConfig, out: str | Path, progress: Progress | None = None) -> Run:
    """Run a study, or go on with it, and return its run folder opened for reading rows.

    Args:
        config: what to run.
        out: the run folder; made if absent, continued if it holds a run of the same identity, or one of the first of
            these pairs and some of these experiments.
        progress: is told of stages, patches and warnings.

    Raises:
        InputError: configuration, data or model cannot be used, or the folder holds another run.
    """
    progress = Silent() if progress is None else progress
    return run_prepared(config, prepare(config, progress), out, progress)


def run_prepared(config: StudyConfig, prepared: Prepared, out: str | Path, progress: Progress) -> Run:
    """As `run_study`, on a model and pairs that are prepared already."""
    lints = lints_of(prepared, config)
    for lint in lints:
        if not lint.ok:
            progress.warn(lint.message)
    manifest = new_manifest(config, prepared, lints)
    extend = extender(config, prepared, manifest, Path(out), progress)
    with create_or_resume(Path(out), manifest, extend) as run:
        # A finished run that is given again is checked and left as it is.
        _judge(run, prepared, progress)
        kept = _filter(run, prepared, config, progress)
        read_missing(run, config, prepared.judge, kept, progress)
        _patch(run, prepared, config, kept, progress)
        measure_paths(run, prepared, config, kept, progress)
        mark_complete(run)
    return run


def _judge(run: Run, prepared: Prepared, progress: Progress) -> None:
    """Store the two verdicts of every aligned pair."""
    stored = set(run.rows("judge")["pair_id"])
    missing = [pair for pair in prepared.aligned if pair.pair_id not in stored]
    if missing:
        mark_running(run)
    progress.stage(f"judging {len(missing)} pairs")
    for first in range(0, len(missing), _PAIRS_PER_PART):
        batch = missing[first : first + _PAIRS_PER_PART]
        clean, corrupted = (
            np.array(values, dtype=np.float32) for values in zip(*verdicts(prepared.judge, batch), strict=True)
        )
        nothing = [None] * len(batch)
        columns = dict.fromkeys(SCHEMA.names, nothing)
        run.write_part(
            "judge",
            columns
            | {
                "experiment": ["judge"] * len(batch),
                "pair_id": [pair.pair_id for pair in batch],
                "ld_clean": clean,
                "ld_corrupted": corrupted,
                "p_clean": margin(clean),
                "p_corrupted": margin(corrupted),
            },
        )


def _filter(run: Run, prepared: Prepared, config: StudyConfig, progress: Progress) -> list[AlignedPair]:
    """The pairs to patch; the others become exclusions of the manifest. Warns of a model that judges at chance."""
    judged = run.rows("judge")
    quality = judge_quality(judged, run.manifest.query_of)
    if quality.at_chance:
        progress.warn(quality.sentence)
    if config.filter == "all":
        return prepared.aligned
    right = judged.loc[judged_correctly(judged), "pair_id"]
    kept = set(right)
    details = {
        row.pair_id: f"LD {row.ld_clean:+.2f} for the positive, {row.ld_corrupted:+.2f} for the negative"
        for row in judged.itertuples()
    }
    misjudged = [pair for pair in prepared.aligned if pair.pair_id not in kept]
    records = [
        ExclusionRecord(pair_id=pair.pair_id, stage="filter", reason="misjudged", detail=details[pair.pair_id])
        for pair in misjudged
    ]
    manifest = run.manifest
    run.save_manifest(
        manifest.model_copy(
            update={
                "pairs": [p.model_copy(update={"filtered": p.pair_id not in kept}) for p in manifest.pairs],
                "exclusions": [e for e in manifest.exclusions if e.stage != "filter"] + records,
            }
        )
    )
    if not kept:
        progress.warn("no pair is judged correctly, so none is patched; the filter 'all' patches every pair")
    return [pair for pair in prepared.aligned if pair.pair_id in kept]


def _patch(run: Run, prepared: Prepared, config: StudyConfig, pairs: list[AlignedPair], progress: Progress) -> None:
    """Patch what is not stored yet; the experiments of one pair share its recorded runs.

    With the precision delta, a sample is measured again exactly, for the report to state the error.
    """
    judge, restart = prepared.judge, prepared.contract.restartable

    def measure(wanted: Mapping[str, Sequence[Patch]], precision: Precision, of: list[AlignedPair]) -> None:
        def patch(work: Work, on_group: OnGroup) -> list[PatchedPair]:
            return patch_pairs(
                judge,
                work,
                direction=config.direction,
                memory_bytes=config.memory,
                restart=restart,
                precision=precision,
                on_group=on_group,
            )

        def cost(pair: AlignedPair, patches: Sequence[Patch]) -> PatchCost:
            return patch_cost(judge, pair, patches, restart=restart, precision=precision)

        measure_missing(run, Sweep(wanted, config.direction, patch, cost, config.memory), of, progress)

    wanted: dict[str, Sequence[Patch]] = {**config.sites(judge.shape.n_layers, judge.shape.n_heads)}
    precision = prepared.precision(config)
    measure(wanted, precision, pairs)
    if config.experiments.joint is not None and pairs:
        sets = {JOINT: _joint_sets(run, config)}
        measure(sets, precision, pairs)
        wanted |= sets
    if precision == "delta":
        sample, of = exact_sample(config, wanted, pairs)
        if sample:
            measure({EXACT_SAMPLE: sample}, "exact", of)


def exact_sample(
    config: StudyConfig, wanted: Mapping[str, Sequence[Patch]], pairs: list[AlignedPair]
) -> tuple[list[Patch], list[AlignedPair]]:
    """What is measured again exactly where precision is lower: some patches of all experiments, on some pairs."""
    draw = random.Random(config.seed)
    everything = list(dict.fromkeys(patch for patches in wanted.values() for patch in patches))
    sample = draw.sample(everything, min(_SAMPLED_SITES, len(everything)))
    return sample, draw.sample(pairs, min(_SAMPLED_PAIRS, len(pairs)))


def _joint_sets(run: Run, config: StudyConfig) -> list[Joint]:
    """The sets of the experiment `joint`; its heads are chosen once, and kept in the manifest."""
    manifest, options, heads = run.manifest, config.experiments.joint, config.experiments.heads
    assert options is not None
    if not manifest.joint_heads:
        names = options.heads
        if names is None:
            assert heads is not None  # the configuration has seen to it
            chosen = strongest_heads(run.rows("heads"), config.direction, heads.regions, options.top)
            names = tuple(map(head_name, chosen))
        run.save_manifest(manifest.model_copy(update={"joint_heads": list(names)}))
    return joint_sets([head_site(name) for name in run.manifest.joint_heads])
