"""The rows of the experiment `paths`: chooses the heads, once, then measures what is not stored yet, pair by pair.

What is measured is in `relscope.study.paths`. Products are exact whatever the study's precision.
"""

from __future__ import annotations

from collections.abc import Sequence

from relscope.interventions import PatchCost, PatchedPair, Path, patch_paths, path_cost
from relscope.prompts import AlignedPair
from relscope.results import DIRECT, PATHS, Run
from relscope.study.config import StudyConfig
from relscope.study.experiments import Paths
from relscope.study.joint import head_name, head_site, strongest_heads
from relscope.study.measuring import OnGroup, Sweep, Work, measure_missing
from relscope.study.paths import direct_paths, paths_between
from relscope.study.prepare import Prepared, Progress

# Pairs go one by one, each with seconds of work: so many may be lost when a study is killed.
_PAIRS_PER_PART = 4


def measure_paths(
    run: Run, prepared: Prepared, config: StudyConfig, pairs: Sequence[AlignedPair], progress: Progress
) -> None:
    """Measure direct effects and paths of the pairs, where the study asks for them.

    Raises:
        InputError: a region does not exist in a prompt, or the memory is too little for one path.
    """
    options, judge = config.experiments.paths, prepared.judge
    if options is None or not pairs:
        return
    direct = direct_paths(judge.shape.n_layers, judge.shape.n_heads)
    between = _between(run, config, options)

    def patch(work: Work, on_group: OnGroup) -> list[PatchedPair]:
        measured = []
        for pair, paths in work:
            measured.append(patch_paths(judge, pair, paths, direction=config.direction, memory_bytes=config.memory))
            on_group(pair, paths)
        return measured

    def cost(pair: AlignedPair, paths: Sequence[Path]) -> PatchCost:
        return path_cost(judge, pair, paths)

    wanted = {DIRECT: direct} | ({PATHS: between} if between else {})
    sweep = Sweep(wanted, config.direction, patch, cost, config.memory, _PAIRS_PER_PART)
    measure_missing(run, sweep, pairs, progress)


def _between(run: Run, config: StudyConfig, options: Paths) -> list[Path]:
    """The paths between heads; the heads are kept in the manifest."""
    if not options.chooses and options.senders is None:
        return []
    if not (run.manifest.path_senders and run.manifest.path_receivers):
        chosen: tuple[str, ...] = ()
        if options.chooses:
            heads = config.experiments.heads
            assert heads is not None  # the configuration has seen to it
            strongest = strongest_heads(run.rows("heads"), config.direction, heads.regions, options.top)
            chosen = tuple(map(head_name, strongest))
        ends = {"path_senders": options.senders, "path_receivers": options.receivers}
        update = {name: list(chosen if named is None else named) for name, named in ends.items()}
        run.save_manifest(run.manifest.model_copy(update=update))
    senders, receivers = (
        [head_site(name) for name in names] for names in (run.manifest.path_senders, run.manifest.path_receivers)
    )
    return paths_between(senders, receivers, options, config.prompt.order)
