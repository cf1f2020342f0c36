"""What commands print at the end: tables, sentences, warnings."""

from __future__ import annotations

import math
import os
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from relscope.report import ComparisonSummary, RunSummary, SimilaritySummary
    from relscope.study import Judgement, ModelCheck, Plan, StudyConfig

# In a file or a pipe there is no window to fit: a line is as long as it needs to be.
_WIDTH = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 200
OUT = Console(highlight=False, soft_wrap=True, width=_WIDTH)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)

_MEASURES = (
    ("accuracy", "accuracy"),
    ("f1", "F1"),
    ("roc_auc", "ROC AUC"),
    ("paired_accuracy", "paired accuracy"),
)


def print_json(value: Any) -> None:
    """One JSON object on standard output, and nothing else there."""
    import json

    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def judgement_json(judgement: Judgement, config: StudyConfig) -> dict[str, Any]:
    """The object that `relscope judge --json` prints; an interval that one query cannot give is null."""
    quality = judgement.quality
    measures = {name: getattr(quality, name).as_dict() for name, _ in _MEASURES}
    asked = ("model", "adapter", "revision", "data", "pairs", "filter", "seed")
    return {
        **{name: getattr(config, name) for name in asked},
        "prompt": {"format": config.prompt.format, "order": config.prompt.order},
        "negatives": config.negatives.model_dump(), "dtype": judgement.dtype,
        "n": quality.n, "n_kept": len(judgement.verdicts), "n_excluded": judgement.n_excluded, **measures,
    }  # fmt: skip


def print_judgement(judgement: Judgement, config: StudyConfig) -> None:
    """What was asked, each pair's verdicts, then the quality of all."""
    prompt, adapter = config.prompt, f" with {config.adapter}" if config.adapter else ""
    OUT.print(
        f"{escape(config.model + adapter)} on {escape(config.data)}: {prompt.format}, order {prompt.order}, "
        f"{config.negatives.kind} negatives\n"
    )
    table = Table("pair", "query", "LD positive", "LD negative", "difference", box=None, pad_edge=False)
    table.columns[1].no_wrap = True
    for column in table.columns[2:]:
        column.justify = "right"
    for row in judgement.verdicts.itertuples():
        query = str(row.query_text)
        difference = float(row.ld_clean) - float(row.ld_corrupted)  # type: ignore[arg-type]
        table.add_row(
            escape(str(row.pair_id)), escape(query if len(query) <= 48 else query[:47] + "…"),
            f"{row.ld_clean:+.3f}", f"{row.ld_corrupted:+.3f}", f"{difference:+.3f}",
        )  # fmt: skip
    if table.row_count:
        OUT.print(table)
        OUT.print()
    if (n_out := judgement.quality.n - len(judgement.verdicts)) > 0:
        OUT.print(f"not listed (filter: {config.filter}), but measured: {n_out} of {judgement.quality.n} pairs\n")
    print_quality(judgement.quality, judgement.n_excluded)


def warn_of(judgement: Judgement) -> None:
    """Say on standard error why the verdicts may mean little."""
    messages = [judgement.quality.sentence] if judgement.quality.at_chance else []
    for message in messages + [lint.message for lint in judgement.lints if not lint.ok]:
        ERR.print(f"[yellow]warning:[/yellow] {escape(message)}")


def print_quality(quality: Any, n_excluded: int) -> None:
    """The quality of the verdicts with intervals."""
    table = Table("measure", "value", "95 % interval", box=None, pad_edge=False)
    for name, label in _MEASURES:
        estimate = getattr(quality, name)
        interval = "" if math.isnan(estimate.low) else f"[{estimate.low:.3f}, {estimate.high:.3f}]"
        table.add_row(label, f"{estimate.value:.3f}", escape(interval))
    OUT.print(table)
    OUT.print(f"{quality.n} pairs, {n_excluded} excluded; intervals over queries ({quality.interval_method})")


