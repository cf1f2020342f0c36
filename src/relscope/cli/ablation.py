"""The command that evaluates ablations of a run's head sets: `ablate`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relscope.cli import options as o
from relscope.errors import InputError

if TYPE_CHECKING:
    from relscope.report import AblationSummary

_SETS, _EVALUATION = "Which heads, and how they are ablated", "On what it is evaluated"


def ablate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run with the experiment heads.")],
    top: Annotated[
        str, typer.Option("--top", "-k", rich_help_panel=_SETS, help="Heads a region: a number, or a share such as 2%.")
    ] = "20",
    regions: Annotated[
        str | None,
        typer.Option("--regions", "-r", rich_help_panel=_SETS,
                     help="Whose heads make up the sets (document,query,instruction,last, those of the run)."),
    ] = None,
    kind: Annotated[
        str, typer.Option("--kind", rich_help_panel=_SETS, help="mean (of the run's prompts), zero or resample.")
    ] = "mean",
    positions: Annotated[
        str, typer.Option("--positions", rich_help_panel=_SETS, help="Of means: region, relative or fixed.")
    ] = "region",
    keep_only: Annotated[
        bool, typer.Option("--keep-only", rich_help_panel=_SETS, help="Ablate all heads but the set, everywhere.")
    ] = False,
    draws: Annotated[
        int, typer.Option("--draws", rich_help_panel=_SETS, help="Random sets of each kind.")
    ] = 20,
    match: Annotated[
        str,
        typer.Option("--match", rich_help_panel=_SETS, help="Random sets matched to the mixed set, or to all sets."),
    ] = "mixed",
    seed: Annotated[int, typer.Option("--seed", rich_help_panel=_SETS, help="Decides draws and intervals.")] = 0,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", rich_help_panel=_EVALUATION,
                     help="As of relscope run (default: the run's, without the queries that chose the heads)."),
    ] = None,
    pairs: Annotated[
        int | None, typer.Option("--pairs", "-n", rich_help_panel=_EVALUATION, help="At most so many queries.")
    ] = None,
    negatives: Annotated[
        str | None, typer.Option("--negatives", rich_help_panel=_EVALUATION, help="hard or random (the run's).")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option("--prompts", "-p", rich_help_panel=_EVALUATION,
                     help="One or several, such as pointwise-dqi,pairwise-dqi (default: the run's)."),
    ] = None,
    rerank: Annotated[
        str | None,
        typer.Option("--rerank", rich_help_panel=_EVALUATION,
                     help="Data to rerank (default: those that are judged)."),
    ] = None,
    no_rerank: Annotated[
        bool, typer.Option("--no-rerank", rich_help_panel=_EVALUATION, help="Judge only.")
    ] = False,
    first_stage: Annotated[
        str | None,
        typer.Option("--first-stage", rich_help_panel=_EVALUATION, help="TREC run file, or bm25 (the data's)."),
    ] = None,
    depth: Annotated[
        int, typer.Option("--depth", rich_help_panel=_EVALUATION, help="At most so many documents of a query.")
    ] = 100,
    rerank_draws: Annotated[
        int,
        typer.Option("--rerank-draws", rich_help_panel=_EVALUATION,
                     help="So many of the draws are reranked with (19 tell whether a set does more than random ones)."),
    ] = 3,
    dtype: Annotated[
        str | None, typer.Option("--dtype", rich_help_panel=_EVALUATION, help="As of relscope run (the run's).")
    ] = None,
    device: o.Device = None,
    memory: o.Memory = None,
    trust_remote_code: o.TrustRemoteCode = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder; an unfinished ablation in it is continued.")
    ] = None,
) -> None:  # fmt: skip
    """Do a run's heads carry relevance? Judging and reranking without them, beside random sets; writes a table.

    An interrupted ablation goes on when the command is given again.
    """
    folder = out or Path("runs") / f"ablation-{re.sub(r'[^A-Za-z0-9.]+', '-', o.source_name(str(run))).strip('-')}"
    try:
        if no_rerank and rerank is not None:
            raise InputError("--rerank and --no-rerank exclude each other; give one of them")
        from relscope.study import AblationOptions, require_out, require_sources

        options = AblationOptions(
            data=data, pairs=pairs, negatives=negatives, prompts=None if prompts is None else tuple(o.listed(prompts)),
            top=_top(top), regions=None if regions is None else tuple(o.listed(regions)), kind=kind,
            positions=positions, keep_only=keep_only,
            draws=draws, match=match, rerank=False if no_rerank else rerank or True, first_stage=first_stage,
            depth=depth, rerank_draws=rerank_draws, seed=seed,
        )  # fmt: skip
        require_sources([data, rerank])
        require_out(folder, "ablation")
        from relscope.cli.progress import progress_shown
        from relscope.cli.show import ERR, OUT

        if options.remark:
            ERR.print(f"note: {options.remark}", markup=False)
        with progress_shown() as progress:
            from relscope.report import build_ablation_report
            from relscope.study import Machine, ablate_run

            ablate_run(run, options, folder, Machine(dtype, device, memory, bool(trust_remote_code)), progress)
            progress.stage("writing the tables")
            summary = build_ablation_report(folder)
    except KeyboardInterrupt:
        raise o.interrupted(folder, out) from None
    _print(summary)
    OUT.print(o.shown_with(run, folder), markup=False)


def _top(text: str) -> int | float:
    """A number of heads, or a share: `20`, `2%`, `0.02`."""
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = 0.0
    if not number > 0 or (text.endswith("%") and number >= 1):
        raise InputError(f"option --top: {text!r} is neither a number of heads, such as 20, nor a share, such as 2%")
    return int(number) if number >= 1 and number == int(number) else number


def _print(summary: AblationSummary) -> None:
    from rich.markup import escape
    from rich.table import Table

    from relscope.cli.show import ERR, OUT

    table = Table("condition", *(escape(title) for title in summary.columns), box=None, pad_edge=False)
    for name, cells in summary.rows:
        table.add_row(escape(name), *(escape(cell) for cell in cells))
    OUT.print(table)
    OUT.print(f"{escape(summary.note)}\n")
    for finding in summary.findings:
        OUT.print(escape(finding))
    for caveat in summary.caveats:
        ERR.print(f"[yellow]warning:[/yellow] {escape(caveat)}")
    folder = summary.report.parent
    OUT.print(f"\ntables: {escape(str(folder))}/table.csv, table.tex, table.md\nreport: {escape(str(summary.report))}")
