"""A tiny random model of each family of the architecture table: small enough to run hundreds of full passes.

Weights are drawn wide, and norms and biases at random too: a forgotten norm, bias, window or softcap then changes
the logits by far more than any tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf

from relscope.models import JudgeModel, ModelIdentity

N_LAYERS, N_HEADS, N_KV_HEADS, D_MODEL = 4, 4, 2, 32
# Components that hooks on modules can reach.
MODULE_COMPONENTS = ("resid_pre", "attn_out", "mlp_out", "resid_post", "z")
# Shorter than any test prompt, so that windows cut something off.
WINDOW = 16

_SIZES: dict[str, Any] = {
    "hidden_size": D_MODEL,
    "intermediate_size": 48,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": N_HEADS,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_GROUPED: dict[str, Any] = {**_SIZES, "num_key_value_heads": N_KV_HEADS}
_GEMMA: dict[str, Any] = {**_GROUPED, "head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": WINDOW}
_MIXED_LAYERS = ["sliding_attention", "full_attention"] * 2


def _gemma3_with_images(vocab_size: int) -> Any:
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    text = {**_GEMMA, "vocab_size": vocab_size, "layer_types": _MIXED_LAYERS}
    # The image tokens must lie in the vocabulary; no test prompt uses them.
    return hf.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, boi_token_index=vocab_size - 3,
        eoi_token_index=vocab_size - 2, image_token_index=vocab_size - 1,
    )  # fmt: skip


CONFIGS: dict[str, Callable[[int], Any]] = {
    "llama": lambda v: hf.LlamaConfig(vocab_size=v, **_GROUPED, attention_bias=True, mlp_bias=True),
    "mistral": lambda v: hf.MistralConfig(vocab_size=v, **_GROUPED, sliding_window=WINDOW),
    "qwen2": lambda v: hf.Qwen2Config(vocab_size=v, **_GROUPED, tie_word_embeddings=True),
    "qwen2 sliding": lambda v: hf.Qwen2Config(
        vocab_size=v, **_GROUPED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=2
    ),
    "qwen3": lambda v: hf.Qwen3Config(vocab_size=v, **_GROUPED, head_dim=16),
    "gemma2": lambda v: hf.Gemma2Config(
        vocab_size=v, **_GEMMA, layer_types=_MIXED_LAYERS, attn_logit_softcapping=4.0, final_logit_softcapping=6.0
    ),
    "gemma3_text": lambda v: hf.Gemma3TextConfig(vocab_size=v, **_GEMMA, layer_types=_MIXED_LAYERS),
    "gemma3": _gemma3_with_images,
    "phi3": lambda v: hf.Phi3Config(vocab_size=v, **_GROUPED),
    "olmo2": lambda v: hf.Olmo2Config(vocab_size=v, **_GROUPED),
    "gpt2": lambda v: hf.GPT2Config(
        vocab_size=v, n_embd=D_MODEL, n_layer=N_LAYERS, n_head=N_HEADS, n_positions=512, bos_token_id=0, eos_token_id=0
    ),
    "gpt_neox parallel": lambda v: hf.GPTNeoXConfig(vocab_size=v, **_SIZES, use_parallel_residual=True),
    "gpt_neox sequential": lambda v: hf.GPTNeoXConfig(vocab_size=v, **_SIZES, use_parallel_residual=False),
}  # fmt: skip

FAMILIES = tuple(CONFIGS)

_EXPERTS: dict[str, Any] = {**_GROUPED, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
CONFIGS_OF_EXPERTS: dict[str, Callable[[int], Any]] = {
    "qwen3_moe": lambda v: hf.Qwen3MoeConfig(vocab_size=v, **_EXPERTS, head_dim=16, num_experts=8),
    "mixtral": lambda v: hf.MixtralConfig(vocab_size=v, **_EXPERTS, num_local_experts=8),
}
"""Mixtures of experts, which are in no family of the table and recognised by structure."""


@torch.no_grad()
def draw_weights(model: torch.nn.Module, seed: int = 0) -> None:
    """Matrices from N(0, 0.2^2); N(0, 0.2^2) added to whatever norms and biases hold."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(model.named_parameters()):
        noise = 0.2 * torch.randn(parameter.shape, generator=generator)
        parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)


def from_config(config: Any, seed: int = 0) -> Any:
    """A random float32 model of any config, ready to be evaluated."""
    model = hf.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    draw_weights(model, seed)
    return model.eval().requires_grad_(False)


def tiny_model(family: str, vocab_size: int, seed: int = 0) -> Any:
    """The Hugging Face model of a family."""
    return from_config((CONFIGS | CONFIGS_OF_EXPERTS)[family](vocab_size), seed)


def as_judge(model: Any, tokenizer: Any = None) -> JudgeModel:
    """A judge around a model that was not loaded from anywhere."""
    dtype = str(model.dtype).removeprefix("torch.")
    identity = ModelIdentity("tiny", "folder", None, None, dtype, "none", str(model.config.model_type))
    return JudgeModel(model, tokenizer, identity)


def tiny_judge(family: str, tokenizer: Any, seed: int = 0) -> JudgeModel:
    """The judge of a family, with as many tokens as the tokenizer has."""
    return as_judge(tiny_model(family, len(tokenizer), seed), tokenizer)


def granite(tokenizer: Any, **scaling: float) -> JudgeModel:
    """The modules of a Llama in three layers, with scale factors between them that a Llama has not."""
    config = hf.GraniteConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, **scaling,
    )  # fmt: skip
    return as_judge(from_config(config), tokenizer)
