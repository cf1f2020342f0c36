"""The study: from a configuration to a run folder full of rows. The only writer of rows.

    load -> align -> judge every pair -> filter -> patch the sites of each pair that are not stored yet

A run can be killed at any moment and started again with the same command: what is stored is not computed again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from relscope.analysis import judge_quality
from relscope.interventions import PatchedPair, Site, patch_cost, patch_pair
from relscope.prompts import AlignedPair
from relscope.results import SCHEMA, ExclusionRecord, Run, create_or_resume
from relscope.study.config import StudyConfig
from relscope.study.judging import judged_correctly, lints_of, margin, verdicts
from relscope.study.manifest import new_manifest
from relscope.study.prepare import Prepared, Progress, Silent, prepare

_PAIRS_PER_PART = 16


def run_study(config: StudyConfig, out: str | Path, progress: Progress | None = None) -> Run:
    """Run a study, or go on with it, and return its run folder opened for reading rows.

    Args:
        config: what to run.
        out: the run folder; made if absent, continued if it holds a run of the same identity.
        progress: is told of stages, patches and warnings.

    Raises:
        InputError: configuration, data or model cannot be used, or the folder holds another run.
    """
    progress = Silent() if progress is None else progress
    prepared = prepare(config, progress)
    lints = lints_of(prepared, config)
    for lint in lints:
        if not lint.ok:
            progress.warn(lint.message)
    manifest = new_manifest(config, prepared, lints)
    with create_or_resume(Path(out), manifest) as run:
        # A finished run that is given again is checked and left as it is.
        _judge(run, prepared, progress)
        kept = _filter(run, prepared, config, progress)
        _patch(run, prepared, config, kept, progress)
        run.save_manifest(run.manifest.model_copy(update={"status": "complete"}))
    return run


def _judge(run: Run, prepared: Prepared, progress: Progress) -> None:
    """Store the two verdicts of every aligned pair."""
    stored = set(run.rows("judge")["pair_id"])
    missing = [pair for pair in prepared.aligned if pair.pair_id not in stored]
    if missing:
        _mark_running(run)
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
    """Patch what is not stored yet, pair by pair; the experiments of one pair share its recorded runs."""
    judge, restart = prepared.judge, prepared.contract.restartable
    wanted = config.sites(judge.shape.n_layers, judge.shape.n_heads)
    todo = _missing(run, wanted, pairs, config.direction)

    def work(pair: AlignedPair, sites: list[Site]) -> float:
        return patch_cost(judge, pair, sites, restart=restart, memory_limit=config.memory).flops

    pairs = [pair for pair in pairs if todo[pair.pair_id]]
    if pairs:
        _mark_running(run)
    n_patches = sum(len(todo[pair.pair_id]) for pair in pairs)
    progress.stage(f"patching {n_patches:,} sites of {len(pairs)} pairs")
    progress.start(n_patches, sum(work(pair, [site for _, site in todo[pair.pair_id]]) for pair in pairs))
    for pair in pairs:
        sites = [site for _, site in todo[pair.pair_id]]
        n_done = 0

        def on_group(group: list[Site], pair: AlignedPair = pair) -> None:
            nonlocal n_done
            n_done += len(group)
            progress.advance(len(group), work(pair, group))

        patched = patch_pair(
            judge,
            pair,
            sites,
            direction=config.direction,
            memory_bytes=config.memory,
            restart=restart,
            on_group=on_group,
        )
        progress.advance(len(sites) - n_done, 0.0)  # sites that cannot change anything
        experiments = [experiment for experiment, _ in todo[pair.pair_id]]
        for experiment in dict.fromkeys(experiments):
            chosen = [i for i, name in enumerate(experiments) if name == experiment]
            keys = _keys(experiment, pair.pair_id, [sites[i] for i in chosen], config.direction)
            run.write_part(experiment, _rows(keys, patched, chosen))


def _mark_running(run: Run) -> None:
    """A finished run that has lost a part is unfinished again, until the part is back."""
    if run.manifest.status != "running":
        run.save_manifest(run.manifest.model_copy(update={"status": "running"}))


def _missing(
    run: Run, wanted: dict[str, list[Site]], pairs: list[AlignedPair], direction: str
) -> dict[str, list[tuple[str, Site]]]:
    """The experiments and sites of each pair whose rows are not on disk."""
    todo: dict[str, list[tuple[str, Site]]] = {pair.pair_id: [] for pair in pairs}
    for experiment, sites in wanted.items() if todo else ():
        planned = pd.concat([_keys(experiment, pair_id, sites, direction) for pair_id in todo], ignore_index=True)
        for number in run.missing(planned).index.to_numpy(dtype=np.int64):
            todo[str(planned["pair_id"].iloc[number])].append((experiment, sites[number % len(sites)]))
    return todo


def _keys(experiment: str, pair_id: str, sites: list[Site], direction: str) -> pd.DataFrame:
    """Key columns of one pair's rows, in the sites' order."""
    return pd.DataFrame(
        {
            "experiment": experiment,
            "pair_id": pair_id,
            "component": [site.component for site in sites],
            "layer": pd.array([site.layer for site in sites], dtype="Int16"),
            "head": pd.array([site.head for site in sites], dtype="Int16"),
            "region": [site.region for site in sites],
            "dest": None,
            "src": None,
            "direction": direction,
        }
    )


def _rows(keys: pd.DataFrame, patched: PatchedPair, chosen: list[int]) -> pd.DataFrame:
    """Rows of one pair and experiment: its keys with the values of the chosen sites."""
    ld = patched.ld_patched.numpy()[chosen]
    return keys.assign(
        ld_clean=patched.ld_clean,
        ld_corrupted=patched.ld_corrupted,
        ld_patched=ld,
        p_clean=margin(patched.ld_clean),
        p_corrupted=margin(patched.ld_corrupted),
        p_patched=margin(ld),
    )