def print_strongest(summary: RunSummary) -> None:
    """The strongest few sites of each experiment (of one without, that there are none), and heads taken together."""
    if summary.strongest:
        _print_sites(summary)
    for text in summary.joint:
        OUT.print(f"{escape(text)}\n")


def _print_sites(summary: RunSummary) -> None:
    table = Table("strongest sites, by |effect| where q ≤ 0.05", box=None, pad_edge=False)
    for name in ("effect (logits)", "q"):
        table.add_column(name, no_wrap=True)
    for of in summary.strongest:
        table.add_row(f"[bold]{escape(of.name)}[/bold]: {of.n_significant:,} of {of.n_sites:,} sites have q ≤ 0.05")
        for site in of.sites:
            table.add_row(*(escape(cell) for cell in (f"  {site[0]}", *site[1:])))
    OUT.print()
    OUT.print(table, soft_wrap=False)
    if summary.caveat:
        OUT.print(escape(summary.caveat))
    OUT.print()


def print_comparison(summary: ComparisonSummary) -> None:
    """The quality of both models side by side, then what alone carries most of the change, each way."""

    def shown(value: Any, signed: bool = False) -> str:
        text = f"{value.value:+.3f}" if signed else f"{value.value:.3f}"
        return text if math.isnan(value.low) else f"{text} \\[{value.low:.3f}, {value.high:.3f}]"

    OUT.print(f"base:  {escape(summary.base)}\ntuned: {escape(summary.tuned)}\n")
    if summary.quality:
        table = Table("measure", "base", "tuned", "tuned - base", box=None, pad_edge=False)
        for name, label in _MEASURES:
            values = [shown(getattr(summary.quality[model], name)) for model in ("base", "tuned")]
            table.add_row(label, *values, shown(summary.quality_difference[name], signed=True))
        OUT.print(table)
        n = summary.quality["tuned"].n
        OUT.print(f"{n} pairs; 95 % intervals over queries (bootstrap, the same queries for both)\n")
    for receiver, donor in (("base", "tuned"), ("tuned", "base")):
        carriers = summary.carriers.get(receiver, ())
        if not carriers:
            continue
        known = not any(math.isnan(carrier.share.low) for carrier in carriers)
        share = "share of the extra separation" if known else "share (the separation may be the same)"
        table = Table(f"{donor} into {receiver}: what alone carries most", share, "logits", box=None, pad_edge=False)
        for carrier in carriers:
            table.add_row(
                escape(carrier.name), shown(carrier.share) if known else "-", shown(carrier.effect, signed=True)
            )
        OUT.print(table)
        OUT.print()


_SIMILARITIES = (("rbo", "RBO"), ("spearman", "Spearman"), ("kendall", "Kendall"), ("pearson", "Pearson"))


def print_similarity(summary: SimilaritySummary) -> None:
    """The runs, what to know first, and how alike each two of them are."""
    for run in summary.runs:
        OUT.print(escape(run))
    for caveat in summary.caveats:  # before the verdicts that they bear upon
        ERR.print(f"[yellow]warning:[/yellow] {escape(caveat)}")
    OUT.print()
    table = Table("runs", "sites", *(name for _, name in _SIMILARITIES), box=None, pad_edge=False)
    for name in ("overlap at 10", "RBO by chance", "RBO, ceiling"):
        table.add_column(name, justify="right")
    for row in summary.table.to_dict("records"):
        values = [_shown_similarity(row, measure) for measure, _ in _SIMILARITIES]
        others = [row["overlap_10"], row["rbo_by_chance"], row["rbo_ceiling"]]
        table.add_row(
            f"{row['run_one']}, {row['run_other']}", escape(row["sites"]), *values,
            *("-" if math.isnan(value) else f"{value:.2f}" for value in others),
        )  # fmt: skip
    OUT.print(table)
    OUT.print("95 % intervals over queries (bootstrap); the ceiling is the lower one of two halves of one run\n")
    for finding in summary.findings:
        OUT.print(escape(finding))
    if summary.n_not_compared:
        OUT.print(f"not compared: {summary.n_not_compared} sets of sites, listed in the report with the reason")


