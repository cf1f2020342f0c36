"""Models from GGUF files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import write_gguf

from example_pairs import aligned
from families import as_judge
from relscope.errors import InputError
from relscope.models import check_contract, load_judge
from relscope.models.embedded import convert_gguf

ANSWERS = (5, 6)
IDS = list(range(20, 60))


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory, llama: Any, tiny_tokenizer: Any) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", llama, tiny_tokenizer)


def test_a_gguf_file_gives_the_judge_it_was_written_from(gguf_file: Path, llama: Any, tiny_tokenizer: Any) -> None:
    judge = load_judge(gguf_file, device="cpu")
    assert (judge.identity.kind, judge.identity.name, judge.identity.dtype) == ("gguf", str(gguf_file), "float32")
    wanted = as_judge(llama).logit_diff([IDS], [ANSWERS])
    # The file holds the norms' epsilon in float32, which moves logits of order 1 by rounding.
    assert judge.logit_diff([IDS], [ANSWERS]).item() == pytest.approx(wanted.item(), abs=1e-5)
    assert check_contract(judge).restartable
    # Its own tokenizer and chat template make the same prompt.
    assert aligned(judge.tokenizer).clean.ids == aligned(tiny_tokenizer).clean.ids


def test_a_converted_gguf_file_is_a_folder_like_any_other(gguf_file: Path, tmp_path: Path) -> None:
    convert_gguf(gguf_file, tmp_path / "converted")
    found, wanted = load_judge(tmp_path / "converted", device="cpu"), load_judge(gguf_file, device="cpu")
    assert found.identity.kind == "folder"
    assert found.identity.fingerprint == wanted.identity.fingerprint
    assert found.logit_diff([IDS], [ANSWERS]).equal(wanted.logit_diff([IDS], [ANSWERS]))
    assert aligned(found.tokenizer).clean.ids == aligned(wanted.tokenizer).clean.ids


def test_a_missing_gguf_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such GGUF file"):
        load_judge(tmp_path / "none.gguf")


def test_a_damaged_gguf_file_is_refused(gguf_file: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(gguf_file.read_bytes()[:5000])
    with pytest.raises(InputError, match=f"model '{damaged}' cannot be loaded"):
        load_judge(damaged)


def test_a_folder_of_gguf_files_is_refused_with_their_names(tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"folder of GGUF files; name one of them: a\.gguf, b\.gguf"):
        load_judge(tmp_path)
