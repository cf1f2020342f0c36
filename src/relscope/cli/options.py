"""Options that several commands share, and how they combine with a study's YAML file: an option wins."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from relscope.errors import InputError

if TYPE_CHECKING:
    from relscope.study import StudyConfig
    from relscope.study.given import FolderKind

_MODEL, _DATA, _STUDY, _MACHINE = "Model", "Data and prompts", "What is measured", "Machine"

Study = Annotated[Path | None, typer.Argument(metavar="STUDY.yaml", help="Any of the options below, in YAML.")]
Model = Annotated[
    str | None,
    typer.Option("--model", "-m", rich_help_panel=_MODEL,
                 help="Hub id, folder, GGUF file, adapter folder, or embedded: smoljudge (the default), smollm2-135m."),
]  # fmt: skip
Base = Annotated[
    str, typer.Argument(metavar="BASE", help="The model before tuning: hub id, folder, GGUF file, or smollm2-135m.")
]
Tuned = Annotated[
    str | None, typer.Argument(metavar="TUNED", help="The model after it, or the folder of an adapter of BASE.")
]
Adapter = Annotated[
    str | None, typer.Option("--adapter", rich_help_panel=_MODEL, help="PEFT adapter, folder or hub id.")
]
Revision = Annotated[
    str | None, typer.Option("--revision", rich_help_panel=_MODEL, help="Branch, tag or commit of a hub id.")
]
TrustRemoteCode = Annotated[
    bool | None,
    typer.Option("--trust-remote-code", rich_help_panel=_MODEL, help="Run code that comes with the model."),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        rich_help_panel=_MACHINE,
        help="auto (float32), float32, bfloat16-weights (activations in float32: half the memory), bfloat16, float16.",
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", rich_help_panel=_MACHINE, help="auto, cpu, cuda, cuda:1, mps, spread.")
]
Data = Annotated[
    str | None,
    typer.Option("--data", "-d", rich_help_panel=_DATA,
                 help="demo (the default), pairs FILE.jsonl, SQuAD FILE.json, BEIR or TREC folder, TREC FILE.yaml, "
                      "ir_datasets:ID."),
]  # fmt: skip
Negatives = Annotated[
    str | None,
    typer.Option("--negatives", rich_help_panel=_DATA, help="hard (BM25 top 100; the default) or random."),
]
Pairs = Annotated[
    int | None, typer.Option("--pairs", "-n", rich_help_panel=_DATA, help="At most so many pairs, the first ones.")
]
Prompt = Annotated[
    str | None,
    typer.Option("--prompt", "-p", rich_help_panel=_DATA,
                 help="pointwise-dqi (the default), -qdi, -idq, pairwise-dqi, -idq, or a YAML file of texts."),
]  # fmt: skip
Seed = Annotated[int | None, typer.Option("--seed", rich_help_panel=_DATA, help="Decides which negatives are drawn.")]
Filter = Annotated[
    str | None,
    typer.Option("--filter", rich_help_panel=_DATA, help="all (the default), or correct: pairs judged correctly."),
]
Experiments = Annotated[
    str | None,
    typer.Option("--experiments", "-e", rich_help_panel=_STUDY,
                 help="Of flow, heads (the default: flow,heads), edges, joint, paths, interaction, vocabulary."),
]  # fmt: skip
Compared = Annotated[
    str | None,
    typer.Option("--experiments", "-e", rich_help_panel=_STUDY, help="Of flow, heads (the default: both)."),
]
Regions = Annotated[
    str | None,
    typer.Option("--regions", "-r", rich_help_panel=_STUDY,
                 help="Of flow, heads, vocabulary: query, document, instruction, last, all, other, query.first, ..."),
]  # fmt: skip
Components = Annotated[
    str | None,
    typer.Option(
        "--components",
        rich_help_panel=_STUDY,
        help="Of flow: attn_out, mlp_out, resid_post (the default: all).",
    ),
]
Direction = Annotated[
    str | None,
    typer.Option("--direction", rich_help_panel=_STUDY,
                 help="denoise (clean into corrupted; the default) or noise."),
]  # fmt: skip
Memory = Annotated[
    str | None,
    typer.Option("--memory", rich_help_panel=_MACHINE, help="Bound on what is held beyond the weights (1GiB)."),
]

Precision = Annotated[
    str | None,
    typer.Option("--precision", rich_help_panel=_MACHINE,
                 help="auto (the default: delta for float32 models on CUDA with bfloat16, else exact), exact, or delta "
                      "(bfloat16 products of differences; the error is measured on a sample)."),
]  # fmt: skip


def interrupted(folder: Path | None, out: Path | None, beside: str = "") -> typer.Exit:
    """Say what is kept and how to go on; `folder` is None where nothing was done yet.

    `beside` is added to the folder's name where what is done is kept beside what `--out` names.
    """
    kept = "nothing was done yet" if folder is None else f"what is done is kept in {folder}{beside}"
    again = shlex.join(["relscope", *sys.argv[1:], *([] if out or not folder else ["--out", str(folder)])])
    print(f"\nrelscope: interrupted; {kept}. To go on: {again}", file=sys.stderr)
    return typer.Exit(130)


def shown_with(run: str | Path, folder: Path) -> str:
    """How a run's own report comes to show what was evaluated of it."""
    return f"in the run's report: {shlex.join(['relscope', 'report', str(run), '--with', str(folder)])}"


