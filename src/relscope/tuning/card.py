"""What is this adapter, what was it trained on, and how well does it judge? Written beside it, as text and as JSON."""

from __future__ import annotations

import dataclasses
import datetime
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from relscope.analysis import interval_method
from relscope.results.files import write_whole
from relscope.study import Measured, hardware_names, package_versions
from relscope.tuning.config import TuneConfig
from relscope.tuning.questions import SourceRecord
from relscope.version import __version__

CARD_NAME = "card.json"
TEXT_NAME = "README.md"
_MEASURES = ("roc_auc", "paired_accuracy", "accuracy", "consistency")


@dataclass(frozen=True)
class Validated:
    """A point of the learning curve, on held-out queries.

    Attributes:
        step: steps taken.
        train_loss: mean loss since the point before; None where no step had a prompt.
        loss: of the held-out groups.
        accuracy: share of right verdicts, yes being LD > 0.
        paired_accuracy: how often the relevant passage's LD is above another's of its group.
        roc_auc: of all relevant prompts against all others.
        answered: mean probability of yes or no, rather than of another token.
    """

    step: int
    train_loss: float | None
    loss: float
    accuracy: float
    paired_accuracy: float
    roc_auc: float
    answered: float

    def as_dict(self) -> dict[str, Any]:
        """All fields, for JSON."""
        return dataclasses.asdict(self)


def write_card(
    folder: Path,
    config: TuneConfig,
    records: Sequence[SourceRecord],
    counts: Mapping[str, int],
    curve: Sequence[Validated],
    evaluations: tuple[Sequence[Measured], Sequence[Measured]],
    device: torch.device,
) -> None:
    """Write `card.json` and `README.md`.

    Args:
        folder: the adapter's.
        config: what it was tuned with.
        records: what each source gave.
        counts: of questions trained on (`n_trained`) and judged at each validation (`n_held_out`), and of groups of
            prompts that could not be rendered (`n_groups_refused`).
        curve: the learning curve; the weights are those of its lowest loss.
        evaluations: of the base and of the tuned judge; empty where none was asked for.
        device: that it was trained on.
    """
    best = min(curve, key=lambda point: point.loss)
    adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    content = {
        "base_model": config.model,
        "adapter": {"rank": adapter["r"], "alpha": adapter["lora_alpha"], "went_on_from": config.adapter},
        "config": config.model_dump(mode="json"),
        "data": [
            {
                **dataclasses.asdict(record),
                "licence": source.licence,
                "credit": source.credit,
                "questions_limit": source.questions,
                "depth": source.depth,
            }
            for record, source in zip(records, config.data, strict=False)
        ],
        "validation_data": [dataclasses.asdict(record) for record in records[len(config.data) :]],
        **counts,
        "licence": config.licence,
        "validation": best.as_dict(),
        "curve": [point.as_dict() for point in curve],
        "n_steps": curve[-1].step,
        "evaluation": {
            name: [measured.as_dict() for measured in results]
            for name, results in zip(("base", "tuned"), evaluations, strict=True)
        },
        "versions": {"relscope": __version__, "git": _git_description(), **package_versions()},
        "hardware": hardware_names(device),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
    write_whole(folder / CARD_NAME, text.encode())
    write_whole(folder / TEXT_NAME, _text(folder.resolve().name, content, evaluations).encode())


def evaluation_table(
    before: Sequence[Measured], after: Sequence[Measured], *, intervals_before: bool
) -> list[tuple[str, ...]]:
    """A row for each data set, prompt and kind of negatives: its name, pairs, and each measure before and after."""
    base = {(m.data, m.prompt, m.negatives): m for m in before}
    rows = []
    for measured in after:
        earlier = base.get((measured.data, measured.prompt, measured.negatives))
        cells = []
        for name in _MEASURES:
            if name not in _measures(measured):
                cells.append("")
                continue
            value = str(getattr(measured.quality, name))
            if earlier is not None:
                estimate = getattr(earlier.quality, name)
                value = f"{estimate if intervals_before else f'{estimate.value:.2f}'} → {value}"
            cells.append(value)
        rows.append((measured.data, measured.prompt, measured.negatives, str(measured.quality.n), *cells))
    return rows


def method_of_intervals(measured: Sequence[Measured]) -> str:
    """How the intervals that `evaluation_table` shows of these were found."""
    return interval_method(getattr(of.quality, name) for of in measured for name in _measures(of))


def _measures(measured: Measured) -> tuple[str, ...]:
    """Only of a pairwise prompt the verdicts can be consistent."""
    return tuple(n for n in _MEASURES if n != "consistency" or measured.prompt.startswith("pairwise"))


def _text(name: str, content: dict[str, Any], evaluations: tuple[Sequence[Measured], Sequence[Measured]]) -> str:
    best = content["validation"]
    adapter, hardware = content["adapter"], content["hardware"]
    went_on = f", gone on from `{adapter['went_on_from']}`" if adapter["went_on_from"] else ""
    licence = [f"license: {content['licence']}"] if content["licence"] else []
    lines = [
        "---", f"base_model: {content['base_model']}", "library_name: peft", *licence, "tags: [relevance, relscope]",
        "---", "",
        f"# {name}", "",
        f"A LoRA adapter (rank {adapter['rank']}, alpha {adapter['alpha']:g}) that makes `{content['base_model']}` "
        f"judge whether a document answers a query. Tuned with `relscope tune`{went_on}; read it with `relscope run "
        f"--model {content['base_model']} --adapter {name}`.", "",
        "## Data", "",
        "| source | questions | licence | credit |", "| --- | --- | --- | --- |",
        *(f"| {d['name']} | {d['n_questions']} | {d['licence'] or 'not given'} | {d['credit'] or ''} |"
          for d in content["data"]),
        "", f"Trained on {content['n_trained']} questions in {content['n_steps']} steps; "
        f"{content['n_held_out']} held-out questions were judged at each validation.", "",
        "## Held-out figures", "",
        f"At step {best['step']}, the one that is kept: loss {best['loss']:.3f}, ROC AUC {best['roc_auc']:.3f}, "
        f"relevant passage above the others of its question {best['paired_accuracy']:.3f}, accuracy at LD = 0 "
        f"{best['accuracy']:.3f}; yes or no has {best['answered']:.0%} of the probability.", "",
    ]  # fmt: skip
    if evaluations[1]:
        precision = content["config"]["dtype"]
        lines += [
            "## Data it was not trained on", "",
            f"Base → tuned [95 % interval over queries], judged in {'bfloat16' if precision == 'auto' else precision}. "
            "Paired accuracy: the relevant document's LD above the "
            "other's. Accuracy: yes if LD > 0. Consistency: swapping the documents swaps the verdict.", "",
            "| data | prompt | negatives | pairs | ROC AUC | paired accuracy | accuracy | consistency |",
            "| --- " * 8 + "|",
            *("| " + " | ".join(row) + " |" for row in evaluation_table(*evaluations, intervals_before=True)), "",
        ]  # fmt: skip
    versions = ", ".join(f"{package} {version}" for package, version in content["versions"].items() if version)
    lines += [
        "## How it was made", "",
        f"{versions}; {hardware.get('accelerator', hardware['processor'])}; {content['created']}. All settings: "
        f"`{CARD_NAME}`.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _git_description() -> str | None:
    """What git calls the code that ran, where it runs from a checkout."""
    # An installed package may lie in somebody else's repository, which does not hold this file.
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return _git("describe", "--always", "--dirty", "--tags")


def _git(*command: str) -> str | None:
    here = Path(__file__).parent
    try:
        done = subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
