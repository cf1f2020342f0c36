"""PEFT adapters, merged into the base they belong to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_gguf import write_gguf

from families import from_config
from relscope.errors import InputError
from relscope.models import check_contract, load_judge

ANSWERS = (5, 6)
IDS = list(range(20, 60))


@pytest.fixture(scope="module")
def adapter(llama: Any, llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA that changes the verdict, on attention and MLP of the tiny Llama."""
    base = from_config(llama.config)
    base.config._name_or_path = base.name_or_path = str(llama_folder)
    config = peft.LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "o_proj", "down_proj"], task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(base, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:  # B starts at zero, where an adapter does nothing
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    tuned.save_pretrained(folder)
    return Path(folder)


@pytest.fixture
def edited_adapter(adapter: Path, tmp_path: Path) -> Callable[..., Path]:
    def copy(**config: Any) -> Path:
        folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
        file = folder / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        return folder

    return copy


@pytest.fixture(scope="module")
def by_peft(llama: Any, adapter: Path) -> float:
    """LD as peft itself computes it, adapter beside the weights."""
    model = peft.PeftModel.from_pretrained(from_config(llama.config), adapter).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([IDS])).logits[0, -1]
    return float(logits[ANSWERS[0]] - logits[ANSWERS[1]])


def test_an_adapter_on_a_folder_judges_as_peft_does(llama_folder: Path, adapter: Path, by_peft: float) -> None:
    base = load_judge(llama_folder, device="cpu")
    judge = load_judge(llama_folder, adapter=adapter, device="cpu")
    # Merged weights are rounded once more; LD is of order 1.
    assert judge.logit_diff([IDS], [ANSWERS]).item() == pytest.approx(by_peft, abs=1e-4)
    assert abs(by_peft - base.logit_diff([IDS], [ANSWERS]).item()) > 0.1
    assert (judge.identity.name, judge.identity.adapter) == (str(llama_folder), str(adapter))
    assert judge.identity.fingerprint != base.identity.fingerprint
    assert judge.identity.model_type == "llama"
    assert not any("lora" in name for name, _ in judge.model.named_modules())
    assert check_contract(judge).restartable


def test_an_adapter_that_names_its_base_stands_for_both(llama_folder: Path, adapter: Path) -> None:
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(llama_folder)
    judge = load_judge(adapter, device="cpu")
    assert judge.identity == load_judge(llama_folder, adapter=adapter, device="cpu").identity


def test_an_adapter_goes_on_a_gguf_file(
    adapter: Path, by_peft: float, tmp_path: Path, llama: Any, tiny_tokenizer: Any
) -> None:
    file = write_gguf(tmp_path / "tiny.gguf", llama, tiny_tokenizer)
    judge = load_judge(file, adapter=adapter, device="cpu")
    assert judge.logit_diff([IDS], [ANSWERS]).item() == pytest.approx(by_peft, abs=1e-4)


def test_an_adapter_with_pickled_weights_is_refused(llama_folder: Path, edited_adapter: Callable[..., Path]) -> None:
    folder = edited_adapter()
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    for options in ({"source": llama_folder, "adapter": folder}, {"source": folder}):
        with pytest.raises(InputError, match=r"no adapter_model\.safetensors; other formats are not read"):
            load_judge(**options, device="cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("base", [None, ""])
def test_an_adapter_that_names_no_base_is_refused_as_a_model(
    edited_adapter: Callable[..., Path], base: str | None
) -> None:
    with pytest.raises(InputError, match="'base_model_name_or_path' is missing; give the base as model"):
        load_judge(edited_adapter(base_model_name_or_path=base))


@pytest.mark.parametrize("text", ["{", "[]", "\udcff"])
def test_an_adapter_with_a_damaged_config_is_refused(edited_adapter: Callable[..., Path], text: str) -> None:
    folder = edited_adapter()
    (folder / "adapter_config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        load_judge(folder)


def test_an_adapter_whose_base_is_gone_is_refused(edited_adapter: Callable[..., Path]) -> None:
    with pytest.raises(InputError, match="model '/gone/base': there is no such folder"):
        load_judge(edited_adapter(base_model_name_or_path="/gone/base"))


def test_a_missing_adapter_is_refused(llama_folder: Path) -> None:
    with pytest.raises(InputError, match=r"adapter '\./missing': there is no such folder"):
        load_judge(llama_folder, adapter="./missing", device="cpu")


def test_an_adapter_for_another_model_is_refused(edited_adapter: Callable[..., Path], llama_folder: Path) -> None:
    folder = edited_adapter(target_modules=["c_attn"])
    with pytest.raises(InputError, match=f"adapter '{folder}' cannot be loaded"):
        load_judge(llama_folder, adapter=folder, device="cpu")


def test_an_adapter_that_lacks_weights_is_refused(edited_adapter: Callable[..., Path], llama_folder: Path) -> None:
    folder = edited_adapter()
    weights = load_file(folder / "adapter_model.safetensors")
    save_file(dict(list(weights.items())[:-2]), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"adapter '{folder}' cannot be loaded: Found missing adapter keys"):
        load_judge(llama_folder, adapter=folder, device="cpu")


def test_an_adapter_on_an_adapter_is_refused(adapter: Path) -> None:
    with pytest.raises(InputError, match="is itself an adapter; give its base as the model"):
        load_judge(adapter, adapter=adapter)


def test_a_folder_with_a_model_and_an_adapter_is_refused(edited: Callable[..., Path], adapter: Path) -> None:
    # transformers would put the adapter on in silence.
    folder = edited()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, folder / name)
    with pytest.raises(InputError, match="both a whole model and an adapter"):
        load_judge(folder)


def test_an_adapter_folder_may_hold_the_config_of_its_base(
    edited_adapter: Callable[..., Path], llama_folder: Path, by_peft: float
) -> None:
    folder = edited_adapter()
    shutil.copy(llama_folder / "config.json", folder / "config.json")
    judge = load_judge(folder, device="cpu")
    assert judge.identity.adapter == str(folder)
    assert judge.logit_diff([IDS], [ANSWERS]).item() == pytest.approx(by_peft, abs=1e-4)