def require_given(config: StudyConfig, folder: Path | None = None, kind: FolderKind = "run") -> None:
    """Refuse data that are not there, and a folder that cannot be used, before torch is loaded.

    Raises:
        InputError: says what is in the way.
    """
    from relscope.study import require_out, require_sources

    require_sources([config.data])
    if folder is not None:
        require_out(folder, kind)


def folder_name(config: StudyConfig, models: str | None = None) -> str:
    """Model, data and prompt, as one name; a run of other settings under the same name is refused, not mixed."""
    catalogue = "ir_datasets:"
    data = config.data.removeprefix(catalogue) if config.data.startswith(catalogue) else source_name(config.data)
    parts = (models or source_name(config.model), data, config.prompt.format, config.prompt.order)
    return "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-") for part in parts)


def source_name(source: str) -> str:
    """The last part of a path or hub id."""
    return Path(source).name if Path(source).name not in ("", "..") else Path(source).resolve().name


def study_config(study: Path | None, given: Mapping[str, Any]) -> StudyConfig:
    """The configuration of a YAML file (or of none) with the options that were given on top.

    Raises:
        InputError: the file or an option cannot be used.
    """
    from relscope.study import StudyConfig, prompt_fields, read_yaml

    if study is not None and not study.exists() and study.suffix not in (".yaml", ".yml"):
        raise InputError(f"{study}: there is no such file of a study; a model is named with --model {study}")
    in_file = {} if study is None else read_yaml(study)
    fields = dict(in_file)
    given = {name: value for name, value in given.items() if value is not None}
    source = "options" if study is None else f"{study} and options" if given else str(study)
    if "negatives" in given:
        fields["negatives"] = _section(fields, "negatives", lambda kind: {"kind": kind}) | {
            "kind": given.pop("negatives")
        }
    if "prompt" in given:
        fields["prompt"] = _section(fields, "prompt", prompt_fields) | prompt_fields(given.pop("prompt"))
    if given.keys() & {"experiments", "regions", "components"}:
        fields["experiments"] = _experiments(fields, given)
    fields |= {name: value for name, value in given.items() if name not in ("experiments", "regions", "components")}
    try:
        return StudyConfig.from_mapping(fields, source)
    except InputError as error:
        raise _of_the_file_alone(in_file, study, error) if study is not None and given else error from None


def _of_the_file_alone(in_file: Mapping[str, Any], study: Path, error: InputError) -> InputError:
    """What is wrong with a file and options: named after the file where it is wrong of the file without them."""
    from relscope.study import StudyConfig

    try:
        StudyConfig.from_mapping(in_file, str(study))
    except InputError as alone:
        same = str(alone).removeprefix(str(study)) == str(error).removeprefix(f"{study} and options")
        return alone if same else error
    return error


def _section(fields: Mapping[str, Any], name: str, from_text: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """A section of the YAML file that options are laid over."""
    value = fields.get(name)
    if isinstance(value, str):
        return from_text(value)
    if not isinstance(value, dict | None):
        raise InputError(f"{name}: a mapping is needed in the YAML file, not {value!r}")
    return dict(value or {})


def _experiments(fields: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The chosen experiments with their options; `--components` belongs to flow, `--regions` to some."""
    from relscope.study import WITH_REGIONS, StudyConfig, experiment_options

    default = list(StudyConfig().experiments.chosen)
    in_file = experiment_options(default if fields.get("experiments") is None else fields["experiments"])
    names = listed(given["experiments"]) if "experiments" in given else in_file
    chosen = experiment_options([{name: in_file.get(name)} for name in names])
    if "regions" in given:
        with_regions = [name for name in WITH_REGIONS if name in chosen]
        if not with_regions:
            raise InputError(f"option --regions: belongs to {', '.join(WITH_REGIONS)}, none of which is chosen")
        for name in with_regions:
            chosen[name]["regions"] = listed(given["regions"])
    if "components" in given:
        if "flow" not in chosen:
            raise InputError("option --components: belongs to the experiment flow, which is not chosen")
        chosen["flow"]["components"] = listed(given["components"])
    return chosen


def listed(text: str) -> list[str]:
    """Names with commas between them."""
    return [name.strip() for name in text.split(",") if name.strip()]
