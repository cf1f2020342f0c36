"""A base and its adapter loaded as two judges over one set of weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_folders import write_base, write_lora
from safetensors.torch import load_file, save_file

from families import tiny_model
from relscope.errors import InputError
from relscope.models import JudgeModel, load_judge, load_judges

ANSWERS = (5, 6)
IDS = list(range(20, 60))
TARGETS = ["q_proj", "o_proj", "down_proj"]


def verdict(judge: JudgeModel) -> float:
    return judge.logit_diff([IDS], [ANSWERS]).item()


def tensors(judge: JudgeModel) -> dict[str, torch.Tensor]:
    return dict(judge.model.state_dict())


def shared_names(first: JudgeModel, second: JudgeModel) -> set[str]:
    others = tensors(second)
    return {name for name, tensor in tensors(first).items() if tensor.data_ptr() == others[name].data_ptr()}


def assert_equal_tensors(judge: JudgeModel, other: JudgeModel) -> None:
    found, wanted = tensors(judge), tensors(other)
    assert set(found) == set(wanted)
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []


@pytest.fixture(scope="module")
def adapter(llama: Any, llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    return write_lora(folder, llama, str(llama_folder), target_modules=TARGETS)


@pytest.fixture
def n_reads(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How often weights were read."""
    from transformers import AutoModelForCausalLM

    real, calls = AutoModelForCausalLM.from_pretrained, []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return real(*args, **options)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", counted)
    return lambda: len(calls)


def test_base_and_tuned_are_bit_for_bit_what_loading_each_alone_gives(llama_folder: Path, adapter: Path) -> None:
    base, tuned = load_judges(llama_folder, adapter=adapter, device="cpu")
    base_alone, tuned_alone = load_judge(llama_folder, device="cpu"), load_judge(llama_folder, adapter=adapter)
    assert_equal_tensors(base, base_alone)
    assert_equal_tensors(tuned, tuned_alone)
    assert (base.identity, tuned.identity) == (base_alone.identity, tuned_alone.identity)
    assert (verdict(base), verdict(tuned)) == (verdict(base_alone), verdict(tuned_alone))
    assert abs(verdict(tuned) - verdict(base)) > 0.05
    assert not any(parameter.requires_grad for parameter in tuned.model.parameters())
    assert not any("lora" in name for name, _ in tuned.model.named_modules())


def test_only_the_weights_that_the_adapter_changes_are_held_twice(
    llama_folder: Path, adapter: Path, n_reads: Callable[[], int]
) -> None:
    base, tuned = load_judges(llama_folder, adapter=adapter, device="cpu")
    assert n_reads() == 1
    own = set(tensors(base)) - shared_names(base, tuned)
    assert own == {name for name in tensors(base) if any(f".{target}.weight" in name for target in TARGETS)}
    assert base.model is not tuned.model
    assert base.tokenizer is tuned.tokenizer


