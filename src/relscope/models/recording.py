"""What happens inside the model on some prompts?

One ordinary forward pass of the Hugging Face decoder for several prompts together, with every activation that patching
swaps or restarts from kept. Shorter prompts are padded on the right, where causal attention cannot see it. Positions
that all prompts begin with are computed once: `record` continues from a run that holds them. Hooks and the attention
function are in place only for the duration of the pass.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from relscope.models.architectures import DecoderLayer, first_tensor
from relscope.models.attention import (
    AttentionCall,
    EditFunction,
    SharedPrefixAttention,
    UnsupportedAttentionError,
    attend,
    attention_replaced,
    visible,
)
from relscope.models.differences import Product, linear_modules, low_weights
from relscope.models.prefixes import continued

if TYPE_CHECKING:
    from relscope.models.judge import JudgeModel

# Of what a layer's attention is given: its input and its mask are recorded by other means, and a cache is never kept.
_NOT_KEPT = ("hidden_states", "attention_mask", "past_key_values", "layer_past", "use_cache")
# Where positions stand in what a layer's attention is given.
_POSITION_AXIS = {"position_ids": -1, "cache_position": -1, "position_embeddings": -2}


class ByLayer(tuple[Tensor, ...]):
    """A tensor for each layer, where that layer computes; indexed like one tensor whose first axis is the layer.

    `of[3]` and `of[3, positions]` are on layer 3's device; `of[:, positions]` is one tensor, on the first layer's.
    """

    def __getitem__(self, key: Any) -> Any:
        layers, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        if not isinstance(layers, slice):
            return super().__getitem__(layers)[rest]
        chosen = super().__getitem__(layers)
        return torch.stack([of[rest].to(chosen[0].device) for of in chosen]) if rest else ByLayer(chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        """As of one tensor."""
        return (len(self), *self[0].shape)


@dataclass(frozen=True)
class RecordedRun:
    """Activations of one prompt's forward pass, batch dimension removed. Read-only by convention.

    `resid_pre[l]` [pos, d_model] is what layer l reads and `resid_post[l]` what it hands on; `attn_out[l]` and
    `mlp_out[l]`, of the same shape, are what is added to the residual stream, after any post-norm; `z[l]`
    [pos, head, d_head] is the heads' output before the output projection;
    `q`, `k` and `v` are as attention sees them (after rotary embedding), `scaling` and `softcap` what it makes scores
    with. `layer_kwargs[l]` is what the model passed to layer l's attention, from which a restart takes its share.
    `products[l]` holds what the linear modules of layer l read and gave, for restarts on differences. What attention
    saw, and the products, are empty where they were not asked for (see `record`).
    """

    resid_pre: ByLayer
    attn_out: ByLayer
    mlp_out: ByLayer
    resid_post: ByLayer
    z: ByLayer
    q: tuple[Float[Tensor, "head pos d_head"], ...]
    k: tuple[Float[Tensor, "kv_head pos d_head"], ...]
    v: tuple[Float[Tensor, "kv_head pos d_head"], ...]
    mask: tuple[Bool[Tensor, "pos src"], ...]
    scaling: tuple[float, ...]
    softcap: tuple[float | None, ...]
    layer_kwargs: tuple[dict[str, Any], ...]
    products: tuple[dict[str, Product], ...] = ()

    @property
    def n_positions(self) -> int:
        """Tokens in the prompt."""
        return self.resid_pre[0].shape[0]

    def resid_before(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """What a layer reads; for the number of layers, the final residual."""
        return self.resid_pre[layer] if layer < len(self.resid_pre) else self.resid_post[-1]

    def attend_again(
        self, layer: int, start: int, n_items: int, edit: EditFunction
    ) -> Float[Tensor, "item pos head d_head"]:
        """Heads' outputs of one layer from position `start` on, for several items, which `edit` makes differ."""

        def items(values: Tensor) -> Tensor:
            return values.expand(n_items, *values.shape)

        call = AttentionCall(
            layer=layer,
            q=items(self.q[layer][:, start:]),
            k=items(self.k[layer]),
            v=items(self.v[layer]),
            mask=None,
            scaling=self.scaling[layer],
            softcap=self.softcap[layer],
        )
        return attend(call, self.mask[layer][start:], edit)


