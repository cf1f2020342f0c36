"""Models whose weights are stored in a few bits: they are loaded, restarted, and patched. Needs bitsandbytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from example_pairs import aligned
from families import N_HEADS, N_LAYERS, from_config
from relscope.errors import InputError
from relscope.interventions import all_sites, patch_pair
from relscope.models import load_judge
from relscope.models.contract import is_quantised
from relscope.models.loading import parse_device


@pytest.fixture(scope="module")
def folder(tiny_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("bitsandbytes")
    config = transformers.LlamaConfig(
        vocab_size=len(tiny_tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS, num_key_value_heads=2, max_position_embeddings=512,
    )  # fmt: skip
    whole = tmp_path_factory.mktemp("whole")
    from_config(config).save_pretrained(whole)
    four_bits = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = transformers.AutoModelForCausalLM.from_pretrained(whole, quantization_config=four_bits, device_map="cpu")
    small = tmp_path_factory.mktemp("four-bits")
    model.save_pretrained(small)
    tiny_tokenizer.save_pretrained(small)
    return small


def test_a_model_in_four_bits_is_patched_as_its_full_passes_are(folder: Path, tiny_tokenizer: Any) -> None:
    judge = load_judge(folder, device="cpu")
    assert is_quantised(judge.model)
    assert judge.contract.restartable
    pair = aligned(tiny_tokenizer)
    sites = all_sites(["z", "mlp_out"], ["query", "last"], N_LAYERS, N_HEADS)
    quick, slow = (patch_pair(judge, pair, sites, restart=restart) for restart in (True, False))
    effects = slow.ld_patched - slow.ld_corrupted
    # Its kernels round differently for one row and for many, by some tenths of a percent of LD.
    assert float((quick.ld_patched - slow.ld_patched).abs().max()) <= 0.02 * float(effects.abs().max())


def test_matrices_of_integers_are_told_from_tables_of_them() -> None:
    plain = torch.nn.Linear(4, 4)
    plain.register_buffer("positions", torch.arange(3))
    assert not is_quantised(plain)
    plain.register_buffer("qweight", torch.zeros(4, 1, dtype=torch.int32))
    assert is_quantised(plain)


def test_layers_are_spread_over_several_accelerators_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    with pytest.raises(InputError, match="device 'spread' needs two accelerators at least"):
        parse_device("spread")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    assert parse_device("spread") is None
