"""Which few heads carry the verdict, and do they carry it elsewhere? Finding a circuit, and evaluating one.

    run of `heads` -> sites ranked by effect -> grown and pruned on the run's own queries -> judged on other queries

Cost: see `relscope.study.circuit_search` and `relscope.study.circuit_steps`.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relscope.analysis import Circuit, all_heads, check_regions, heads_of, ranked_sites, site_effects, split_queries
from relscope.errors import InputError
from relscope.results import Run, open_run
from relscope.study.circuit_options import CircuitOptions
from relscope.study.circuit_queries import first_ids
from relscope.study.circuit_steps import Work, evaluate_members, evaluate_sizes, finish, opened, search
from relscope.study.config import StudyConfig
from relscope.study.prepare import Prepared, Progress, Silent, prepare

_LOADING = ("model", "adapter", "revision", "dtype")
# Whether a model's own code may run is said by who runs it, never by a file.


def find_circuit(
    run: str | Path,
    out: str | Path,
    options: CircuitOptions | None = None,
    *,
    device: str = "auto",
    memory: str | int | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
) -> Circuit:
    """Find the smallest circuit that keeps the difference of LD, from a finished run of `heads`; writes `out`.

    Args:
        run: folder of a finished run with the experiment `heads`, at regions that share no token.
        out: a folder; what is measured is kept there, so that an interrupted search goes on.
        options: None: the defaults.
        device: where the model goes.
        memory: what the ablation's values may take, as of `StudyConfig`; None: its default.
        trust_remote_code: run code that comes with the model; what the run was allowed does not count.
        progress: is told of stages, sets and warnings.

    Raises:
        InputError: run, data, model or options cannot be used, or the full model judges no better than the empty one.
    """
    options, progress = options or CircuitOptions(), progress or Silent()
    study = open_run(Path(run))
    config, regions = _config_of(study)
    machine = {"device": device, "trust_remote_code": trust_remote_code}
    machine |= {} if memory is None else {"memory": memory}
    config = StudyConfig(**config.model_dump() | machine)
    selection = _selection(study, options)
    prepared = _prepare(config, options, len(study.manifest.pairs), progress)
    known = study.manifest.identity["model"]
    if prepared.judge.identity.fingerprint != known["fingerprint"]:
        raise InputError(f"{run}: the run's model {known['name']!r} has other weights now; give the run of this model")
    rows = study.rows("heads")
    ranked = ranked_sites(
        site_effects(rows[rows["pair_id"].isin(selection)], study.manifest.query_of, n_resamples=1, n_flips=1),
        options.by,
    )
    shape = prepared.judge.shape
    sites = all_heads(shape.n_layers, shape.n_heads, regions)
    if len(ranked) != len(sites):
        raise InputError(f"{run}: has effects of {len(ranked)} of {len(sites)} sites; give it time to finish")
    by_choice = set(selection)
    by_id = {pair.pair_id: pair for pair in prepared.aligned}
    if missing := [pair_id for pair_id in selection if pair_id not in by_id]:
        raise InputError(f"{run}: its pair {missing[0]!r} is not in {config.data} any more; run it again")
    chosen = [by_id[pair_id] for pair_id in selection]
    blank = Circuit(
        members=(), regions=regions, n_layers=shape.n_layers, n_heads=shape.n_heads,
        model=dataclasses.asdict(prepared.judge.identity),
        loading={name: getattr(config, name) for name in _LOADING},
        prompt=config.prompt.model_dump(mode="json"),
        data={"source": config.data, "sha256": study.manifest.identity["data"]["sha256"],
              "negatives": config.negatives.kind, "seed": config.seed},
        # A filter has seen the verdicts of those it left out; without them the rest would not be a fair sample.
        selection={pair.query_id: pair.query_text for pair in study.manifest.pairs
                   if pair.filtered or pair.pair_id in by_choice},
        ablation={"kind": options.kind, "positions": options.positions},
        settings={name: getattr(options, name) for name in ("threshold", "tolerance", "by", "seed")},
    )  # fmt: skip
    work = Work(prepared, options, chosen, progress, config.memory)
    with opened(Path(out), work, blank, {"run": study.manifest.identity_hash}):
        circuit = search(work, blank, heads_of(ranked))
        evaluate_sizes(work, heads_of(ranked))
        evaluate_members(work, circuit, thoroughly=True)
        return finish(work, circuit)


def evaluate_circuit(
    circuit: Circuit,
    config: StudyConfig,
    out: str | Path,
    options: CircuitOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Circuit:
    """Judge what a circuit keeps on other data, or with another prompt; writes `out`.

    Args:
        circuit: a circuit that was found in the same model.
        config: its model, data, prompt and negatives count.
        out: a folder; what is measured is kept there.
        options: of these, what concerns the evaluation; the ablation is the circuit's.
        progress: is told of stages, sets and warnings.

    Returns:
        The circuit, with its faithfulness there.

    Raises:
        InputError: the model is another one, the data are all of queries that the circuit was selected by, or the
            circuit is empty.
    """
    options, progress = options or CircuitOptions(), progress or Silent()
    if not len(circuit):
        raise InputError("circuit: it has no members, and nothing to evaluate")
    options = dataclasses.replace(options, **circuit.ablation)
    prepared = _prepare(config, options, len(circuit.selection), progress)
    circuit.check_model(dataclasses.asdict(prepared.judge.identity))
    work = Work(prepared, options, [], progress, config.memory)
    with opened(Path(out), work, circuit, {"circuit": hashlib.sha256(circuit.to_json().encode()).hexdigest()}):
        evaluate_members(work, circuit, thoroughly=False)
        return finish(work, circuit)


def load_circuit(path: str | Path) -> Circuit:
    """Read a circuit's file (`Circuit.load`)."""
    return Circuit.load(path)