@dataclass
class Recorder:
    """An attention function that keeps what attention is computed from, layer by layer."""

    calls: dict[int, AttentionCall] = field(default_factory=dict)
    mask: dict[int, Tensor] = field(default_factory=dict)
    _of_model: dict[int, Tensor] = field(default_factory=dict)

    def __call__(self, call: AttentionCall, /) -> Tensor:
        """Attention over the call's own keys and values."""
        # Layers of one kind are given the same mask, which is large for long prompts.
        if id(call.mask) not in self._of_model:
            self._of_model[id(call.mask)] = visible(call)
        self.calls[call.layer], self.mask[call.layer] = call, self._of_model[id(call.mask)]
        return self._attend(call, self.mask[call.layer])

    def _attend(self, call: AttentionCall, mask: Tensor) -> Tensor:
        return SharedPrefixAttention(call.k[0, :, :0], call.v[0, :, :0], mask)(call)


@dataclass
class PatternChecker(Recorder):
    """A recorder that also measures how far attention patterns are from summing to 1."""

    pattern_error: float = 0.0  # largest |sum of a row - 1|

    def _attend(self, call: AttentionCall, mask: Tensor) -> Tensor:
        return attend(call, mask, self._see)

    def _see(self, component: str, values: Tensor) -> Tensor:
        if component == "pattern":
            error = (values.sum(-1) - 1).abs().max()
            # Of a NaN and a number, `max` may pick the number: a NaN must not look like no error.
            self.pattern_error = max(self.pattern_error, float(error.nan_to_num(nan=torch.inf)))
        return values


class _Kept:
    """What layers compute of a batch: for each component the tensor of each layer, by the layer's number."""

    def __init__(self, layers: Sequence[DecoderLayer]) -> None:
        self.values: dict[str, dict[int, Tensor]] = defaultdict(dict)
        self.kwargs: dict[int, dict[str, Any]] = {}
        self._layers = layers

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Within the context, the layers' activations are kept."""
        handles: list[Any] = []

        def keep_input(index: int) -> Any:
            def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                self.values["resid_pre"][index] = args[0] if args else kwargs["hidden_states"]

            return hook

        def keep_z(index: int) -> Any:
            def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
                self.values["z"][index] = args[0]

            return hook

        def keep_output(name: str, index: int) -> Any:
            def hook(_module: nn.Module, _args: Any, output: Any) -> None:
                self.values[name][index] = first_tensor(output)

            return hook

        def keep_kwargs(index: int) -> Any:
            def hook(_module: nn.Module, _args: Any, kwargs: dict[str, Any]) -> None:
                self.kwargs[index] = {name: value for name, value in kwargs.items() if name not in _NOT_KEPT}

            return hook

        try:
            for layer in self._layers:
                i = layer.index
                handles += [
                    layer.module.register_forward_pre_hook(keep_input(i), with_kwargs=True),
                    layer.module.register_forward_hook(keep_output("resid_post", i)),
                    layer.attention.register_forward_pre_hook(keep_kwargs(i), with_kwargs=True),
                    layer.out_proj.register_forward_pre_hook(keep_z(i)),
                    layer.attn_out_module.register_forward_hook(keep_output("attn_out", i)),
                    layer.mlp_out_module.register_forward_hook(keep_output("mlp_out", i)),
                ]
            yield
        finally:
            for handle in handles:
                handle.remove()


