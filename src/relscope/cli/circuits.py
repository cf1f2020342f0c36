"""The command that finds and evaluates circuits: `circuit`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relscope.cli import options as o
from relscope.errors import InputError

if TYPE_CHECKING:
    from relscope.report import CircuitSummary

_SEARCH, _JUDGED = "Search (of a RUN)", "What it is judged on"
_OTHERS = "Other than the circuit's own (of a CIRCUIT.json)"
_OF_THE_SEARCH = ("threshold", "tolerance", "by", "kind", "positions", "select", "shares", "prune_sets", "minimality",
                  "draws")  # fmt: skip
_OF_A_CIRCUIT = ("model", "data", "prompt", "negatives", "dtype")


def circuit(
    source: Annotated[
        str, typer.Argument(metavar="RUN|CIRCUIT.json", help="A finished run of heads, or a circuit that was found.")
    ],
    threshold: Annotated[
        float | None, typer.Option("--threshold", rich_help_panel=_SEARCH, help="f of LD that it is grown to (0.85).")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", rich_help_panel=_SEARCH, help="f that pruning may cost (0.02).")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by", rich_help_panel=_SEARCH, help="Sites by magnitude of their effect (the default), or by effect."
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", rich_help_panel=_SEARCH, help="Ablation: mean (the default), zero, resample."),
    ] = None,
    positions: Annotated[
        str | None,
        typer.Option(
            "--positions", rich_help_panel=_SEARCH, help="Means by region (the default) or relative position."
        ),
    ] = None,
    select: Annotated[
        float | None,
        typer.Option(
            "--select", rich_help_panel=_SEARCH, help="Share of the run's queries to select by (all of them)."
        ),
    ] = None,
    shares: Annotated[
        str | None,
        typer.Option(
            "--shares", rich_help_panel=_SEARCH, help="Sizes of the curves: shares of all sites, as 0.01,0.1."
        ),
    ] = None,
    prune_sets: Annotated[
        int | None, typer.Option("--prune-sets", rich_help_panel=_SEARCH, help="Sets that pruning may judge (64).")
    ] = None,
    minimality: Annotated[
        int | None, typer.Option("--minimality", rich_help_panel=_SEARCH, help="Members left out one by one (32).")
    ] = None,
    draws: Annotated[
        int | None, typer.Option("--draws", rich_help_panel=_SEARCH, help="Random parts for completeness (8).")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", rich_help_panel=_OTHERS, help="As of relscope run.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", "-d", rich_help_panel=_OTHERS, help="As of relscope run.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", rich_help_panel=_OTHERS, help="As of relscope run.")
    ] = None,
    negatives: Annotated[
        str | None, typer.Option("--negatives", rich_help_panel=_OTHERS, help="hard or random.")
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option("--pairs", "-n", rich_help_panel=_JUDGED, help="At most so many pairs are evaluated (all)."),
    ] = None,
    reference: Annotated[
        int | None, typer.Option("--reference", rich_help_panel=_JUDGED, help="Queries that give the values (16).")
    ] = None,
    randoms: Annotated[
        int | None, typer.Option("--randoms", rich_help_panel=_JUDGED, help="Random sets for comparison (3).")
    ] = None,
    rerank: Annotated[
        str | None, typer.Option("--rerank", rich_help_panel=_JUDGED, help="Rerank these data too (none).")
    ] = None,
    depth: Annotated[
        int | None, typer.Option("--depth", rich_help_panel=_JUDGED, help="Documents reranked of each query (20).")
    ] = None,
    queries: Annotated[
        int | None,
        typer.Option("--queries", rich_help_panel=_JUDGED, help="At most so many queries are reranked (all)."),
    ] = None,
    measure: Annotated[
        str | None, typer.Option("--measure", rich_help_panel=_JUDGED, help="Of the reranking (nDCG@10).")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Of all draws: queries, sets, resampled prompts (0).")
    ] = None,
    trust_remote_code: o.TrustRemoteCode = None,
    dtype: Annotated[str | None, typer.Option("--dtype", rich_help_panel=_OTHERS, help="As of relscope run.")] = None,
    device: o.Device = None,
    memory: o.Memory = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; an unfinished circuit in it is continued.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")
    ] = False,
) -> None:
    """The few heads that carry the verdict: found from a RUN, or a CIRCUIT.json judged on other data or prompts."""
    given = {name: value for name, value in locals().items() if value is not None}
    folder = out or Path("runs") / f"circuit-{Path(source).resolve().name.removesuffix('.json')}"
    try:
        summary = _measured(source, folder, given)
    except KeyboardInterrupt:
        raise o.interrupted(folder, out) from None
    from relscope.cli.show import OUT, print_json

    if as_json:
        print_json(summary.as_dict())
    else:
        _print(summary)
        if not source.endswith(".json"):
            OUT.print(o.shown_with(source, folder), markup=False)


def _measured(source: str, folder: Path, given: dict[str, Any]) -> CircuitSummary:
    """Find, or evaluate, as the source asks, and write the report."""
    is_circuit = source.endswith(".json")
    for name in _OF_THE_SEARCH if is_circuit else _OF_A_CIRCUIT:
        if name in given:
            belongs = "a search: give it with a RUN" if is_circuit else "the run: give it with a CIRCUIT.json"
            raise InputError(f"option --{name.replace('_', '-')}: belongs to {belongs}")
    from relscope.study import CircuitOptions, require_out, require_sources

    if "shares" in given:
        given = given | {"shares": _shares(given["shares"])}
    names = CircuitOptions.__dataclass_fields__
    options = CircuitOptions(**{name: value for name, value in given.items() if name in names})
    if not is_circuit and Path(source).is_file():
        raise InputError(f"{source}: give the folder of a run, or a circuit's file (circuit.json)")
    require_sources([given.get("data"), options.rerank])
    require_out(folder, "circuit")
    from relscope.cli.progress import progress_shown

    machine: dict[str, Any] = {name: given[name] for name in ("device", "memory", "trust_remote_code") if name in given}
    with progress_shown() as progress:
        from relscope.study import evaluate_circuit, find_circuit, load_circuit, prompt_fields, transfer_config

        if is_circuit:
            saved = load_circuit(source)
            fields = {name: given[name] for name in _OF_A_CIRCUIT if name in given}
            fields |= machine
            if "prompt" in fields:
                fields["prompt"] = prompt_fields(fields["prompt"])
            evaluate_circuit(saved, transfer_config(saved, fields), folder, options, progress=progress)
        else:
            find_circuit(source, folder, options, progress=progress, **machine)
        from relscope.report import build_circuit_report

        progress.stage("writing the report")
        return build_circuit_report(folder)


def _shares(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    try:
        if shares := tuple(float(share) for share in o.listed(text)):
            return shares
        raise ValueError(text)
    except ValueError:
        form = "numbers with commas between them, such as 0.01,0.1"
        raise InputError(f"option --shares: {text!r}: give {form}") from None


def _print(summary: CircuitSummary) -> None:
    from rich.markup import escape
    from rich.table import Table

    from relscope.cli.show import ERR, OUT

    of = summary.contents
    where = of.circuit.faithfulness
    OUT.print(
        f"{len(of.circuit):,} of {len(of.circuit.all_sites):,} sites; {escape(where['data'])}, {where['prompt']}, "
        f"{where['negatives']} negatives, {where['n_pairs']} pairs of {where['n_queries']} queries\n"
    )
    table = Table("metric", "full model", "all ablated", "circuit alone", "knocked out", "f, alone", "f, knocked out",
                  "f, random", box=None, pad_edge=False)  # fmt: skip
    for one in of.measured:
        randoms = " ".join(f"{value:.2f}" for value in one.randoms) or "-"
        values = [one.full, one.empty, one.kept, one.knocked_out, one.f_kept, one.f_knocked_out]
        table.add_row(one.metric, *(escape(_shown(value)) for value in values), randoms)
    OUT.print(table)
    if of.areas:
        OUT.print()
        table = Table("metric", "CPR", "CMD", box=None, pad_edge=False)
        for area in of.areas:
            table.add_row(area.metric, escape(_shown(area.cpr)), escape(_shown(area.cmd)))
        OUT.print(table)
    OUT.print(f"95 % intervals over queries ({of.method})\n")
    for finding in summary.findings:
        OUT.print(escape(finding))
    for caveat in summary.caveats:
        ERR.print(f"[yellow]warning:[/yellow] {escape(caveat)}")
    OUT.print(f"circuit: {escape(str(summary.report.with_name('circuit.json')))}")
    OUT.print(f"report:  {escape(str(summary.report))}")


def _shown(value: Any) -> str:
    number, low, high = (f"{end:.2f}".replace("-0.00", "0.00") for end in (value.value, value.low, value.high))
    if value.no_width:
        return f"{number} [no width]"
    return number if math.isnan(value.low) else f"{number} [{low}, {high}]"
