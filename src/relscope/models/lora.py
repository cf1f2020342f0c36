"""Low-rank weights on a judge (LoRA), to be trained and saved as a PEFT adapter.

A linear layer W gets W + (alpha / rank) B A, with B = 0 at the start, so that the judge begins as it was. The small
matrices are in the judge's number format, since mixed formats cost a cast of every activation; whoever trains them
keeps float32 copies.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from relscope.errors import InputError
from relscope.models.adapters import put_on
from relscope.models.judge import JudgeModel
from relscope.models.sources import adapter_location, source_errors

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class LoraSettings:
    """Size and place of the low-rank weights.

    `target_modules` are names of linear layers ("q_proj"), or "all-linear": every one but the unembedding.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    target_modules: tuple[str, ...] = (ALL_LINEAR,)


class TunableJudge:
    """A judge with low-rank weights that can be trained; the judge itself then answers with them.

    Args:
        judge: is changed in place.
        settings: of the low-rank weights.
        adapter: begin with this adapter's weights, which decide size and place; only the settings' dropout counts then.

    Raises:
        InputError: a target module does not exist, or cannot have low-rank weights; the adapter cannot be used.
    """

    def __init__(self, judge: JudgeModel, settings: LoraSettings, adapter: str | None = None) -> None:
        self.judge = judge
        self._peft: Any = self._new(settings) if adapter is None else self._continued(settings, adapter)

    def _continued(self, settings: LoraSettings, adapter: str) -> Any:
        from peft import LoraConfig

        location = adapter_location(adapter)
        with source_errors(adapter, "adapter"):
            config = LoraConfig.from_pretrained(location)
            config.lora_dropout = settings.dropout
            return put_on(self.judge.model, location, config=config, is_trainable=True, autocast_adapter_dtype=False)

    def _new(self, settings: LoraSettings) -> Any:
        from peft import LoraConfig, get_peft_model

        judge = self.judge
        targets: Any = list(settings.target_modules)
        if targets != [ALL_LINEAR]:
            _require_modules(targets, judge)
        text = {id(module) for module in judge.decoder.modules()}
        elsewhere = [name for name, m in judge.model.named_modules() if _is_linear(m) and id(m) not in text]
        config = LoraConfig(
            exclude_modules=elsewhere or None,  # of an image encoder, say, which no prompt goes through
            r=settings.rank,
            lora_alpha=settings.alpha,
            lora_dropout=settings.dropout,
            target_modules=ALL_LINEAR if targets == [ALL_LINEAR] else targets,
            task_type="CAUSAL_LM",
        )
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", category=FutureWarning)  # of what peft calls in transformers
                return get_peft_model(judge.model, config, autocast_adapter_dtype=False)
        except ValueError as failure:
            raise InputError(f"target_modules: {' '.join(str(failure).split())}") from failure

    @property
    def weights(self) -> list[nn.Parameter]:
        """The low-rank weights, in a fixed order."""
        return [p for _, p in sorted(self._peft.named_parameters()) if p.requires_grad]

    def readout(
        self, ids: Sequence[Sequence[int]], answer_ids: Sequence[tuple[int, int]], tokens_per_batch: int
    ) -> tuple[Float[Tensor, "prompt"], Float[Tensor, "prompt"]]:
        """LD and log P(yes or no) of prompts, with gradients to the low-rank weights."""
        return self.judge.differentiable_readout(ids, answer_ids, tokens_per_batch)

    @contextlib.contextmanager
    def training(self) -> Iterator[None]:
        """Training mode: dropout is on."""
        self.judge.model.train()
        try:
            yield
        finally:
            self.judge.model.eval()

    def save(self, folder: Path, base: str, revision: str | None) -> None:
        """Write the adapter's config and weights into a folder.

        Args:
            folder: made if absent.
            base: the name under which the judge can be loaded again.
            revision: of the base, where it has one.
        """
        config = self._peft.peft_config["default"]
        config.base_model_name_or_path, config.revision = base, revision
        config.inference_mode = True
        if not isinstance(config.target_modules, str):
            config.target_modules = sorted(config.target_modules)  # a set has no order of its own
        from peft import get_peft_model_state_dict
        from safetensors.torch import save_file

        state = get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
        save_file(tensors, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
        config.save_pretrained(str(folder))


def _require_modules(targets: Sequence[str], judge: JudgeModel) -> None:
    """Refuse names that are no linear layers of the model: peft passes over them while any other name fits."""
    names = sorted({name.rpartition(".")[2] for name, m in judge.decoder.named_modules() if _is_linear(m)})
    if ALL_LINEAR in targets:
        raise InputError(f"target_modules: {ALL_LINEAR} stands alone, not beside other names")
    if missing := [name for name in targets if name not in names]:
        raise InputError(
            f"target_modules: {', '.join(missing)} are not in the model; its linear layers are {', '.join(names)} "
            f"(or {ALL_LINEAR})"
        )


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
