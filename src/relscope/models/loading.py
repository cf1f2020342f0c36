"""From a name to a judge model: hub id, folder, GGUF file, PEFT adapter, or the embedded model.

Weights are read from safetensors or GGUF only, never from pickles; a repository's own code runs only when asked for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging as stdlib_logging
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from relscope.errors import InputError
from relscope.models.embedded import EMBEDDED_MODELS, embedded_folder
from relscope.models.judge import JudgeModel, ModelIdentity
from relscope.models.threads import set_sensible_threads

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = "adapter_model.safetensors"
_FINGERPRINT_SAMPLES = 1024
# What a config says besides how to compute: where it came from, and what generation does with it.
_NOT_IN_FINGERPRINT = re.compile(
    r"_.*|architectures|transformers_version|(torch_)?dtype|quantization_config|use_cache|\w+_token_id|pretraining_tp"
)


@dataclass(frozen=True)
class ModelSource:
    """Where a model's weights are: what `from_pretrained` is given."""

    kind: str  # "hub", "folder", "gguf" or "embedded"
    location: str  # hub id or folder
    gguf_file: str | None = None


def load_judge(
    source: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> JudgeModel:
    """Load a causal language model as a judge.

    Args:
        source: a hub id ("Qwen/Qwen2.5-0.5B-Instruct"; with a GGUF file in it: "owner/name/file.gguf"), a folder, a
            GGUF file, a folder with a PEFT adapter that names its base, or "smollm2-135m" (embedded).
        adapter: folder or hub id of a PEFT adapter, merged into the weights.
        dtype: "float32", "bfloat16", "float16"; "auto" is float32, since effects are smaller than bf16's rounding.
        device: "cpu", "cuda", "cuda:1", "mps"...; "auto" takes an accelerator where there is one.
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run code that comes with the model.

    Raises:
        InputError: the source, adapter, dtype or device cannot be used; the message says what would be right.
    """
    set_sensible_threads()
    _quiet_loaders()
    torch_dtype, torch_device = parse_dtype(dtype), parse_device(device)
    source, adapter = _split_adapter(str(source), adapter)
    place = resolve_source(source)
    options = _options(place, revision, trust_remote_code)
    with _input_errors(source):
        model, tokenizer = _load(place, options, torch_dtype)
    if adapter is not None:
        model = _merged(model, str(adapter))
    model = model.to(torch_device).eval().requires_grad_(False)
    config = model.config.get_text_config(decoder=True)
    identity = ModelIdentity(
        name=source,
        kind=place.kind,
        revision=_commit(place, revision),
        adapter=None if adapter is None else str(adapter),
        dtype=str(torch_dtype).removeprefix("torch."),
        fingerprint=fingerprint(model),
        model_type=config.model_type,
    )
    return JudgeModel(model, tokenizer, identity)


def load_tokenizer(source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model alone, without its weights; `source` as for `load_judge`.

    Raises:
        InputError: the source cannot be used, or has no fast tokenizer.
    """
    set_sensible_threads()
    _quiet_loaders()
    base, _ = _split_adapter(str(source), None)
    place = resolve_source(base)
    with _input_errors(base):
        return _load_tokenizer(place, _options(place, revision, trust_remote_code))


def resolve_source(source: str) -> ModelSource:
    """Say where a model name leads, without loading it.

    Raises:
        InputError: a path that does not exist, or a folder without weights that may be read.
    """
    if source in EMBEDDED_MODELS:
        return ModelSource("embedded", str(embedded_folder(source)))
    path = Path(source)
    if path.suffix == ".gguf":
        if path.is_file():
            return ModelSource("gguf", str(path.parent), path.name)
        if not path.is_absolute() and not path.parent.exists() and len(path.parts) >= 3:  # owner/name/file.gguf
            return ModelSource("hub", "/".join(path.parts[:2]), "/".join(path.parts[2:]))
        raise InputError(f"model {source!r}: there is no such GGUF file")
    if path.is_dir():
        if not (path / "config.json").is_file():
            ggufs = sorted(p.name for p in path.glob("*.gguf"))
            if ggufs:
                raise InputError(f"model {source!r} is a folder of GGUF files; name one of them: {', '.join(ggufs)}")
            raise InputError(f"model {source!r}: the folder has no config.json, so it holds no model")
        if not _holds_weights(path):
            raise InputError(
                f"model {source!r}: the folder has no *.safetensors; other weight formats can run code when they are "
                "read. Convert it with save_pretrained(..., safe_serialization=True)"
            )
        return ModelSource("folder", source)
    if path.exists():
        raise InputError(f"model {source!r} is a file; a model is a folder, a .gguf file, or a hub id")
    if _looks_local(source):
        raise InputError(f"model {source!r}: there is no such folder")
    return ModelSource("hub", source)


def _looks_local(name: str) -> bool:
    """Whether a name can only be a path: a hub id is `name` or `owner/name`."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1


def parse_dtype(dtype: str) -> torch.dtype:
    """The number format of a `dtype` option; "auto" is float32."""
    if dtype == "auto":
        return torch.float32
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose from auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def parse_device(device: str) -> torch.device:
    """The device of a `device` option; "auto" takes an accelerator where there is one."""
    if device == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return found or torch.device("cpu")
    try:
        parsed = torch.device(device)
        torch.zeros(1, device=parsed).item()  # "meta" makes tensors, but they hold nothing
    except (RuntimeError, AssertionError, ImportError) as failure:
        reason = str(failure).splitlines()[0].partition(". ")[0]
        raise InputError(f"device {device!r} cannot be used here: {reason}; 'auto' or 'cpu' always can") from None
    return parsed


def fingerprint(model: nn.Module) -> str:
    """SHA-256 over the config and over every parameter's name, shape, and up to 1024 evenly spaced values.

    Another training step or a merged adapter moves nearly every weight, so a sample tells models apart at a small
    part of the cost of reading them all. Of the config, only what does not enter the computation is left out.
    """
    config: dict[str, Any] = model.config.to_dict() if hasattr(model, "config") else {}  # type: ignore[operator, union-attr]
    meaningful = {name: value for name, value in config.items() if not _NOT_IN_FINGERPRINT.fullmatch(name)}
    digest = hashlib.sha256(json.dumps(meaningful, sort_keys=True, default=str).encode())
    for name, parameter in sorted(model.named_parameters()):
        flat = parameter.detach().reshape(-1)
        stride = max(1, flat.numel() // _FINGERPRINT_SAMPLES)
        values = flat[::stride][:_FINGERPRINT_SAMPLES]
        values = values.float() if values.is_floating_point() else values
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(values.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _options(place: ModelSource, revision: str | None, trust_remote_code: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    return options if place.gguf_file is None else options | {"gguf_file": place.gguf_file}


def _commit(place: ModelSource, revision: str | None) -> str | None:
    """The commit that a hub model was loaded from, which a branch's name does not tell; None without a hub."""
    if place.kind != "hub":
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(place.location, place.gguf_file or "config.json", revision=revision)
    parts = Path(cached).parts if isinstance(cached, str) else ()
    return parts[parts.index("snapshots") + 1] if "snapshots" in parts else revision


def _load(place: ModelSource, options: dict[str, Any], dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM
    from transformers.utils.peft_utils import find_adapter_config_file

    if place.kind == "hub" and find_adapter_config_file(place.location, revision=options["revision"]) is not None:
        # transformers would load its base and put it on unasked, from a pickle where there is nothing else.
        raise InputError(f"model {place.location!r} is an adapter; give its base as the model and this as the adapter")
    tokenizer = _load_tokenizer(place, options)
    safe = {} if place.gguf_file is not None else {"use_safetensors": True}
    model, report = AutoModelForCausalLM.from_pretrained(
        place.location, dtype=dtype, output_loading_info=True, **safe, **options
    )
    # transformers draws what is missing at random, with a warning.
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"model {place.location!r} lacks {len(missing)} of the weights that its config calls for, "
            f"such as {missing[0]}"
        )
    return model, tokenizer


def _quiet_loaders() -> None:
    """Loaders' own bars and notices would end up between our lines; errors still raise."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    stdlib_logging.getLogger("huggingface_hub").setLevel(stdlib_logging.ERROR)  # it announces every retry


def _load_tokenizer(place: ModelSource, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    folder = Path(place.location)
    if place.kind in ("folder", "embedded") and not any((*folder.glob("tokenizer*"), *folder.glob("vocab*"))):
        raise InputError(
            f"model {place.location!r}: the folder has no tokenizer (tokenizer.json); save it beside the model"
        )
    tokenizer = AutoTokenizer.from_pretrained(place.location, **options)
    if not getattr(tokenizer, "is_fast", False):
        raise InputError(
            f"model {place.location!r} has no fast tokenizer; exact spans need character offsets, which only fast "
            "tokenizers give"
        )
    return tokenizer


def _split_adapter(source: str, adapter: str | Path | None) -> tuple[str, str | Path | None]:
    """A folder that holds an adapter stands for the base it names, with that adapter on it."""
    config = Path(source) / _ADAPTER_CONFIG
    if not config.is_file():
        return source, adapter
    if _holds_weights(Path(source)):
        # transformers would put the adapter on the model unasked.
        raise InputError(f"model {source!r} holds both a whole model and an adapter; give each a folder of its own")
    if adapter is not None:
        raise InputError(f"model {source!r} is itself an adapter; give its base as the model")
    try:
        fields = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as failure:
        raise InputError(f"{config} is not JSON: {failure}") from failure
    base = fields.get("base_model_name_or_path") if isinstance(fields, dict) else None
    if not base:
        raise InputError(
            f"{config}: field 'base_model_name_or_path' is missing; give the base as model and this as adapter"
        )
    return str(base), source


def _holds_weights(folder: Path) -> bool:
    """Whether a folder has safetensors of a whole model."""
    return any(path.name != _ADAPTER_WEIGHTS for path in folder.glob("*.safetensors"))


def _merged(model: Any, adapter: str) -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise InputError("adapters need the extra 'peft': pip install 'relscope[peft]'") from None
    if Path(adapter).exists() and not (Path(adapter) / _ADAPTER_WEIGHTS).is_file():
        raise InputError(f"adapter {adapter!r} has no {_ADAPTER_WEIGHTS}; other formats are not read")
    if not Path(adapter).exists() and _looks_local(adapter):
        raise InputError(f"adapter {adapter!r}: there is no such folder")
    with _input_errors(adapter, "adapter"):
        if not Path(adapter).exists():
            from huggingface_hub import hf_hub_download

            # Without this, peft would fall back to a pickle.
            hf_hub_download(adapter, _ADAPTER_WEIGHTS)
        with warnings.catch_warnings():
            # peft leaves out what is missing, with a warning.
            warnings.filterwarnings("error", message="Found missing adapter keys")
            tuned = PeftModel.from_pretrained(model, adapter)
        return tuned.merge_and_unload(safe_merge=True)


@contextlib.contextmanager
def _input_errors(source: str, what: str = "model") -> Iterator[None]:
    """Turn what loaders raise about a source into one clear sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as failure:  # loaders raise many types; each becomes an error that names the source
        reason = " ".join(str(failure).split())
        if "trust_remote_code" in reason:
            reason = "it comes with its own code, which runs only with --trust-remote-code"
        elif found := re.match(r"Unrecognized configuration class <class '[\w.]*?(\w+)'>", reason):
            reason = f"it is no causal language model ({found[1]})"
        elif "ignore_mismatched_sizes" in reason:
            reason = "its weights have other sizes than its config says"
        elif "couldn't connect" in reason or "Please check your connection" in reason:
            reason = (
                "there is no such folder, it is not in the cache of the Hugging Face hub, and the hub cannot be "
                "reached; fetch it where there is a network, or name a folder or GGUF file"
            )
        elif isinstance(failure, OSError) and "safetensors" in reason:
            reason = f"it has no safetensors weights, the only format besides GGUF that is read ({reason[:200]})"
        raise InputError(f"{what} {source!r} cannot be loaded: {reason[:600]}") from failure
