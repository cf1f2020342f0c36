"""A model whose layers lie on several devices: every product finds its operands on one of them.

The second device is torch's `meta`, which holds no numbers: it refuses operands of another device as a GPU would, and
whatever asks it for a number (which would make a GPU wait). So this shows where things are computed, and that nothing
in the loop waits; the numbers are those of one device, which other tests compare.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from transformers.pytorch_utils import Conv1D

from families import FAMILIES, N_HEADS, N_LAYERS, as_judge, tiny_model
from relscope.interventions.placing import PlacedPatch
from relscope.interventions.sites import Site
from relscope.interventions.wavefront import Job, sweep
from relscope.models import JudgeModel, Replacement, recording
from relscope.models.recording import Recorder, record

V = 120
PROMPTS = [[*range(3, 23), *range(first, first + 20)] for first in (23, 43)]


def spread(model: Any) -> Any:
    """The model with its upper half on the second device, with the hooks that accelerate gives it."""
    judge = as_judge(model)
    lower = len(judge.layers) // 2
    places = {id(layer.module): "cpu" if layer.index < lower else "meta" for layer in judge.layers}
    places |= {id(judge.final_norm): "meta", id(judge.unembedding): "meta"}
    for module in list(model.modules()):
        if (device := places.get(id(module))) is not None:
            for part in module.to(device).modules():
                add_hook_to_module(part, AlignDevicesHook(execution_device=device, skip_keys="past_key_values"))
    return model


@pytest.fixture(params=[f for f in FAMILIES if f not in ("gemma3", "qwen2")])  # no images; and no tied embeddings
def judge(request: pytest.FixtureRequest) -> JudgeModel:
    config = {"tie_word_embeddings": False} if request.param in ("gemma2", "gemma3_text", "gpt2") else {}
    model = tiny_model(request.param, V)
    if config:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone(), requires_grad=False)
    return as_judge(spread(model))


def patches(judge: JudgeModel) -> list[PlacedPatch]:
    at, src = tuple(range(20, 30)), tuple(range(5, 20))
    of_heads = {"z": N_HEADS, "q": N_HEADS, "k_view": N_HEADS, "k": judge.shape.n_kv_heads, "v": judge.shape.n_kv_heads}
    singles = [
        Replacement(component, layer, head, at)
        for component, n_heads in of_heads.items()
        for layer in range(N_LAYERS)
        for head in range(n_heads)
    ]
    singles += [
        Replacement(component, layer, None, at)
        for component in ("resid_pre", "attn_out", "mlp_out", "resid_post")
        for layer in range(N_LAYERS)
    ]
    singles += [
        Replacement(component, layer, 1, at, src)
        for component in ("scores", "pattern", "pattern_renormalised")
        for layer in range(N_LAYERS)
    ]
    joint = [(one, Replacement("z", N_LAYERS - 1, 0, at)) for one in singles[::7]]
    named = Site("mlp_out", 0, "document")  # placed by hand, so that the name does not matter
    return [PlacedPatch(named, of) for of in [*((one,) for one in singles), *joint]]


@pytest.mark.parametrize("precision", ["exact", "delta"])
def test_layers_of_two_devices(judge: JudgeModel, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whether weights have changed is asked by looking at some of them, which meta has not.
    monkeypatch.setattr(
        recording, "low_weights", lambda m: (m.weight if isinstance(m, Conv1D) else m.weight.T).to(torch.bfloat16)
    )
    base, source = record(judge, PROMPTS, Recorder(), with_products=precision == "delta")
    for component in ("resid_pre", "attn_out", "mlp_out", "resid_post", "z", "q", "k", "v"):
        devices = [values.device.type for values in getattr(base, component)]
        assert devices == ["cpu"] * 2 + ["meta"] * 2, component
    placed = patches(judge)
    (values,) = sweep(judge, [Job(base, source, placed, lambda resid: judge.answer_logits(resid, (5, 6))[:, 0])])
    assert values.shape == (len(placed),)
    assert values.device.type == "meta"
