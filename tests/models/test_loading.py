"""From a folder to a judge: what loads, what is refused and how, and when two models count as the same."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from families import as_judge, draw_weights, from_config, tiny_model
from relscope.errors import InputError
from relscope.models import load_judge
from relscope.models.loading import fingerprint, load_tokenizer, parse_device, parse_dtype

ANSWERS = (5, 6)
IDS = list(range(20, 60))


def test_a_folder_loads_with_its_weights_and_identity(llama_folder: Path, llama: Any) -> None:
    judge = load_judge(llama_folder, device="cpu")
    assert judge.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in judge.model.parameters())
    assert not judge.model.training
    identity = judge.identity
    assert (identity.name, identity.kind, identity.model_type) == (str(llama_folder), "folder", "llama")
    assert (identity.revision, identity.adapter, identity.dtype) == (None, None, "float32")
    # The same numbers go through the same operations.
    assert judge.logit_diff([IDS], [ANSWERS]).equal(as_judge(llama).logit_diff([IDS], [ANSWERS]))
    assert judge.tokenizer.is_fast
    assert judge.tokenizer.chat_template


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_low_precision_loads_and_judges(llama_folder: Path, llama: Any, dtype: str) -> None:
    judge = load_judge(llama_folder, dtype=dtype, device="cpu")
    assert judge.dtype == getattr(torch, dtype)
    assert judge.identity.dtype == dtype
    wanted = as_judge(llama).logit_diff([IDS], [ANSWERS])
    found = judge.logit_diff([IDS], [ANSWERS])
    assert found.dtype == torch.float32
    # 8 bits of mantissa over four layers, LD of order 1
    assert found.item() == pytest.approx(wanted.item(), abs=0.2)
    assert found.item() != wanted.item()


def test_dtype_auto_is_float32_whatever_the_file_holds(edited: Callable[..., Path]) -> None:
    assert load_judge(edited(dtype="bfloat16"), device="cpu").dtype == torch.float32
    assert parse_dtype("auto") == "float32"


def test_a_dtype_that_does_not_exist_is_refused_with_the_choices(llama_folder: Path) -> None:
    with pytest.raises(InputError, match=r"'int4'.*auto, float32, bfloat16-weights, bfloat16, float16"):
        load_judge(llama_folder, dtype="int4")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", "hpu", ""])
def test_a_device_that_cannot_be_used_is_refused(device: str) -> None:
    with pytest.raises(InputError, match=rf"device '{device}' cannot be used here: .*'auto' or 'cpu' always can"):
        parse_device(device)


def test_device_auto_is_a_device_that_computes() -> None:
    assert torch.ones(2, device=parse_device("auto")).sum().item() == 2


@pytest.mark.parametrize("name", ["./missing", "/missing/model", "~/model", "a/b/c"])
def test_a_missing_folder_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        load_judge(name)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no config\.json"):
        load_judge(tmp_path)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.txt"
    file.write_text("a model")
    with pytest.raises(InputError, match=r"is a file; a model is a folder, a \.gguf file, or a hub id"):
        load_judge(file)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickled_weights_are_refused_and_never_opened(edited: Callable[..., Path], name: str) -> None:
    folder = edited(without=("model.safetensors",))
    marker = folder / "was-run"

    class Payload:
        def __reduce__(self) -> Any:
            return Path.touch, (marker,)

    (folder / name).write_bytes(pickle.dumps(Payload()))
    with pytest.raises(InputError, match=r"no \*\.safetensors; other weight formats can run code"):
        load_judge(folder)
    assert not marker.exists()


def test_damaged_weights_are_refused(edited: Callable[..., Path]) -> None:
    folder = edited()
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=f"model '{folder}' cannot be loaded"):
        load_judge(folder)


def test_a_damaged_config_is_refused(edited: Callable[..., Path]) -> None:
    folder = edited()
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=f"model '{folder}' cannot be loaded"):
        load_judge(folder)


def test_weights_of_another_size_are_refused(edited: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="its weights have other sizes than its config says"):
        load_judge(edited(intermediate_size=64))


def test_a_model_that_is_no_causal_language_model_is_refused(edited: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"cannot be loaded: it is no causal language model \(T5Config\)"):
        load_judge(edited(model_type="t5"))


def test_a_model_type_that_transformers_does_not_know_is_refused(edited: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match=r"cannot be loaded.*nonesuch"):
        load_judge(edited(model_type="nonesuch"))


def test_a_folder_without_a_tokenizer_is_refused(edited: Callable[..., Path]) -> None:
    folder = edited(without=("tokenizer.json", "tokenizer_config.json"))
    with pytest.raises(InputError, match=f"model '{folder}'"):
        load_judge(folder)


def test_a_slow_tokenizer_is_refused(edited: Callable[..., Path]) -> None:
    folder = edited(without=("tokenizer.json",))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CanineTokenizer"}))
    with pytest.raises(InputError, match="no fast tokenizer; exact spans need character offsets"):
        load_judge(folder)


CODE = """
import pathlib, transformers
pathlib.Path({marker!r}).touch()
class OwnConfig(transformers.LlamaConfig):
    model_type = "own"
