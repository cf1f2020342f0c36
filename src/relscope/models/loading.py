"""From a name to a judge model, or from two names to two judges that share the weights they have in common.

Where names lead is in `relscope.models.sources`. Weights are read from safetensors or GGUF only, never from pickles;
a repository's own code runs only when asked for.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging as stdlib_logging
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from relscope.errors import InputError
from relscope.models.adapters import merged, merged_beside
from relscope.models.contract import is_quantised
from relscope.models.judge import JudgeModel, ModelIdentity
from relscope.models.mixed import WEIGHTS, widen_activations
from relscope.models.sources import (
    ModelSource,
    adapter_location,
    ask_hub,
    base_revision,
    is_adapter_on,
    resolve_source,
    source_errors,
    split_adapter,
)
from relscope.models.threads import set_sensible_threads

MIXED = "bfloat16-weights"
SPREAD = "spread"
DTYPES = {"float32": torch.float32, MIXED: WEIGHTS, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FINGERPRINT_SAMPLES = 1024
# What a config says besides how to compute: where it came from, and what generation does with it.
_NOT_IN_FINGERPRINT = re.compile(
    r"_.*|architectures|transformers_version|(torch_)?dtype|quantization_config|use_cache|\w+_token_id|pretraining_tp"
)


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
            GGUF file, a folder with a PEFT adapter that names its base, or an embedded one: "smollm2-135m", and
            "smoljudge", which is that model with an adapter for judging relevance.
        adapter: folder or hub id of a PEFT adapter, or "smoljudge" (embedded), merged into the weights.
        dtype: "float32", "bfloat16-weights" (activations in float32: half the memory, and exact for a checkpoint in
            bfloat16), "bfloat16", "float16"; "auto" is float32, since effects are smaller than bf16's rounding.
        device: "cpu", "cuda", "cuda:1", "mps"...; "auto" takes an accelerator where there is one, "spread" puts the
            layers on all of them (accelerate's device map).
        revision: branch, tag or commit of a hub id.
        trust_remote_code: run code that comes with the model.

    Raises:
        InputError: the source, adapter, dtype or device cannot be used; the message says what would be right.
    """
    place = parse_device(device)
    name, adapter = split_adapter(str(source), adapter)
    if adapter is not None:
        adapter_location(str(adapter))  # what cannot be found is said before weights are read
    read = _read(name, parse_dtype(dtype), place, base_revision(str(source), revision), trust_remote_code)
    if adapter is None:
        return _judge(read, read.model, None)
    return _judge(read, merged(read.model, str(adapter)), str(adapter))


