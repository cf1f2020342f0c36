"""The commands that rank a collection's documents again, and that choose heads to do it by: `rerank`, `heads`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relscope.cli import options as o
from relscope.errors import InputError

if TYPE_CHECKING:
    from relscope.study import RankingComparison, Reranking, RerankRun, StudyConfig

_WHAT = "What is ranked, and how"
_COMMA = re.compile(r",(?![^(]*\))")  # not those between the arguments of a measure


def rerank(
    model: o.Model = None,
    adapter: o.Adapter = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = None,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", rich_help_panel=_WHAT,
                     help="demo (the default), pairs FILE.jsonl, BEIR or TREC folder, TREC FILE.yaml, SQuAD FILE.json, "
                     "ir_datasets:ID."),
    ] = None,
    first_stage: Annotated[
        str | None,
        typer.Option("--first-stage", rich_help_panel=_WHAT,
                     help="TREC run file, or bm25 (default: the data's, else bm25)."),
    ] = None,
    depth: Annotated[
        int, typer.Option("--depth", rich_help_panel=_WHAT, help="At most so many documents of a query.")
    ] = 100,
    queries: Annotated[
        int | None, typer.Option("--queries", "-n", rich_help_panel=_WHAT, help="At most so many queries.")
    ] = None,
    prompt: o.Prompt = None,
    method: Annotated[
        str | None,
        typer.Option("--method", rich_help_panel=_WHAT,
                     help="pointwise, attention; of pairwise prompts sliding-window (default), heapsort, all-pairs."),
    ] = None,
    heads: Annotated[
        Path | None,
        typer.Option("--heads", rich_help_panel=_WHAT, help="Of attention: head set, a file of relscope heads."),
    ] = None,
    reading: Annotated[
        str | None,
        typer.Option("--reading", rich_help_panel=_WHAT,
                     help="Of attention: total (the default) or largest, over the document."),
    ] = None,
    calibrated: Annotated[
        bool | None,
        typer.Option("--calibrated/--uncalibrated", rich_help_panel=_WHAT,
                     help="Of attention: take away what a content-free query pays (the default)."),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option("--top", rich_help_panel=_WHAT, help="Places that sliding-window and heapsort settle (10)."),
    ] = None,
    measures: Annotated[
        str, typer.Option("--measures", help="As ir-measures names them, such as nDCG@10,RR@10,AP.")
    ] = "nDCG@10",
    seed: Annotated[
        int | None, typer.Option("--seed", help="Decides the resamples and sign flips of intervals and tests.")
    ] = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="TREC run file; an unfinished reranking beside it is continued.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")
    ] = False,
) -> None:  # fmt: skip
    """Rank documents again by the judge's verdicts, and measure it beside the first stage; writes a TREC run file.

    An interrupted reranking goes on when the command is given again.
    """
    settings = {"model": model, "adapter": adapter, "revision": revision, "trust_remote_code": trust_remote_code,
                "data": data, "prompt": prompt, "seed": seed, "dtype": dtype, "device": device}  # fmt: skip
    file = out
    try:
        config = o.study_config(None, settings)
        from relscope.study import HeadSet, Reranking, require_run_file, require_sources, verdicts_folder

        chosen = None if heads is None else HeadSet.load(heads)
        given = {"top": top, "reading": reading, "calibrated": calibrated}
        of_method: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        options = Reranking(
            method=method, depth=depth, queries=queries, first_stage=first_stage, heads=chosen, **of_method
        )
        _require_read(of_method, options.method_of(config.prompt))
        name = f"{o.folder_name(config)}-{options.method_of(config.prompt)}.trec"
        file = out or Path("runs") / name
        require_sources([config.data])
        require_run_file(file, verdicts_folder(file))
        from relscope.cli.progress import progress_shown
        from relscope.cli.show import print_json

        with progress_shown() as progress:
            from relscope.study.rerank_run import rerank_run

            done = rerank_run(config, options, [m.strip() for m in _COMMA.split(measures)], file, progress)
    except KeyboardInterrupt:
        raise o.interrupted(file, out, ".verdicts") from None
    if as_json:
        print_json(_as_json(done, config) | _heads_json(options) | _cost_json(done))
    else:
        _print(done, config, options)


def _require_read(given: Collection[str], method: str) -> None:
    """Refuse an option that the method does not read.

    Raises:
        InputError: names the option and the methods that read it.
    """
    readers = {"top": ("sliding-window", "heapsort"), "reading": ("attention",), "calibrated": ("attention",)}
    for name in given:
        if method not in readers[name]:
            which = " and ".join(readers[name])
            raise InputError(f"option --{name}: is for {which}; the method {method} does not read it")


def heads(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    k: Annotated[int, typer.Option("--k", "-k", help="Number of heads.")] = 8,
    by: Annotated[
        str | None,
        typer.Option("--by", help="A region (|effect| of z there), an edge such as query<-document (|effect| of its "
                     "scores), or interaction (attention alone). Default: of query, last, instruction, document the "
                     "first that the run has."),
    ] = None,
    below: Annotated[
        int | None, typer.Option("--below", help="Only heads of layers below this one: reranking stops earlier.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File of the head set (heads/NAME.json).")] = None,
) -> None:  # fmt: skip
    """Choose the heads that a run puts first, with the queries that they were chosen by; writes a JSON file."""
    from relscope.cli.show import OUT
    from relscope.study import chosen_heads, open_run

    chosen = chosen_heads(open_run(run), k, by=by, below=below)
    file = out or Path("heads") / f"{o.source_name(str(run))}-{re.sub(r'[^A-Za-z0-9.]+', '-', chosen.name)}.json"
    chosen.save(file)
    OUT.print(f"{chosen.name}: {', '.join(f'L{head.layer}H{head.head}' for head in chosen)}", markup=False)
    if (source := chosen.source) is not None:
        OUT.print(f"chosen in {source.model_text}, {source.n_layers} layers of {source.n_heads} heads", markup=False)
    n, n_others = len(chosen.chosen_on), len(chosen.held_out)
    queries = f"chosen by {n} {'query, which is' if n == 1 else 'queries, which are'} not reranked"
    if n_others:
        is_held = "is" if n_others == 1 else "are"
        queries += f"; {n_others} more, which the run judged and did not patch, {is_held} held out too"
    OUT.print(queries, markup=False)
    OUT.print(f"heads: {file}", markup=False)


def _heads_json(options: Reranking) -> dict[str, Any]:
    if options.heads is None:
        return {}
    how = {"reading": options.reading, "calibrated": options.calibrated}
    return {"heads": {"name": options.heads.name, "members": options.heads.members, **how}}


def _cost_json(done: RerankRun) -> dict[str, Any]:
    per_100 = done.per_100_documents
    return {
        "depth": done.header.depth,
        "last_layer": done.header.last_layer,
        "cost": {
            "n_calls": done.cost.n_calls,
            "n_prompts_timed": done.cost.n_prompts,
            "cpu_seconds": done.cost.cpu_seconds,
            "wall_seconds": done.cost.wall_seconds,
            "devices": done.cost.devices,
            "cpu_seconds_per_100_documents": per_100 and per_100.cpu_seconds,
            "wall_seconds_per_100_documents": per_100 and per_100.wall_seconds,
        },
        "verdicts": str(done.verdicts),
    }


def _as_json(done: RerankRun, config: StudyConfig) -> dict[str, Any]:
    from collections import Counter

    reranked = done.reranked
    return {
        "model": config.model,
        "adapter": config.adapter,
        "data": config.data,
        "prompt": {"format": config.prompt.format, "order": config.prompt.order},
        "method": reranked.method,
        "first_stage": reranked.first.name,
        "n_queries": done.n_queries,
        "n_documents": done.n_documents,
        "n_not_judged": done.n_not_judged,
        "n_prompts": reranked.n_prompts,
        "n_left_out": dict(Counter(one.reason for one in reranked.left_out)),
        "measures": [comparison.as_dict() for comparison in done.comparisons],
        "run": str(done.run_file),
    }


def _print(done: RerankRun, config: StudyConfig, options: Reranking) -> None:
    from rich.markup import escape
    from rich.table import Table

    from relscope.cli.show import OUT

    reranked, prompt = done.reranked, config.prompt
    adapter = f" with {config.adapter}" if config.adapter else ""
    how = reranked.method
    if options.heads is not None:
        last = max(head.layer for head in options.heads)
        reading = f"{options.reading}, {'' if options.calibrated else 'not '}calibrated"
        how = f"{how} of {escape(options.heads.name)} ({reading}), read up to layer {last}"
    OUT.print(
        f"{escape(config.model + adapter)} on {escape(config.data)}: {prompt.format}-{prompt.order}, method "
        f"{how}; {reranked.n_prompts:,} prompts for {done.n_documents:,} documents of {done.n_queries:,} "
        "queries\n"
    )
    if rows := done.comparisons:
        table = Table("measure", escape(reranked.first.name), "reranked", "difference", box=None, pad_edge=False)
        for name in ("p (t-test)", "p (sign flips)"):
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*(escape(cell) for cell in _cells(row)))
        OUT.print(table)
        holm = f", p by Holm's correction over {len(rows)} measures" if len(rows) > 1 else ""
        OUT.print(
            f"means over {rows[0].n_queries:,} judged queries; 95 % intervals over queries (bootstrap); "
            f"paired tests{holm}\n{done.n_not_judged:,} documents are not judged and count as not relevant\n"
        )
    else:
        OUT.print("no query is judged: nothing is measured\n")
    OUT.print(escape(_cost_words(done)))
    OUT.print(f"run: {escape(str(done.run_file))}")


def _cost_words(done: RerankRun) -> str:
    cost, per_100 = done.cost, done.per_100_documents
    if per_100 is None:
        return "time: not known, the verdicts were measured by a version that kept none"
    calls = f" in {cost.n_calls} calls" if cost.n_calls > 1 else ""
    return (
        f"time: {per_100.cpu_seconds:.1f} CPU seconds per 100 documents ({per_100.wall_seconds:.1f} s by the clock, "
        f"{per_100.device}), from {cost.n_prompts:,} prompts judged{calls}"
    )


def _cells(row: RankingComparison) -> tuple[str, ...]:
    difference = f"{row.difference.value:+.3f}"
    if not math.isnan(row.difference.low):  # as it is with one query alone
        difference += f" [{row.difference.low:+.3f}, {row.difference.high:+.3f}]"
    values = (f"{estimate.value:.3f}" for estimate in (row.baseline_value, row.value))
    return row.measure, *values, difference, _p(row.p_t_holm), _p(row.p_flip_holm)


def _p(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}"