class OwnModel(transformers.LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_a_models_own_code_runs_only_when_asked_for(
    edited: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = edited(model_type="own", auto_map={"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"})
    marker = tmp_path / "was-run"
    (folder / "own.py").write_text(CODE.format(marker=str(marker)))
    with pytest.raises(InputError, match="its own code, which runs only with --trust-remote-code"):
        load_judge(folder)
    assert not marker.exists()
    judge = load_judge(folder, trust_remote_code=True, device="cpu")
    assert marker.exists()
    assert (judge.identity.model_type, judge.known_type) == ("own", False)


def test_equal_weights_have_equal_fingerprints(llama_folder: Path, llama: Any) -> None:
    first, again = load_judge(llama_folder, device="cpu").identity, load_judge(llama_folder, device="cpu").identity
    assert first == again
    assert first.fingerprint == fingerprint(llama)


def test_one_training_step_changes_the_fingerprint(llama: Any) -> None:
    model = from_config(llama.config)
    before = fingerprint(model)
    model.requires_grad_(True)
    ids = torch.tensor([IDS])
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD(model.parameters(), lr=1e-4).step()
    assert fingerprint(model) != before


def test_a_change_of_one_matrix_changes_the_fingerprint(llama: Any) -> None:
    model = from_config(llama.config)
    before = fingerprint(model)
    with torch.no_grad():
        model.model.layers[2].self_attn.q_proj.weight += 1e-4
    assert fingerprint(model) != before
    draw_weights(torch.nn.ModuleList([model]))
    assert fingerprint(model) != before


def test_names_and_shapes_are_part_of_the_fingerprint() -> None:
    weight = torch.arange(6.0)
    holders = []
    for name, shape in (("a", (2, 3)), ("a", (3, 2)), ("b", (2, 3))):
        holder = torch.nn.Module()
        holder.register_parameter(name, torch.nn.Parameter(weight.reshape(shape)))
        holders.append(fingerprint(holder))
    assert len(set(holders)) == 3


@pytest.mark.parametrize("rows", [slice(0, 20), slice(500, 520), slice(-20, None)], ids=["first", "middle", "last"])
def test_fingerprints_sample_large_weights_evenly(rows: slice) -> None:
    large = torch.nn.Linear(1000, 1000, bias=False)
    before = fingerprint(large)
    with torch.no_grad():
        large.weight[rows] += 1
    assert fingerprint(large) != before


def test_the_tokenizer_loads_without_the_weights(llama_folder: Path, edited: Callable[..., Path]) -> None:
    ids = load_judge(llama_folder, device="cpu").tokenizer("The cat sat")["input_ids"]
    folder = edited()
    (folder / "model.safetensors").write_bytes(b"")
    assert load_tokenizer(folder)("The cat sat")["input_ids"] == ids


def test_a_tokenizer_of_a_missing_folder_is_refused() -> None:
    with pytest.raises(InputError, match="there is no such folder"):
        load_tokenizer("./missing")


def test_a_model_that_lacks_weights_is_refused(edited: Callable[..., Path]) -> None:
    # transformers would draw them at random.
    folder = edited()
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"], weights["model.layers.2.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"lacks 2 of the weights .* such as model\.layers\.1\.mlp\.up_proj\.weight"):
        load_judge(folder, device="cpu")


def test_a_tied_unembedding_is_not_missing(tmp_path: Path, tiny_tokenizer: Any) -> None:
    model = tiny_model("qwen2", len(tiny_tokenizer))
    model.save_pretrained(tmp_path)
    tiny_tokenizer.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    judge = load_judge(tmp_path, device="cpu")
    assert judge.logit_diff([IDS], [ANSWERS]).equal(as_judge(model).logit_diff([IDS], [ANSWERS]))


def test_another_rotary_base_in_the_config_changes_the_fingerprint(llama: Any) -> None:
    model = copy.deepcopy(llama)
    before = fingerprint(model)
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": 5.0}
    assert fingerprint(model) != before
    model.config.rope_parameters = llama.config.rope_parameters
    model.config._name_or_path = "elsewhere"
    assert fingerprint(model) == before