def _shown_similarity(row: dict[Any, Any], measure: str) -> str:
    value, low, high = row[measure], row[f"{measure}_low"], row[f"{measure}_high"]
    if math.isnan(value):
        return "-"
    return f"{value:.2f}" if math.isnan(low) else f"{value:.2f} \\[{low:.2f}, {high:.2f}]"


def print_check(check: ModelCheck, config: StudyConfig) -> None:
    """The model that was asked for, the contract clause by clause, then the verdict's lints."""
    judge, asked = check.judge, config.model + (f" with {config.adapter}" if config.adapter else "")
    shape, identity = judge.shape, judge.identity
    base = f" ({identity.name} with its adapter)" if config.adapter is None and identity.adapter else ""
    OUT.print(
        f"{escape(asked + base)}: {escape(judge.identity.model_type)} (layout {judge.architecture.name}"
        f"{'' if judge.known_type else ', recognised by structure'}), {shape.n_layers} layers, {shape.n_heads} heads, "
        f"{shape.n_kv_heads} key/value heads, d_model {shape.d_model}, {shape.n_parameters / 1e6:,.0f} M parameters, "
        f"{judge.identity.dtype} on {judge.device}",
        soft_wrap=False,
    )
    table = Table("", "clause", "statement", "error", "tolerance", box=None, pad_edge=False)
    for column in (0, 1, 4):
        table.columns[column].no_wrap = True
    for clause in check.contract.clauses:
        mark = "[green]ok[/green]" if clause.ok else "[red]FAILS[/red]"
        error = escape(clause.detail) or f"{clause.error:.2g}"
        table.add_row(mark, clause.name, clause.statement, error, f"{clause.tolerance:.2g}")
    for lint in check.lints:
        mark = "[green]ok[/green]" if lint.ok else "[yellow]warning[/yellow]"
        table.add_row(mark, lint.name, escape(lint.message), "", "")
    OUT.print(table, soft_wrap=False)


_PARTS = {"total": "total effects (of paths)", "exact_sample": "exact sample (of delta)"}


def print_plan(plan: Plan) -> None:
    """What a study will do and take."""
    table = Table.grid(padding=(0, 2))
    for label, value in (
        ("pairs", f"{plan.n_pairs:,} ({plan.n_excluded:,} excluded; before any filter, which needs the verdicts)"),
        ("patches", f"{plan.n_patches:,}"),
        ("tokens in prompts", f"{plan.n_tokens:,}"),
        ("positions recomputed", f"{plan.n_positions:,} (position x layer)"),
        ("floating-point operations", f"{plan.flops:.3g} ({plan.full_pass_flops / max(plan.flops, 1):.1f} times fewer "
         "than one full forward pass for each patch)"),
        ("memory beyond the weights", f"{plan.memory_bytes / 2**20:,.0f} MiB (weights: "
         f"{plan.weights_bytes / 2**20:,.0f} MiB)"),
        ("estimated time", f"{duration(plan.seconds)} (one full forward pass for each patch: "
         f"{duration(plan.full_pass_seconds)})"),
    ):  # fmt: skip
        table.add_row(label, value)
    OUT.print(table, soft_wrap=False)
    OUT.print()
    table = Table("experiment", box=None, pad_edge=False)
    for name in ("patches", "operations", "estimated time"):
        table.add_column(name, justify="right")
    for part in plan.parts:
        table.add_row(
            _PARTS.get(part.name, part.name), f"{part.n_patches:,}", f"{part.flops:.3g}", duration(part.seconds)
        )
    table.add_row("all", f"{plan.n_patches:,}", f"{plan.flops:.3g}", duration(plan.seconds))
    OUT.print(table)


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def clock(seconds: float) -> str:
    """Seconds as a clock shows them: 0:07, 12:30, 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
