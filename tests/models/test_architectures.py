"""Which layout does a model have, and is it known or recognised?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from families import CONFIGS, FAMILIES, N_HEADS, N_LAYERS, as_judge, from_config, tiny_model
from relscope.errors import InputError
from relscope.models import ARCHITECTURES, check_contract

V = 120
SIZES: dict[str, Any] = {
    "vocab_size": V, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_the_table_is_known_by_its_type(family: str) -> None:
    judge = as_judge(tiny_model(family, V))
    assert judge.known_type
    assert len(judge.layers) == N_LAYERS
    assert all(layer.parallel == ("parallel" in family) for layer in judge.layers)


def test_every_type_of_the_table_has_a_family_in_the_tests() -> None:
    assert {family.split()[0] for family in FAMILIES} == set(ARCHITECTURES)


def test_readme_and_docs_name_and_count_the_families_of_the_table() -> None:
    root = Path(__file__).resolve().parents[2]
    listed = (root / "README.md").read_text("utf-8").partition("## Models\n\n")[2].partition(" (")[0]
    names = {
        "llama": "Llama", "qwen2": "Qwen 2, 2.5", "qwen3": "and 3", "mistral": "Mistral", "gemma2": "Gemma 2",
        "gemma3": "and 3", "phi3": "Phi-3", "olmo2": "OLMo 2", "gpt2": "GPT-2", "gpt_neox": "GPT-NeoX",
    }  # fmt: skip
    families = {name.removesuffix("_text") for name in ARCHITECTURES}  # Gemma 3 has a type with images and one without
    assert families == set(names)
    assert all(name in listed for name in names.values())
    assert len(families) == 10
    assert "on the ten families of models that the [README]" in (root / "docs" / "method.md").read_text("utf-8")


@pytest.mark.parametrize("family", FAMILIES)
def test_sizes_are_those_of_the_config(family: str) -> None:
    model = tiny_model(family, V)
    shape, config = as_judge(model).shape, model.config.get_text_config()
    assert (shape.n_layers, shape.n_heads, shape.d_model, shape.d_vocab) == (N_LAYERS, N_HEADS, 32, V)
    grouped = not family.startswith("gpt")
    assert shape.n_kv_heads == (2 if grouped else N_HEADS)
    assert shape.d_head == (16 if "gemma" in family or family == "qwen3" else 8)
    assert shape.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    assert config.hidden_size == shape.d_model


@pytest.mark.parametrize(
    ("config", "layout"),
    [
        (transformers.SmolLM3Config(**SIZES, num_key_value_heads=2), "llama"),
        (transformers.MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=2), "llama"),
        (transformers.Olmo3Config(**SIZES, num_key_value_heads=2), "olmo2"),
        (transformers.GPTBigCodeConfig(vocab_size=V, n_embd=32, n_layer=4, n_head=4, n_positions=64), "gpt2"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.model_type,
)
def test_a_type_outside_the_table_is_recognised_by_structure(config: Any, layout: str) -> None:
    judge = as_judge(from_config(config))
    assert not judge.known_type
    assert judge.architecture is ARCHITECTURES[layout]
    contract = check_contract(judge)
    assert contract.restartable
    contract.require_patching(config.model_type)


@pytest.mark.parametrize(
    "config",
    [
        transformers.BloomConfig(vocab_size=V, hidden_size=32, n_layer=2, n_head=4),
        transformers.MambaConfig(vocab_size=V, hidden_size=32, num_hidden_layers=2),
        transformers.PhiConfig(**SIZES),
    ],
    ids=lambda config: config.model_type,
)
def test_a_type_that_fits_no_layout_is_refused_with_the_known_types(config: Any) -> None:
    with pytest.raises(InputError, match=f"'{config.model_type}'.*gemma2, .*gpt_neox, llama, .*qwen3"):
        as_judge(from_config(config))


@pytest.mark.parametrize("model_type", ["llama", "hybrid"])
def test_a_layer_of_another_kind_is_refused(model_type: str) -> None:
    # As in models that alternate attention with something else.
    model = tiny_model("llama", V)
    model.config.model_type = model_type
    model.model.layers[2].self_attn = torch.nn.Identity()
    with pytest.raises(InputError, match=f"'{model_type}'"):
        as_judge(model)


def test_a_model_without_layers_is_refused() -> None:
    model = from_config(transformers.LlamaConfig(**{**SIZES, "num_hidden_layers": 0}))
    with pytest.raises(InputError):
        as_judge(model)


def test_the_configs_draw_weights_that_matter() -> None:
    # A family whose weights were all alike, or whose logits hardly differed, would make equality cheap.
    for family in CONFIGS:
        model = tiny_model(family, V)
        logits = model(input_ids=torch.arange(3, 40)[None]).logits[0]
        assert 0.3 < float(logits.std()) < 10, family
        assert all(float(p.std()) > 0.1 for p in model.parameters() if p.numel() > 1), family
