"""Where does a path run in one prompt, and what does the sender's change do to the residual that a receiver reads?

    frozen    resid(l) = base run's + what the sender writes otherwise, at the sender's positions
    open      resid(l) = that of the base run with the sender patched, at every later position

for the receiver's layer l; the number of layers stands for the final residual. Source: Wang et al. 2022
(arXiv 2211.00593) and Goldowsky-Dill et al. 2023 (arXiv 2304.05969), who hold all between fixed; Liu, Mao and Wen 2025
(arXiv 2504.07898), whose code holds nothing fixed.

Cost: frozen, the sender's output projection; open, a sweep from the sender to the receiver.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from relscope.choices import HEAD_COMPONENTS, KV_HEAD_COMPONENTS, VARIANTS
from relscope.errors import InputError, did_you_mean
from relscope.interventions.placing import PlacedPatch, place_patches
from relscope.interventions.sites import Site
from relscope.interventions.wavefront import Job, ResidOf, sweep_to
from relscope.models import JudgeModel, RecordedRun, Replacement
from relscope.prompts import Prompt

SENDERS = ("attn_out", "mlp_out", "z", "resid_pre")
"""Components that a path can begin with; `resid_pre` of layer 0 alone, the embedding."""
RECEIVERS = ("resid_pre", *HEAD_COMPONENTS, *KV_HEAD_COMPONENTS)
"""Components that a path can end in, beside "logits"."""


@dataclass(frozen=True)
class Path:
    """A path through the residual stream, from what one part writes to what another reads.

    Attributes:
        sender: `attn_out` or `mlp_out` of a layer or `z` of a head, at a region; or `resid_pre` of layer 0, which is
            the embedding.
        receiver: what alone sees the change. `resid_pre`: all that layer and what follows, at the region. `q`,
            `k_view`, `v_view` of a query head, `k`, `v` of a key/value head: made of the changed residual at the
            region. `z` of a query head: the head's output at the region, its q, k and v made of the residual as
            changed at every position. "logits": the final residual at the last token, the direct effect on LD.
        variant: "frozen" or "open", see `VARIANTS`. What comes after the receiver is always computed anew.

    Raises:
        InputError: a component cannot send or receive, the receiver reads before the sender has written, or there is
            no such variant.
    """

    sender: Site
    receiver: Site | str = "logits"
    variant: str = "frozen"

    def __post_init__(self) -> None:
        sender, receiver = self.sender, self.receiver
        if self.variant not in VARIANTS:
            near = did_you_mean(self.variant, VARIANTS)
            raise InputError(f"variant {self.variant!r} of a path does not exist: {near}")
        if sender.component not in SENDERS or (sender.component == "resid_pre" and sender.layer != 0):
            raise InputError(
                f"{sender.component} of layer {sender.layer} cannot send: a path begins with attn_out or mlp_out of a "
                "layer, with z of a head, or with resid_pre of layer 0, the embedding"
            )
        if isinstance(receiver, str):
            if receiver != "logits":
                raise InputError(f"receiver {receiver!r} does not exist: give a Site, or 'logits'")
        elif receiver.component not in RECEIVERS:
            raise InputError(
                f"component {receiver.component!r} cannot receive: a path ends in {', '.join(RECEIVERS)} or 'logits'"
            )
        elif receiver.layer < self.first_reader:
            raise InputError(
                f"{receiver.component} of layer {receiver.layer} reads the residual stream before {sender.component} "
                f"of layer {sender.layer} is written to it: the receiver must lie in layer {self.first_reader} or later"
            )

    @property
    def first_reader(self) -> int:
        """The first layer that can read what the sender writes."""
        return 0 if self.sender.component == "resid_pre" else self.sender.layer + 1


@dataclass(frozen=True)
class Route:
    """A path in one prompt, along which something can come through.

    Attributes:
        place: the path's place among those that were asked for.
        sender: with its one replacement.
        receiver: with the positions at which it sees a change; the final residual is `resid_pre` of the number of
            layers, at the last position.
        variant: of the path.
    """

    place: int
    sender: PlacedPatch
    receiver: Replacement
    variant: str

    @property
    def reads_from(self) -> int:
        """The first position at which the receiver needs the changed residual."""
        return self.sender.start if self.receiver.component == "z" else self.receiver.positions[0]


def find_routes(prompt: Prompt, paths: Sequence[Path], first: int, n_layers: int) -> list[Route]:
    """The paths along which something can come through: causality and the regions allow it.

    Args:
        prompt: has the regions; both runs have them at the same positions.
        paths: to place.
        first: the first position whose token differs between the runs.
        n_layers: of the model.

    Raises:
        InputError: the prompt has no such region.
    """
    routes = []
    senders = place_patches(prompt, [path.sender for path in paths], first)
    for place, (path, sender) in enumerate(zip(paths, senders, strict=True)):
        receiver = path.receiver
        if isinstance(receiver, str):
            receiver = Site("resid_pre", n_layers, "last")
        region = prompt.region(receiver.region)
        if not sender.replacements:
            continue
        if path.variant == "frozen" and receiver.component != "z":
            sent = set(sender.replacements[0].positions)
            reached = [position for position in region if position in sent]
        else:
            reached = [position for position in region if position >= sender.start]
        if receiver.layer == n_layers - 1 and receiver.component in ("q", "z"):
            # Of the last layer's queries and outputs, those at the last position alone come to the verdict.
            reached = [position for position in reached if position == len(prompt.ids) - 1]
        if reached:
            placed = Replacement(receiver.component, receiver.layer, receiver.head, tuple(reached))
            routes.append(Route(place, sender, placed, path.variant))
    return routes


def batches(routes: Sequence[Route], n_positions: int, max_rows: int) -> Iterator[list[Route]]:
    """Routes of one variant whose senders start at one position, and of as many senders as have `max_rows` together.

    A sender has a row for each position from its start on; at least one sender is in a batch.
    """
    groups: dict[tuple[str, int], dict[PlacedPatch, list[Route]]] = defaultdict(lambda: defaultdict(list))
    for route in routes:
        groups[route.variant, route.sender.start][route.sender].append(route)
    for (_, start), by_sender in groups.items():
        # Neighbouring layers together: a sweep begins at its lowest layer.
        senders = sorted(by_sender, key=lambda sender: sender.layer)
        at_once = max(1, max_rows // (n_positions - start))
        for number in range(0, len(senders), at_once):
            yield [route for sender in senders[number : number + at_once] for route in by_sender[sender]]


def changed_residuals(
    judge: JudgeModel, job: Job, variant: str, layers: Collection[int]
) -> Iterator[tuple[int, ResidOf]]:
    """For each of `layers`, in order, the residual that it would read of the senders' changes.

    The job's patches are the senders, by whose numbers residuals are asked for; from a position on that is not before
    their common start. Of senders that write later than a layer reads there are none.
    """
    return sweep_to(judge, job, layers) if variant == "open" else _frozen_residuals(judge, job, layers)


def _frozen_residuals(judge: JudgeModel, job: Job, layers: Collection[int]) -> Iterator[tuple[int, ResidOf]]:
    changes = [written_change(judge, job.base, job.source, sender.replacements[0]) for sender in job.placed]

    def resid_of(layer: int) -> ResidOf:
        def of_senders(numbers: Sequence[int], first: int) -> Tensor:
            resid = job.base.resid_before(layer)[first:].repeat(len(numbers), 1, 1)
            for row, number in zip(resid, numbers, strict=True):
                positions = job.placed[number].replacements[0].positions
                n_before = sum(position < first for position in positions)
                row[[position - first for position in positions[n_before:]]] += changes[number][n_before:]
            return resid

        return of_senders

    for layer in sorted(layers):
        yield layer, resid_of(layer)


@torch.no_grad()
def written_change(
    judge: JudgeModel, base: RecordedRun, source: RecordedRun, sender: Replacement
) -> Float[Tensor, "pos d_model"]:
    """What is added to the residual stream more if the sender is as in the source run, at the sender's positions.

    Of a head: through its slice of the output projection and any post-norm, the layer's other heads as in the base run.
    """
    layer, at = sender.layer, list(sender.positions)
    if sender.component != "z":
        return getattr(source, sender.component)[layer, at] - getattr(base, sender.component)[layer, at]
    z = base.z[layer, at].repeat(2, 1, 1, 1)
    z[1, :, sender.head] = source.z[layer, at, sender.head]
    before, after = judge.layers[layer].attn_out(z.flatten(-2))
    return after - before