def test_an_adapter_folder_that_names_the_base_is_read_on_it(
    llama_folder: Path, adapter: Path, n_reads: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The base under another spelling of its path.
    monkeypatch.chdir(llama_folder.parent)
    base, tuned = load_judges(f"./{llama_folder.name}/", adapter, device="cpu")
    assert n_reads() == 1
    assert shared_names(base, tuned)
    assert base.identity.name == f"./{llama_folder.name}/"
    assert tuned.identity == load_judge(adapter, device="cpu").identity


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"], "bias": "all"},
        {"target_modules": ["q_proj"], "bias": "lora_only"},
        {"target_modules": ["v_proj"], "modules_to_save": ["norm", "input_layernorm"]},
        {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens", "o_proj"]},
        {"target_modules": ["o_proj"], "use_dora": True},
    ],
    ids=["all biases", "biases of its layers", "norms", "unembedding", "tied embedding", "DoRA"],
)
def test_whatever_an_adapter_brings_the_base_stays_as_it_is(
    settings: dict[str, Any], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    # Qwen 2 has biases and a tied embedding.
    model = tiny_model("qwen2", len(tiny_tokenizer))
    folder = write_base(tmp_path / "qwen2", model, tiny_tokenizer)
    adapter = write_lora(tmp_path / "lora", model, str(folder), **settings)
    # Where the adapter brings a whole embedding, it is another one than the base's.
    file = adapter / "adapter_model.safetensors"
    brought = {name: tensor + 0.01 * ("embed_tokens.base_layer" in name) for name, tensor in load_file(file).items()}
    save_file(brought, file, metadata={"format": "pt"})
    base, tuned = load_judges(folder, adapter, device="cpu")
    assert_equal_tensors(base, load_judge(folder, device="cpu"))
    alone = load_judge(folder, adapter=adapter, device="cpu")
    assert_equal_tensors(tuned, alone)
    assert verdict(tuned) == verdict(alone)
    assert abs(verdict(tuned) - verdict(base)) > 0.01
    equal = {name for name, tensor in tensors(base).items() if torch.equal(tensor, tensors(tuned)[name])}
    assert shared_names(base, tuned) == equal


def test_the_two_judges_do_not_disturb_each_other(llama_folder: Path, adapter: Path) -> None:
    base, tuned = load_judges(llama_folder, adapter=adapter, device="cpu")
    before = verdict(base), verdict(tuned)
    run = base.record(IDS)
    other = tuned.record(IDS)
    # The model restarts from its own record, while the other's exists too.
    for judge, own in ((base, run), (tuned, other)):
        again = judge.recompute_layer(2, own.resid_pre[2, None, 10:], own)
        # The same numbers in another batch: rounding of residuals of order 1.
        torch.testing.assert_close(again[0], own.resid_post[2, 10:], atol=1e-4, rtol=1e-4)
    assert (verdict(base), verdict(tuned)) == before
    assert not torch.equal(run.z[-1], other.z[-1])


def test_an_adapter_on_another_base_is_loaded_by_itself(
    llama_folder: Path, other_llama: Any, tiny_tokenizer: Any, tmp_path: Path, n_reads: Callable[[], int]
) -> None:
    other = write_base(tmp_path / "other", other_llama, tiny_tokenizer)
    adapter = write_lora(tmp_path / "lora", other_llama, str(other), target_modules=TARGETS)
    base, tuned = load_judges(llama_folder, adapter, device="cpu")
    assert n_reads() == 2
    assert shared_names(base, tuned) == set()
    assert tuned.identity == load_judge(adapter, device="cpu").identity


def test_two_whole_models_are_loaded_one_after_the_other(
    llama_folder: Path, other_llama: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    other = write_base(tmp_path / "other", other_llama, tiny_tokenizer)
    base, tuned = load_judges(llama_folder, other, device="cpu", dtype="bfloat16")
    assert (base.identity.name, tuned.identity.name) == (str(llama_folder), str(other))
    assert base.dtype == tuned.dtype == torch.bfloat16
    assert base.identity.fingerprint != tuned.identity.fingerprint


def test_neither_or_both_of_tuned_and_adapter_is_refused(llama_folder: Path, adapter: Path) -> None:
    with pytest.raises(InputError, match="either a tuned model or an adapter"):
        load_judges(llama_folder)
    with pytest.raises(InputError, match="either a tuned model or an adapter"):
        load_judges(llama_folder, adapter, adapter=adapter)


def test_an_adapter_that_is_gone_is_refused_before_weights_are_read(
    llama_folder: Path, n_reads: Callable[[], int]
) -> None:
    with pytest.raises(InputError, match=r"adapter '\./gone': there is no such folder"):
        load_judges(llama_folder, adapter="./gone", device="cpu")
    assert n_reads() == 0
    with pytest.raises(InputError, match=r"model '\./gone': there is no such folder"):
        load_judges(llama_folder, "./gone", device="cpu")
    assert n_reads() == 0
