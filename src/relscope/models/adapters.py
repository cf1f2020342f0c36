"""What does a PEFT adapter make of a model: merged into its weights, or into a second model beside it?

`merged_beside` costs the memory of the changed tensors only: the second model is another tree of modules over the
same tensors, and has its own of each tensor that the adapter changes.
"""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from relscope.models.sources import ADAPTER_WEIGHTS, adapter_location, ask_hub, source_errors


def merged(model: Any, adapter: str) -> Any:
    """A model with an adapter in its weights; the model that is given is used up.

    Raises:
        InputError: there is no such adapter, or it belongs to another model.
    """
    location = adapter_location(adapter)
    with source_errors(adapter, "adapter"):
        return put_on(model, location).merge_and_unload(safe_merge=True)


def merged_beside(model: Any, adapter: str) -> Any:
    """A second model with an adapter in its weights; `model` stays as it is, and shares all that is equal in both.

    Raises:
        InputError: as for `merged`.
    """
    location = adapter_location(adapter)
    beside = _sharing_copy(model)
    own = _OwnParameters(beside)
    with source_errors(adapter, "adapter"):
        # An adapter may bring biases or embeddings of its own, which peft copies into the parameters that it finds.
        brought = _whole_tensors(location)
        own.take(p for name, p in beside.named_parameters(remove_duplicate=False) if name in brought)
        tuned = put_on(beside, location)
        own.take(p for module in tuned.modules() if hasattr(module, "base_layer") for p in module.parameters())
        whole = tuned.merge_and_unload(safe_merge=True)
    own.give_back_unchanged()
    return whole


def put_on(model: Any, location: str, **options: Any) -> Any:
    """peft's model around `model`, with the adapter's weights; `options` are those of peft.

    Raises:
        RuntimeWarning: the adapter lacks some of its weights.
    """
    from peft import PeftModel

    _weights_file(location)
    with warnings.catch_warnings():
        # peft leaves out what is missing, with a warning.
        warnings.filterwarnings("error", message="Found missing adapter keys")
        warnings.filterwarnings("ignore", category=FutureWarning)  # of what peft calls in transformers
        return PeftModel.from_pretrained(model, location, **options)


def _weights_file(location: str) -> Path:
    """The adapter's safetensors; without them on a hub, peft would fall back to a pickle."""
    if Path(location).exists():
        return Path(location) / ADAPTER_WEIGHTS
    from huggingface_hub import hf_hub_download

    ask_hub(location, ADAPTER_WEIGHTS, None, "adapter")
    return Path(hf_hub_download(location, ADAPTER_WEIGHTS))


def _whole_tensors(location: str) -> set[str]:
    """Names, as the base has them, of the tensors in an adapter's file (those of its low-rank weights too)."""
    from safetensors import safe_open

    with safe_open(_weights_file(location), framework="pt") as file:
        names = [str(name) for name in file.keys()]  # noqa: SIM118 (it is no dictionary)
    return {name.removeprefix("base_model.model.").replace(".base_layer.", ".") for name in names}


def _sharing_copy(model: nn.Module) -> Any:
    """Another tree of modules over the same parameters and buffers."""
    shared = {id(tensor): tensor for tensor in itertools.chain(model.parameters(), model.buffers())}
    return copy.deepcopy(model, shared)


class _OwnParameters:
    """Gives a model its own copies of parameters that it shares with another one."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._shared_of: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # by the id of the model's own

    def take(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace shared parameters by copies wherever they are used, so that tied ones stay tied."""
        copies: dict[int, nn.Parameter] = {}
        for shared in list(parameters):
            if id(shared) not in self._shared_of and id(shared) not in copies:
                own = nn.Parameter(shared.detach().clone(), requires_grad=False)
                copies[id(shared)] = own
                self._shared_of[id(own)] = (own, shared)
        self._replace(copies)

    def give_back_unchanged(self) -> None:
        """Share again what turned out to have the same values."""
        self._replace({number: old for number, (own, old) in self._shared_of.items() if torch.equal(own, old)})

    def _replace(self, replacements: dict[int, nn.Parameter]) -> None:
        for module in self._model.modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) in replacements:
                    module._parameters[name] = replacements[id(parameter)]
