"""The commands that make a judge and say how good it is: `tune` and `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relscope.cli import options as o

if TYPE_CHECKING:
    from relscope.study import Measured
    from relscope.tuning import TuneConfig, Validated

_WHAT, _HOW = "What is learned", "How it is learned"
_SECTION_OF = {
    "hard": "mix", "random": "mix", "max_words": "mix", "rank": "lora", "alpha": "lora", "dropout": "lora",
    "target_modules": "lora", "learning_rate": "optimisation", "epochs": "optimisation",
    "questions_per_step": "optimisation", "every": "validation", "patience": "validation", "evaluate": "evaluation",
}  # fmt: skip
_FIELD_OF = {"evaluate": "data"}


def tune(
    config: Annotated[Path | None, typer.Argument(metavar="TUNE.yaml", help="Any of the options, and more.")] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="The base: hub id, folder, GGUF file, or smollm2-135m (the default)."),
    ] = None,
    adapter: Annotated[
        str | None,
        typer.Option("--adapter", help="Go on from this adapter of the base (folder, hub id, smoljudge)."),
    ] = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            "-d",
            rich_help_panel=_WHAT,
            help="Questions: what `run --data` reads, or a file in SQuAD's format. May be given repeatedly.",
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            "--prompt",
            "-p",
            rich_help_panel=_WHAT,
            help="Mixture by weight, such as pointwise-dqi:3,pairwise-dqi:1 (default: all five).",
        ),
    ] = None,
    hard: Annotated[
        int | None, typer.Option("--hard", rich_help_panel=_WHAT, help="Hard negatives a question (1).")
    ] = None,
    random: Annotated[
        int | None, typer.Option("--random", rich_help_panel=_WHAT, help="Random negatives a question (1).")
    ] = None,
    max_words: Annotated[
        int | None, typer.Option("--max-words", rich_help_panel=_WHAT, help="Passages are cut at so many words (60).")
    ] = None,
    rank: Annotated[
        int | None, typer.Option("--rank", rich_help_panel=_HOW, help="Of the low-rank weights (8).")
    ] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", rich_help_panel=_HOW, help="They count alpha / rank times (16).")
    ] = None,
    dropout: Annotated[float | None, typer.Option("--dropout", rich_help_panel=_HOW, help="Of LoRA (0).")] = None,
    target_modules: Annotated[
        str | None,
        typer.Option("--target-modules", rich_help_panel=_HOW, help="all-linear (the default), or q_proj,v_proj, ..."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", rich_help_panel=_HOW, help="At its peak (0.001).")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option("--epochs", rich_help_panel=_HOW, help="Times through the questions (1).")
    ] = None,
    questions_per_step: Annotated[
        int | None, typer.Option("--questions-per-step", rich_help_panel=_HOW, help="Questions in a step (4).")
    ] = None,
    every: Annotated[
        int | None, typer.Option("--every", rich_help_panel=_HOW, help="Steps between validations (100).")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option("--patience", rich_help_panel=_HOW, help="Validations without a lower loss before the end (5)."),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", rich_help_panel=_HOW, help="Decides every draw (0).")] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", rich_help_panel=_HOW, help="auto (bfloat16), bfloat16 or float32.")
    ] = None,
    device: o.Device = None,
    evaluate: Annotated[
        list[str] | None,
        typer.Option(
            "--evaluate",
            rich_help_panel=_WHAT,
            help="Data that base and tuned judge are measured on at the end, for the card. Repeatable.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The adapter's folder; an unfinished tuning in it is continued.")
    ] = Path("adapter"),
) -> None:
    """Tune a judge with LoRA on questions with relevant passages; writes an adapter with its card.

    An interrupted tuning goes on when the command is given again.
    """
    given = {name: value for name, value in locals().items() if name not in ("config", "out") and value is not None}
    try:
        chosen = _tune_config(config, given)
        from relscope.study import require_sources

        require_sources([*(of.data for of in chosen.data), *chosen.validation.data, *chosen.evaluation.data])
        from relscope.cli.progress import progress_shown
        from relscope.cli.show import OUT

        with progress_shown() as progress:
            from relscope.tuning import tune as run_tuning

            tuned = run_tuning(chosen, out, progress, _print_point)
    except KeyboardInterrupt:
        raise o.interrupted(out, out) from None
    if tuned.after:
        _print_evaluation(tuned.before, tuned.after)
    OUT.print(f"adapter: {tuned.folder}")
    OUT.print(f"card:    {tuned.folder / 'README.md'}")


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="As for `relscope run --model`.")],
    adapter: o.Adapter = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", "-d", help="What to judge (demo); may be given repeatedly."),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", help="Prompt, by name or YAML file (all five); may be given repeatedly."),
    ] = None,
    pairs: o.Pairs = None,
    seed: o.Seed = None,
    dtype: o.Dtype = None,
    device: o.Device = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object on standard output and nothing else there.")
    ] = False,
) -> None:
    """Measure a judge on hard and on random negatives, with every prompt; intervals over queries."""
    settings = {"model": model, "adapter": adapter, "revision": revision, "trust_remote_code": trust_remote_code,
                "pairs": pairs, "seed": seed, "dtype": dtype, "device": device}  # fmt: skip
    config = o.study_config(None, settings)
    from relscope.study import PROMPTS, prompt_fields, require_sources

    require_sources(data or [])
    for name in prompt or ():
        prompt_fields(name)
    from relscope.cli.progress import progress_shown
    from relscope.cli.show import print_json

    with progress_shown() as progress:
        from relscope.study import evaluate_model

        measured = evaluate_model(config, tuple(data or ["demo"]), tuple(prompt or PROMPTS), progress)
    if as_json:
        print_json({"model": model, "adapter": adapter, "results": [m.as_dict() for m in measured]})
    else:
        _print_evaluation([], measured)


def _tune_config(file: Path | None, given: Mapping[str, Any]) -> TuneConfig:
    """The configuration of a YAML file (or of none) with the options on top."""
    from relscope.errors import InputError
    from relscope.study import read_yaml
    from relscope.tuning import TuneConfig

    fields = {} if file is None else read_yaml(file)
    for name, value in given.items():
        section = _SECTION_OF.get(name)
        if section is not None:
            inside = fields.get(section) or {}
            if not isinstance(inside, dict):
                raise InputError(f"{file}: {section}: a mapping of options is needed, not {inside!r}")
            chosen = [part.strip() for part in value.split(",")] if name == "target_modules" else value
            fields[section] = {**inside, _FIELD_OF.get(name, name): chosen}
        elif name == "prompts":
            fields[name] = _mixture(value)
        else:
            fields[name] = value
    source = "options" if file is None else f"{file} and options" if given else str(file)
    if not fields.get("data"):
        raise InputError(f"{source}: data is missing; give --data QUESTIONS (once or more)")
    return TuneConfig.from_mapping(fields, source)


def _mixture(text: str) -> dict[str, float]:
    from relscope.errors import InputError

    mixture = {}
    for item in text.split(","):
        if "=" in item:
            raise InputError(f"option --prompts: a weight follows a colon: write {item.strip().replace('=', ':')}")
        name, colon, weight = item.strip().rpartition(":")
        try:
            mixture[name if colon else weight] = float(weight) if colon else 1.0
        except ValueError:
            raise InputError(
                f"option --prompts: {weight!r} is no weight; write pointwise-dqi:3,pairwise-dqi:1"
            ) from None
    return mixture


def _print_point(point: Validated) -> None:
    from relscope.cli.show import OUT

    train_loss = "" if point.train_loss is None else f"   loss {point.train_loss:.3f}"
    OUT.print(
        f"step {point.step:>5}{train_loss}   held out: loss {point.loss:.3f}, ROC AUC "
        f"{point.roc_auc:.3f}, relevant above others {point.paired_accuracy:.3f}, accuracy {point.accuracy:.3f}, "
        f"yes or no {point.answered:.0%}"
    )


def _print_evaluation(before: list[Measured], after: list[Measured]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from relscope.cli.show import OUT
    from relscope.tuning import evaluation_table, method_of_intervals

    names = ("data", "prompt", "negatives", "pairs", "ROC AUC", "paired accuracy", "accuracy", "consistency")
    table = Table(*names, box=None, pad_edge=False)
    for row in evaluation_table(before, after, intervals_before=False):
        table.add_row(*(escape(cell) for cell in row))
    OUT.print(table)
    first = "base → tuned; " if before else ""
    how = method_of_intervals(after)
    OUT.print(
        f"{first}intervals: 95 %, over queries ({how}). Paired accuracy: the relevant document's LD above the "
        "other's. Accuracy: yes if LD > 0. Consistency (pairwise): swapping the documents swaps the verdict."
    )
