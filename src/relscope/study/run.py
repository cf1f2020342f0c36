"""The study: from a configuration to a run folder full of rows. The only writer of rows.

    load -> align -> judge every pair -> filter -> patch the sites of each pair that are not stored yet

A run can be killed at any moment and started again with the same command: what is stored is not computed again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from relscope.analysis import judge_quality
from relscope.interventions import PatchedPair, Site, patch_cost, patch_pair
from relscope.prompts import AlignedPair
from relscope.results import KEY_COLUMNS, SCHEMA, ExclusionRecord, Run, create_or_resume
from relscope.study.config import StudyConfig
from relscope.study.judging import lints_of, margin, verdicts
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
    right = judged.loc[(judged["ld_clean"] > 0) & (judged["ld_corrupted"] <= 0), "pair_id"]
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
    stored = {experiment: _stored_sites(run, experiment) for experiment in wanted}
    todo = {
        pair.pair_id: [
            (experiment, site)
            for experiment, sites in wanted.items()
            for site in sites
            if site not in stored[experiment].get(pair.pair_id, ())
        ]
        for pair in pairs
    }

    def work(pair: AlignedPair, sites: list[Site]) -> float:
        return patch_cost(judge, pair, sites, restart=restart, memory_limit=config.memory).flops

    pairs = [pair for pair in pairs if todo[pair.pair_id]]
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
            run.write_part(experiment, _table(experiment, patched, sites, chosen, config.direction))


def _stored_sites(run: Run, experiment: str) -> dict[str, set[Site]]:
    """The sites of each pair whose rows are on disk."""
    stored: dict[str, set[Site]] = {}
    keys = run.stored_keys(experiment).to_frame(index=False)
    for pair_id, component, layer, head, region in keys[["pair_id", "component", "layer", "head", "region"]].itertuples(
        index=False
    ):
        site = Site(str(component), int(layer), str(region), None if head < 0 else int(head))
        stored.setdefault(str(pair_id), set()).add(site)
    return stored


def _table(experiment: str, patched: PatchedPair, sites: list[Site], chosen: list[int], direction: str) -> pa.Table:
    """Rows of one pair and experiment, one for each chosen site."""
    ld = patched.ld_patched.numpy()[chosen]
    here = [sites[i] for i in chosen]
    frame = pd.DataFrame(
        {
            "experiment": experiment,
            "pair_id": patched.pair_id,
            "component": [site.component for site in here],
            "layer": pd.array([site.layer for site in here], dtype="Int16"),
            "head": pd.array([site.head for site in here], dtype="Int16"),
            "region": [site.region for site in here],
            "dest": None,
            "src": None,
            "direction": direction,
            "ld_clean": patched.ld_clean,
            "ld_corrupted": patched.ld_corrupted,
            "ld_patched": ld,
            "p_clean": margin(patched.ld_clean),
            "p_corrupted": margin(patched.ld_corrupted),
            "p_patched": margin(ld),
        }
    )
    assert set(KEY_COLUMNS) <= set(frame.columns)
    return pa.Table.from_pandas(frame, schema=SCHEMA, preserve_index=False)
