"""The commands."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from relscope.cli import ablation, circuits, reranking, tuning
from relscope.cli import options as o
from relscope.cli.option_names import Command
from relscope.errors import InputError

app = typer.Typer(
    name="relscope",
    help="Which attention heads and MLPs make a language model judge a document relevant? Exact causal patching.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_command = partial(app.command, cls=Command)


def _version(value: bool) -> None:
    if value:
        import relscope

        print(relscope.__version__)
        raise typer.Exit


@app.callback()
def _relscope(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@_command()
def run(
    study: o.Study = None,
    model: o.Model = None,
    adapter: o.Adapter = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = None,
    data: o.Data = None,
    prompt: o.Prompt = None,
    negatives: o.Negatives = None,
    pairs: o.Pairs = None,
    filter: o.Filter = None,
    experiments: o.Experiments = None,
    regions: o.Regions = None,
    components: o.Components = None,
    direction: o.Direction = None,
    seed: o.Seed = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    memory: o.Memory = None,
    precision: o.Precision = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Run folder; a run in it goes on, also with more pairs or experiments."),
    ] = None,
) -> None:
    """Run a study and write its report. An interrupted run goes on when the command is given again."""
    given, folder = _given(locals()), out
    try:
        config = o.study_config(study, given)
        folder = out or Path("runs") / o.folder_name(config)
        o.require_given(config, folder)
        from relscope.cli.progress import progress_shown
        from relscope.cli.show import OUT, print_quality, print_strongest

        with progress_shown() as progress:
            from relscope.study import error_of, quality_of, run_study

            finished = run_study(config, folder, progress)
            from relscope.report import report_run

            progress.stage("writing the report")
            summary = report_run(folder)
    except KeyboardInterrupt:
        raise o.interrupted(folder, out) from None
    print_quality(quality_of(finished), len(finished.manifest.exclusions))
    if (error := error_of(finished)) is not None:
        OUT.print(error.sentence)
    print_strongest(summary)
    OUT.print(f"rows:   {folder / 'rows'}", markup=False)
    OUT.print(f"report: {summary.report}", markup=False)


@_command()
def plan(
    study: o.Study = None,
    model: o.Model = None,
    adapter: o.Adapter = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = None,
    data: o.Data = None,
    prompt: o.Prompt = None,
    negatives: o.Negatives = None,
    pairs: o.Pairs = None,
    experiments: o.Experiments = None,
    regions: o.Regions = None,
    components: o.Components = None,
    direction: o.Direction = None,
    seed: o.Seed = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    memory: o.Memory = None,
    precision: o.Precision = None,
) -> None:
    """Say what a run will take before it starts: patches, operations and time of each experiment, memory."""
    config = o.study_config(study, _given(locals()))
    o.require_given(config)
    from relscope.cli.progress import progress_shown
    from relscope.cli.show import print_plan

    with progress_shown() as progress:
        from relscope.study import plan_study

        planned = plan_study(config, progress)
    print_plan(planned)


@_command()
def judge(
    study: o.Study = None,
    model: o.Model = None,
    adapter: o.Adapter = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = None,
    data: o.Data = None,
    prompt: o.Prompt = None,
    negatives: o.Negatives = None,
    pairs: o.Pairs = None,
    filter: o.Filter = None,
    seed: o.Seed = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")
    ] = False,
) -> None:
    """Judge every pair: logit difference, accuracy, F1, ROC AUC, paired accuracy, with intervals."""
    config = o.study_config(study, _given(locals()))
    o.require_given(config)
    from relscope.cli.progress import progress_shown
    from relscope.cli.show import judgement_json, print_json, print_judgement, warn_of

    with progress_shown() as progress:
        from relscope.study import judge_pairs

        judgement = judge_pairs(config, progress)
    if as_json:
        print_json(judgement_json(judgement, config))
    else:
        print_judgement(judgement, config)
    warn_of(judgement)


@_command()
def prompts(
    study: o.Study = None,
    model: o.Model = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = None,
    data: o.Data = None,
    prompt: o.Prompt = None,
    negatives: o.Negatives = None,
    pairs: o.Pairs = 2,
    seed: o.Seed = None,
) -> None:
    """Print prompts with their regions coloured, to check the spans by eye."""
    config = o.study_config(study, _given(locals()))
    o.require_given(config)
    from relscope.cli.progress import progress_shown
    from relscope.cli.show import OUT

    with progress_shown() as progress:
        from relscope.study import print_prompt, render_prompts

        aligned, exclusions = render_prompts(config, progress)
    for pair in aligned:
        for name, rendered in (("clean", pair.clean), ("corrupted", pair.corrupted)):
            OUT.rule(f"{pair.pair_id}, {name}, {len(rendered.ids)} tokens", style="dim")
            print_prompt(OUT, rendered)
    for exclusion in exclusions:
        OUT.print(f"excluded: {exclusion.pair_id}: {exclusion.reason} ({exclusion.detail})", markup=False)


@_command()
def check(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Hub id, folder, GGUF file, adapter folder, smoljudge or smollm2-135m."),
    ],
    adapter: o.Adapter = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = None,
    prompt: o.Prompt = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
) -> None:
    """Check what patching assumes of a model, clause by clause. Exit status 1 if a clause fails."""
    config = o.study_config(None, _given(locals()))
    from relscope.cli.progress import progress_shown
    from relscope.cli.show import print_check

    with progress_shown() as progress:
        from relscope.study import check_model

        progress.stage(f"loading and checking {config.model}")
        outcome = check_model(config)
    print_check(outcome, config)
    if not outcome.ok:
        raise typer.Exit(1)


@_command("compare-models")
def compare_models(
    base: o.Base,
    tuned: o.Tuned = None,
    adapter: o.Adapter = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = None,
    data: o.Data = None,
    prompt: o.Prompt = None,
    negatives: o.Negatives = None,
    pairs: o.Pairs = None,
    experiments: o.Compared = None,
    regions: o.Regions = None,
    components: o.Components = None,
    direction: o.Direction = None,
    seed: o.Seed = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    memory: o.Memory = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; an unfinished comparison in it is continued.")
    ] = None,
) -> None:
    """What does tuning change in a judge? BASE against TUNED, or against BASE with an adapter; writes a report."""
    given, folder = _given({name: value for name, value in locals().items() if name not in ("base", "tuned")}), out
    try:
        if (tuned is None) == (adapter is None):
            which = "both were given" if tuned else "neither was given"
            raise InputError(f"TUNED or --adapter: {which}; give the tuned model or an adapter to put on BASE")
        config = o.study_config(None, {"model": base, **given})
        models = f"{o.source_name(base)}-and-{o.source_name(tuned or adapter or '')}"
        folder = out or Path("runs") / o.folder_name(config, models)
        o.require_given(config, folder, "comparison")
        from relscope.cli.progress import progress_shown
        from relscope.cli.show import OUT, print_comparison

        with progress_shown() as progress:
            from relscope.study import compare_models as compare

            compare(config, tuned, folder, progress)
            from relscope.report import build_comparison_report, summarize_comparison

            progress.stage("writing the report")
            report = build_comparison_report(folder)
            summary = summarize_comparison(folder)
    except KeyboardInterrupt:
        raise o.interrupted(folder, out) from None
    print_comparison(summary)
    OUT.print(f"report: {report}")


@_command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of two or more runs.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the report; an earlier comparison is replaced.")
    ] = None,
) -> None:
    """Do runs find the same mechanism, across prompts, orders, data and models? Reads run folders; writes a report."""
    folder = out or Path("runs") / _similarity_name(runs)
    from relscope.cli.progress import progress_shown
    from relscope.cli.show import OUT, print_similarity
    from relscope.report import build_similarity_report

    with progress_shown() as progress:
        progress.stage(f"comparing {len(runs)} runs")
        summary = build_similarity_report(runs, folder)
    print_similarity(summary)
    OUT.print(f"report: {summary.report}")


@_command()
def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a run, of a comparison, of an ablation or of a circuit.")
    ],
    downstream: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            help="Show an ablation, a circuit (its folder) or a reranking (its run file) too; may be given again.",
        ),
    ] = None,
) -> None:
    """Rebuild the report of a run, a comparison, an ablation or a circuit from its rows alone."""
    from relscope import report as reports

    if downstream:
        if reports.is_ablation(run) or reports.is_circuit(run) or reports.is_comparison(run):
            raise InputError("option --with: belongs to the folder of a run, in whose report it is shown")
        print(f"report: {reports.build_report(run, downstream)}")
        return
    if reports.is_ablation(run):
        print(f"report: {reports.build_ablation_report(run).report}")
        return
    if reports.is_circuit(run):
        print(f"report: {reports.build_circuit_report(run).report}")
        return
    build = reports.build_comparison_report if reports.is_comparison(run) else reports.build_report
    print(f"report: {build(run)}")


_command()(tuning.tune)
_command()(tuning.evaluate)
_command()(reranking.rerank)
_command()(ablation.ablate)
_command()(circuits.circuit)
_command()(reranking.heads)


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in ("study", "out", "as_json")}


def _similarity_name(runs: list[Path]) -> str:
    """The first two runs by their folders, and how many more."""
    named = "-and-".join(re.sub(r"[^A-Za-z0-9.]+", "-", o.source_name(str(run))).strip("-") for run in runs[:2])
    return f"similarity-{named}" + (f"-and-{len(runs) - 2}-more" if len(runs) > 2 else "")