def transfer_config(circuit: Circuit, fields: Mapping[str, Any]) -> StudyConfig:
    """The configuration to evaluate a circuit by: its own model, prompt, data and negatives, but for `fields`."""
    own = {
        **{name: circuit.loading.get(name) for name in _LOADING},
        "prompt": circuit.prompt,
        "data": circuit.data["source"],
        "negatives": circuit.data["negatives"],
        "seed": circuit.data["seed"],
    }
    return StudyConfig.from_mapping(own | dict(fields), "circuit and options")


def _config_of(study: Run) -> tuple[StudyConfig, tuple[str, ...]]:
    """The configuration of a finished run, and the regions of its heads."""
    where, manifest = study.directory, study.manifest
    if manifest.status != "complete":
        raise InputError(f"{where}: is not complete; finish it with `relscope run` first")
    given = dict(manifest.identity["config"])
    if "heads" not in given["experiments"]:
        raise InputError(f"{where}: has no experiment heads; give a run of `relscope run --experiments heads`")
    prompt = {k: v for k, v in manifest.identity["prompt"].items() if k not in ("scaffold", "token_sha256")}
    config = StudyConfig(**given | {"prompt": prompt})
    regions = tuple(given["experiments"]["heads"]["regions"])
    try:
        check_regions(regions)
    except InputError as failure:
        raise InputError(f"{where}: {failure}") from None
    return config, regions


def _selection(study: Run, options: CircuitOptions) -> list[str]:
    """The pairs that select, in the order of the run."""
    patched = [pair for pair in study.manifest.pairs if not pair.filtered]
    if options.select is None:
        return [pair.pair_id for pair in patched]
    same_as = first_ids((pair.query_id, pair.query_text) for pair in patched)
    chosen = set(split_queries(same_as.values(), options.select, options.seed).selection)
    return [pair.pair_id for pair in patched if same_as[pair.query_id] in chosen]


def _prepare(config: StudyConfig, options: CircuitOptions, n_selected: int, progress: Progress) -> Prepared:
    """The model, and all pairs that may be needed."""
    per_query = config.negatives.per_query
    needed = None if options.pairs is None else n_selected + options.pairs + options.reference * per_query
    return prepare(config.model_copy(update={"pairs": needed, "filter": "all"}), progress)
