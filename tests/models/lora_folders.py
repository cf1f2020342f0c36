"""Adapters with random weights in folders, as training leaves them, and models beside their tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import torch

from families import from_config


def write_base(folder: Path, model: Any, tokenizer: Any) -> Path:
    """A whole model in a folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_lora(folder: Path, base: Any, base_name: str, **settings: Any) -> Path:
    """An adapter on the config of a tiny model that moves its verdict; `settings` are those of `LoraConfig`."""
    model = from_config(base.config)
    model.config._name_or_path = model.name_or_path = base_name
    config = peft.LoraConfig(r=2, lora_alpha=8, task_type="CAUSAL_LM", **settings)
    with torch.random.fork_rng():  # peft draws A from the generator that all tests share
        torch.manual_seed(0)
        tuned = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in tuned.named_parameters():
            if parameter.requires_grad:  # B starts at zero, where an adapter does nothing
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    tuned.save_pretrained(folder)
    return folder