def load_judges(
    base: str | Path,
    tuned: str | Path | None = None,
    *,
    adapter: str | Path | None = None,
    dtype: str = "auto",
    device: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[JudgeModel, JudgeModel]:
    """Load a model and what it was tuned into, to be compared.

    Where the tuned model is an adapter on this base, the weights are read once, and both judges hold the same tensors
    except for those that the adapter changes. Either judge is as `load_judge` alone would load it.

    Args:
        base: as for `load_judge`.
        tuned: the tuned model, as for `load_judge`; None where `adapter` is given.
        adapter: folder or hub id of a PEFT adapter that makes the base into the tuned model.
        dtype: as for `load_judge`; of both.
        device: as for `load_judge`; of both.
        revision: of the base; a tuned model from a hub is read at its default branch.
        trust_remote_code: run code that comes with the models.

    Returns:
        The judges of the base and of the tuned model.

    Raises:
        InputError: as for `load_judge`, or not exactly one of `tuned` and `adapter` is given.
    """
    if (tuned is None) == (adapter is None):
        raise InputError("tuned: give either a tuned model or an adapter on the base, and not both")
    if adapter is not None:
        adapter_location(str(adapter))  # what cannot be found is said before weights are read
    if tuned is not None and not is_adapter_on(base, tuned):
        resolve_source(split_adapter(str(tuned), None)[0])
        return (
            load_judge(base, dtype=dtype, device=device, revision=revision, trust_remote_code=trust_remote_code),
            load_judge(tuned, dtype=dtype, device=device, trust_remote_code=trust_remote_code),
        )
    device_of_both = parse_device(device)
    name, adapter = split_adapter(str(base), adapter) if tuned is None else split_adapter(str(tuned), None)
    name_read = name if tuned is None else str(base)
    read = _read(name_read, parse_dtype(dtype), device_of_both, revision, trust_remote_code)
    beside = merged_beside(read.model, str(adapter))
    # Moved only now: merging elsewhere would round the weights in another way than `load_judge` does.
    judge = _judge(read, read.model, None)
    return judge, _judge(dataclasses.replace(read, name=name), beside, str(adapter))


def load_tokenizer(source: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a model alone, without its weights; `source` as for `load_judge`.

    Raises:
        InputError: the source cannot be used, or has no fast tokenizer.
    """
    set_sensible_threads()
    _quiet_loaders()
    base, _ = split_adapter(str(source), None)
    place = resolve_source(base)
    revision = base_revision(str(source), revision)
    _ask_hub(place, revision)
    with source_errors(base):
        return _load_tokenizer(place, _options(place, revision, trust_remote_code))


def parse_dtype(dtype: str) -> str:
    """The name of a `dtype` option's number format; "auto" is float32."""
    if dtype == "auto":
        return "float32"
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown; choose from auto, {', '.join(DTYPES)}")
    return dtype


def parse_device(device: str) -> torch.device | None:
    """The device of a `device` option; "auto" takes an accelerator where there is one; None to spread over all."""
    if device == SPREAD:
        if torch.accelerator.device_count() < 2:
            raise InputError("device 'spread' needs two accelerators at least; 'auto' takes what there is")
        return None
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


@dataclasses.dataclass(frozen=True)
class _Read:
    """What was read from one source, before adapters and devices."""

    name: str
    place: ModelSource
    model: Any
    tokenizer: Any
    dtype: str
    device: torch.device | None
    commit: str | None


def _read(name: str, dtype: str, device: torch.device | None, revision: str | None, trust_remote_code: bool) -> _Read:
    set_sensible_threads()
    _quiet_loaders()
    place = resolve_source(name)
    _ask_hub(place, revision)
    with source_errors(name):
        model, tokenizer = _load(place, _options(place, revision, trust_remote_code), DTYPES[dtype], device)
    return _Read(name, place, model, tokenizer, dtype, device, _commit(place, revision))


def _ask_hub(place: ModelSource, revision: str | None) -> None:
    if place.kind == "hub":
        ask_hub(place.location, place.gguf_file or "config.json", revision)


def _judge(read: _Read, model: Any, adapter: str | None) -> JudgeModel:
    """A judge around the model that was read, or around one made from it with an adapter."""
    if read.dtype == MIXED:
        widen_activations(model)
    if read.device is not None and not is_quantised(model):  # else transformers has put it where it is to be
        # Tensors that two models share are moved in place, so they still share them.
        model = model.to(read.device)
    model = model.eval().requires_grad_(False)
    identity = ModelIdentity(
        name=read.name,
        kind=read.place.kind,
        revision=read.commit,
        adapter=adapter,
        dtype=read.dtype,
        fingerprint=fingerprint(model),
        model_type=model.config.get_text_config(decoder=True).model_type,
    )
    return JudgeModel(model, read.tokenizer, identity)


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


def _load(
    place: ModelSource, options: dict[str, Any], dtype: torch.dtype, device: torch.device | None
) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils.peft_utils import find_adapter_config_file

    if place.kind == "hub" and find_adapter_config_file(place.location, revision=options["revision"]) is not None:
        # transformers would load its base and put it on unasked, from a pickle where there is nothing else.
        raise InputError(f"model {place.location!r} is an adapter; give its base as the model and this as the adapter")
    tokenizer = _load_tokenizer(place, options)
    safe: dict[str, Any] = {} if place.gguf_file is not None else {"use_safetensors": True}
    if device is None:
        safe["device_map"] = "auto"
    elif place.gguf_file is None:
        config = AutoConfig.from_pretrained(place.location, **options)
        if getattr(config, "quantization_config", None) is not None:
            safe["device_map"] = {"": device}  # quantised weights are made where they stay
    model, report = AutoModelForCausalLM.from_pretrained(
        place.location, dtype=dtype, output_loading_info=True, **safe, **options
    )
    # transformers draws what is missing at random, with a warning.
    if missing := sorted(report["missing_keys"]):
        raise InputError(
            f"model {place.location!r} lacks {len(missing)} of the weights that its config calls for, "
            f"such as {missing[0]}"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise InputError(f"model {place.location!r} does not fit on the accelerators; try dtype {MIXED!r}")
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
