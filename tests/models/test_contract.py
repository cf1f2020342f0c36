"""The load-time contract: holds for every family, and each clause fails where it should."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

from families import CONFIGS, FAMILIES, as_judge, from_config, tiny_model
from relscope.errors import InputError
from relscope.models import Contract, JudgeModel, check_contract
from relscope.models.architectures import resolve_layers

V = 120
CLAUSES = (
    "shapes", "patterns", "answer logits", "residual sum", "identity patch", "final residual", "restart",
    "continuation",
)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_fulfils_every_clause(family: str, dtype: torch.dtype) -> None:
    contract = check_contract(as_judge(tiny_model(family, V).to(dtype)))
    assert tuple(clause.name for clause in contract.clauses) == CLAUSES
    assert [clause for clause in contract.clauses if not clause.ok] == []
    assert contract.restartable
    contract.require_patching(family)


def failed(contract: Contract) -> set[str]:
    return {clause.name for clause in contract.clauses if not clause.ok}


def relaid(**paths: Any) -> JudgeModel:
    """A Llama judge whose layout has other paths than it should."""
    judge = as_judge(tiny_model("llama", V))
    architecture = dataclasses.replace(judge.architecture, **paths)
    judge.layers = resolve_layers(architecture, judge.decoder, judge.config)
    return judge


def hooked(module: str, change: Callable[[Any], Any]) -> JudgeModel:
    """A Llama judge in which the output of a module is changed."""
    judge = as_judge(tiny_model("llama", V))
    judge.model.get_submodule(module).register_forward_hook(lambda _module, _args, output: change(output))
    return judge


def test_a_width_that_the_config_does_not_say_fails_the_shapes() -> None:
    contract = check_contract(relaid(out_proj="mlp.down_proj"))
    assert "shapes" in failed(contract)
    with pytest.raises(
        InputError, match=r"model 'm' fails .* 'shapes'.*z is \(4, 24, 4, 12\) instead of \(4, 24, 4, 8\)"
    ):
        contract.require_patching("m")


def test_a_model_that_cannot_be_run_fails_the_shapes_and_nothing_is_said_to_hold() -> None:
    judge = as_judge(tiny_model("llama", V))

    def fails(*_: Any) -> None:
        raise RuntimeError("sizes do not match")

    judge.layers[1].mlp.register_forward_hook(fails)
    contract = check_contract(judge)
    assert failed(contract) == {"shapes"}
    assert not contract.restartable
    with pytest.raises(InputError, match="RuntimeError: sizes do not match"):
        contract.require_patching("m")


def test_nan_activations_fail_every_clause_that_measures() -> None:
    judge = as_judge(tiny_model("llama", V))
    with torch.no_grad():
        judge.layers[1].attention.q_proj.weight[0] = float("nan")  # type: ignore[union-attr, index, operator]
    assert failed(check_contract(judge)) == set(CLAUSES) - {"shapes"}


@pytest.mark.parametrize(
    "change",
    [lambda logits: 2 * logits, lambda logits: logits + torch.arange(V) / V, torch.tanh],
    ids=["scaled", "shifted", "capped"],
)
def test_a_head_that_does_more_than_unembed_fails_the_answer_logits(change: Callable[[Any], Any]) -> None:
    contract = check_contract(hooked("lm_head", change))
    assert failed(contract) == {"answer logits"}
    with pytest.raises(InputError, match="'answer logits'"):
        contract.require_patching("m")


def test_a_real_family_that_scales_its_logits_is_refused() -> None:
    llama = CONFIGS["llama"](V).to_dict()
    sizes = {key: llama[key] for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                                         "num_attention_heads", "num_key_value_heads")}  # fmt: skip
    judge = as_judge(from_config(transformers.GraniteConfig(**sizes, logits_scaling=8.0, residual_multiplier=0.5)))
    assert not judge.known_type
    contract = check_contract(judge)
    assert failed(contract) == {"answer logits", "residual sum", "restart"}


def test_an_extra_scale_on_the_residual_fails_the_sum_and_the_restart() -> None:
    contract = check_contract(hooked("model.layers.2", lambda output: 1.01 * output))
    assert failed(contract) == {"residual sum", "restart"}
    assert not contract.restartable
    contract.require_patching("m")  # full passes make no use of the sum


@pytest.mark.parametrize(
    "paths",
    [
        {"norm_before_mlp": "input_layernorm"},
        {"norm_before_attention": "post_attention_layernorm"},
        {"norm_before_mlp": None},
        {"norm_before_attention": None},
        {"parallel_option": "attention_bias"},
    ],
    ids=str,
)
def test_a_wrong_norm_or_order_fails_the_restart(paths: dict[str, Any]) -> None:
    contract = check_contract(relaid(**paths))
    assert failed(contract) == {"restart"}
    contract.require_patching("m")


def test_a_missed_post_norm_fails_the_sum() -> None:
    judge = as_judge(tiny_model("gemma2", V))
    architecture = dataclasses.replace(judge.architecture, norm_after_mlp=None)
    judge.layers = resolve_layers(architecture, judge.decoder, judge.config)
    assert failed(check_contract(judge)) == {"residual sum", "restart"}


def test_active_dropout_fails_the_identity_patch() -> None:
    judge = as_judge(tiny_model("gpt2", V).train())
    contract = check_contract(judge)
    assert "identity patch" in failed(contract)
    with pytest.raises(InputError):
        contract.require_patching("m")


def test_a_way_around_the_last_residual_fails_the_final_residual() -> None:
    judge = as_judge(tiny_model("llama", V))
    embedded: list[torch.Tensor] = []
    judge.model.model.embed_tokens.register_forward_hook(lambda _m, _a, output: embedded.append(output))
    judge.model.model.norm.register_forward_pre_hook(
        lambda _m, args: (args[0] + embedded[-1],) if args[0].shape == embedded[-1].shape else None
    )
    contract = check_contract(judge)
    assert "final residual" in failed(contract)
    assert "identity patch" not in failed(contract)
    with pytest.raises(InputError):
        contract.require_patching("m")


def test_attention_with_sinks_fails_only_what_replaces_attention() -> None:
    judge = as_judge(tiny_model("llama", V))
    judge.layers[3].attention.register_forward_pre_hook(
        lambda _m, args, kwargs: (args, {**kwargs, "s_aux": torch.zeros(4)}), with_kwargs=True
    )
    contract = check_contract(judge)
    assert failed(contract) == {"patterns", "restart", "continuation"}
    assert "'s_aux' is not supported" in next(c.detail for c in contract.clauses if c.name == "restart")
    contract.require_patching("m")


def test_attention_that_does_not_ask_the_registry_fails_the_restart_with_the_reason() -> None:
    judge = as_judge(tiny_model("llama", V))
    for layer in judge.layers:
        # As remote code does that brings its own attention: it reads a config that nobody switches.
        layer.attention.config = transformers.LlamaConfig(**layer.attention.config.to_diff_dict())  # type: ignore[union-attr]
        layer.attention.config._attn_implementation = "eager"  # type: ignore[union-attr]
    contract = check_contract(judge)
    assert failed(contract) == {"patterns", "restart", "continuation"}
    assert "registry" in next(c.detail for c in contract.clauses if c.name == "restart")


def test_a_huge_position_does_not_hide_an_error_elsewhere() -> None:
    # Real models hold entries a thousand times the usual at their first token.
    model = tiny_model("llama", V)
    first_token = int(torch.randint(0, V, (2, 24), generator=torch.Generator().manual_seed(0))[0, 0])
    with torch.no_grad():
        model.model.embed_tokens.weight[first_token] *= 10_000
    assert failed(check_contract(as_judge(model))) == set()
    judge = as_judge(model)

    def nudged(_module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        changed[:, -1, 5] += 0.02 * output[:, -1].abs().max()
        return changed

    judge.layers[2].module.register_forward_hook(nudged)
    assert failed(check_contract(judge)) == {"residual sum", "restart", "continuation"}


def test_attention_that_counts_positions_itself_fails_the_restart() -> None:
    # From the first position on it restarts well; from a later one it counts wrong.
    judge = as_judge(tiny_model("llama", V))

    def counted(_module: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        hidden = args[0] if args else kwargs.pop("hidden_states")
        return (hidden + torch.arange(hidden.shape[1])[:, None] / 10, *args[1:]), kwargs

    judge.layers[1].attention.register_forward_pre_hook(counted, with_kwargs=True)
    assert failed(check_contract(judge)) == {"restart", "continuation"}


def test_a_clause_that_does_not_exist_does_not_hold() -> None:
    contract = check_contract(as_judge(tiny_model("llama", V)))
    assert contract.holds("restart", "patterns")
    assert not contract.holds("restarts")