@contextlib.contextmanager
def _products_kept(layers: Sequence[DecoderLayer], shape: torch.Size) -> Iterator[list[dict[str, Any]]]:
    """What each layer's linear modules read and give, of those that are called once, with all positions."""
    kept: list[dict[str, tuple[Tensor, Tensor, Tensor]]] = [{} for _ in layers]
    called: Counter[tuple[int, str]] = Counter()
    handles: list[Any] = []

    def keep(index: int, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            called[index, name] += 1
            if called[index, name] == 1 and args and args[0].shape[:2] == shape:
                kept[index][name] = args[0], output, low_weights(module)
            else:
                kept[index].pop(name, None)

        return hook

    try:
        for layer in layers:
            for name, module in linear_modules(layer).items():
                handles.append(module.register_forward_hook(keep(layer.index, name)))
        yield kept
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def record(
    judge: JudgeModel,
    prompts: Sequence[Sequence[int]],
    recorder: Recorder | None,
    *,
    with_products: bool = False,
    prefix: RecordedRun | None = None,
) -> list[RecordedRun]:
    """Run prompts together and keep their activations. Cost: one forward pass of the longest, for each prompt.

    Args:
        judge: the model.
        prompts: token ids of each.
        recorder: its attention function stands in for the model's own and keeps what a restart needs. Without one the
            model's own attention runs, and the runs can be patched from, but not restarted.
        with_products: also keep what restarts on differences start from.
        prefix: a run of the tokens that all prompts begin with, recorded in the same way; they are not run again.

    Raises:
        UnsupportedAttentionError: the model's attention cannot be replaced.
    """
    judge.check_length(max(map(len, prompts)))
    n_prefix = 0 if prefix is None else prefix.n_positions
    ids = judge.padded([prompt[n_prefix:] for prompt in prompts])
    replaced = contextlib.nullcontext() if recorder is None else attention_replaced(judge.config, recorder)
    producing = _products_kept(judge.layers if with_products else (), ids.shape)
    kept = _Kept(judge.layers)
    going_on = {"use_cache": False} if prefix is None else continued(zip(prefix.k, prefix.v, strict=True), len(ids))
    with replaced, kept.watching(), producing as products:
        judge.decoder(input_ids=ids, **going_on)
    if recorder is not None and set(recorder.calls) != set(range(len(judge.layers))):
        raise UnsupportedAttentionError("the model's attention does not go through the registry of transformers")
    cut = _Cut(judge, kept, recorder, products)
    runs = [cut.run(number, len(prompt) - n_prefix) for number, prompt in enumerate(prompts)]
    return runs if prefix is None else [_joined(prefix, run) for run in runs]


@dataclass(frozen=True)
class _Cut:
    """Cuts single runs out of what was kept of a batch."""

    judge: JudgeModel
    kept: _Kept
    recorder: Recorder | None
    products: Sequence[Mapping[str, tuple[Tensor, Tensor, Tensor]]]

    def run(self, number: int, n: int) -> RecordedRun:
        """The run of one prompt, `n` positions long without its prefix."""
        layers = range(len(self.judge.layers))
        calls = [] if self.recorder is None else [self.recorder.calls[i] for i in layers]
        masks = {} if self.recorder is None else {id(mask): mask for mask in self.recorder.mask.values()}
        cut_masks = {key: mask[:n, : mask.shape[1] - mask.shape[0] + n] for key, mask in masks.items()}
        n_heads = int(self.judge.config.num_attention_heads)

        def values(name: str) -> ByLayer:
            of = self.kept.values[name]
            return ByLayer(of[i][number, :n] for i in range(len(of)))

        read = zip(values("resid_pre"), values("attn_out"), strict=True)
        return RecordedRun(
            # What a layer is given comes from where the layer before it computes.
            resid_pre=ByLayer(resid.to(attn_out.device) for resid, attn_out in read),
            attn_out=values("attn_out"),
            mlp_out=values("mlp_out"),
            resid_post=values("resid_post"),
            z=ByLayer(of.unflatten(-1, (n_heads, -1)) for of in values("z")),
            q=tuple(call.q[number, :, :n] for call in calls),
            k=tuple(call.k[number, :, call.k.shape[2] - call.q.shape[2] :][:, :n] for call in calls),
            v=tuple(call.v[number, :, call.v.shape[2] - call.q.shape[2] :][:, :n] for call in calls),
            mask=() if self.recorder is None else tuple(cut_masks[id(self.recorder.mask[i])] for i in layers),
            scaling=tuple(call.scaling for call in calls),
            softcap=tuple(call.softcap for call in calls),
            layer_kwargs=tuple(cut_kwargs(self.kept.kwargs[i], slice(n)) for i in layers),
            products=tuple(
                {name: Product(x[number, :n], y[number, :n], weight) for name, (x, y, weight) in of_layer.items()}
                for of_layer in self.products
            ),
        )


def cut_kwargs(kwargs: Mapping[str, Any], positions: slice) -> dict[str, Any]:
    """What a layer's attention was given, at some positions, of the first run of a batch: all runs' are equal."""

    def cut(values: Any, axis: int) -> Any:
        if isinstance(values, tuple):
            return tuple(cut(part, axis) for part in values)
        if not isinstance(values, Tensor):
            return values
        values = values[:1] if values.dim() > -axis else values
        return values[(..., positions, *[slice(None)] * (-axis - 1))]

    return {name: cut(values, _POSITION_AXIS[name]) if name in _POSITION_AXIS else values
            for name, values in kwargs.items()}  # fmt: skip


def _joined(prefix: RecordedRun, run: RecordedRun) -> RecordedRun:
    """A run that was continued from `prefix`, with it."""

    def along_positions(name: str) -> Any:
        both = zip(getattr(prefix, name), getattr(run, name), strict=True)
        by_layer = isinstance(getattr(run, name), ByLayer)  # whose first axis is the position
        joined = [torch.cat(parts, dim=0 if by_layer else 1) for parts in both]
        return ByLayer(joined) if by_layer else tuple(joined)

    masks = {id(mask): torch.cat([functional.pad(first, (0, run.n_positions)), mask])
             for first, mask in zip(prefix.mask, run.mask, strict=True)}  # fmt: skip
    resid_post = along_positions("resid_post")
    resid_pre = [torch.cat([prefix.resid_pre[0], run.resid_pre[0]])]
    for layer in range(1, len(resid_post)):
        # What a layer hands on is what the next one reads: one tensor, where nothing lies between them.
        is_same = run.resid_pre[layer].data_ptr() == run.resid_post[layer - 1].data_ptr()
        both = [prefix.resid_pre[layer], run.resid_pre[layer]]
        resid_pre.append(resid_post[layer - 1] if is_same else torch.cat(both))
    return replace(
        run,
        resid_pre=ByLayer(resid_pre),
        resid_post=resid_post,
        **{name: along_positions(name) for name in ("attn_out", "mlp_out", "z", "q", "k", "v")},
        mask=tuple(masks[id(mask)] for mask in run.mask),
        layer_kwargs=tuple(map(_joined_kwargs, prefix.layer_kwargs, run.layer_kwargs)),
        products=tuple(map(_joined_products, prefix.products, run.products)),
    )


def _joined_kwargs(prefix: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    def joined(first: Any, second: Any, axis: int) -> Any:
        if isinstance(first, tuple):
            return tuple(joined(a, b, axis) for a, b in zip(first, second, strict=True))
        return torch.cat([first, second], dim=axis) if isinstance(first, Tensor) else second

    return {name: joined(prefix[name], values, _POSITION_AXIS[name]) if name in _POSITION_AXIS else values
            for name, values in run.items()}  # fmt: skip


def _joined_products(prefix: Mapping[str, Product], run: Mapping[str, Product]) -> dict[str, Product]:
    return {
        name: Product(torch.cat([prefix[name].x, of.x]), torch.cat([prefix[name].y, of.y]), of.weight)
        for name, of in run.items()
        if name in prefix
    }
