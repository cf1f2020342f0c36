"""The embedded adapter: its name stands for a model wherever a model is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lora_folders import write_lora

from relscope.errors import InputError
from relscope.models import EMBEDDED_ADAPTERS, EMBEDDED_MODELS, load_judge, load_judges, load_tokenizer, sources
from relscope.models.embedded import EmbeddedAdapter
from relscope.models.sources import is_adapter_on, resolve_source

BASE, NAME = "smollm2-135m", "smoljudge"
IDS, ANSWERS = list(range(20, 60)), (5, 6)


@pytest.fixture
def bundled(llama: Any, llama_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An adapter in the place of the embedded one, on a tiny model in the place of the embedded one."""
    folder = write_lora(tmp_path / NAME, llama, BASE, target_modules=["q_proj", "v_proj"])
    monkeypatch.setitem(EMBEDDED_ADAPTERS, NAME, EmbeddedAdapter(BASE, folder))
    monkeypatch.setattr(sources, "embedded_folder", lambda _name: llama_folder)
    return folder


def test_its_base_is_an_embedded_model() -> None:
    assert EMBEDDED_ADAPTERS[NAME].base in EMBEDDED_MODELS
    assert EMBEDDED_ADAPTERS[NAME].folder == Path(sources.__file__).parent / NAME


def test_the_name_is_a_model_and_an_adapter(bundled: Path, llama_folder: Path) -> None:
    judge = load_judge(NAME, device="cpu")
    assert (judge.identity.kind, judge.identity.name, judge.identity.adapter) == ("embedded", BASE, NAME)
    assert judge.identity == load_judge(BASE, adapter=NAME, device="cpu").identity
    by_folder = load_judge(llama_folder, adapter=bundled, device="cpu")
    assert judge.logit_diff([IDS], [ANSWERS]).equal(by_folder.logit_diff([IDS], [ANSWERS]))
    assert judge.identity.fingerprint == by_folder.identity.fingerprint
    assert judge.identity.fingerprint != load_judge(BASE, device="cpu").identity.fingerprint


def test_its_tokenizer_and_its_source_are_those_of_the_base(bundled: Path, llama_folder: Path) -> None:
    assert load_tokenizer(NAME).get_vocab() == load_tokenizer(llama_folder).get_vocab()
    assert resolve_source(NAME) == resolve_source(BASE)
    assert resolve_source(NAME).kind == "embedded"


def test_its_own_folder_leads_to_the_embedded_base_too(bundled: Path) -> None:
    judge = load_judge(bundled, device="cpu")
    assert (judge.identity.kind, judge.identity.name, judge.identity.adapter) == ("embedded", BASE, str(bundled))
    assert is_adapter_on(BASE, bundled)


def test_beside_its_base_the_weights_are_read_once(bundled: Path) -> None:
    base, tuned = load_judges(BASE, NAME, device="cpu")
    shared = base.decoder.get_submodule("layers.0.mlp.up_proj"), tuned.decoder.get_submodule("layers.0.mlp.up_proj")
    assert shared[0] is not shared[1]
    assert shared[0].weight is shared[1].weight
    assert tuned.identity == load_judge(NAME, device="cpu").identity
    assert base.identity == load_judge(BASE, device="cpu").identity


def test_an_adapter_on_it_is_refused(bundled: Path) -> None:
    with pytest.raises(InputError, match="'smoljudge' is itself an adapter; give its base"):
        load_judge(NAME, adapter=bundled)


def test_where_the_package_lacks_it_that_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(EMBEDDED_ADAPTERS, NAME, EmbeddedAdapter(BASE, tmp_path / "gone"))
    for load in (load_judge, load_tokenizer, resolve_source, lambda name: load_judges(BASE, name)):
        with pytest.raises(InputError, match=f"there is no {tmp_path / 'gone'}; install relscope again"):
            load(NAME)
    with pytest.raises(InputError, match="'smoljudge' is not part of this installation"):
        load_judge("owner/name", adapter=NAME)
