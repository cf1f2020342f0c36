"""Along which paths does the experiment `paths` patch? Between which heads, from the document on and to the logits.

    direct    every module at the last token -> the logits: each layer's attn_out and mlp_out, each head, the embedding
    paths     each sending head, and the embedding of the document -> z, q, k_view and v_view of each receiving head

A head reads its queries at its own region, and its keys and values at the sender's. The heads are chosen on the same
pairs that then measure their paths, which flatters what they do.

Cost: n^2 paths and more a pair for n heads, each a patch at its receiver; direct effects cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from relscope.errors import InputError
from relscope.interventions import Path, Site, all_sites
from relscope.results import PathEnd
from relscope.study.experiments import Paths, is_causal
from relscope.study.joint import head_name, head_site

MODULES: Final = ("attn_out", "mlp_out", "z")
"""Components with a direct and a total effect at the last token."""
_EMBEDDING: Final = Site("resid_pre", 0, "document")


def direct_paths(n_layers: int, n_heads: int) -> list[Path]:
    """From every module at the last token to the logits."""
    modules = all_sites(MODULES, ("last",), n_layers, n_heads)
    return [Path(site) for site in (*modules, *all_sites(("resid_pre",), ("last",), 1, n_heads))]


def paths_between(senders: Sequence[Site], receivers: Sequence[Site], options: Paths, order: str) -> list[Path]:
    """Every path from one of the senders, or from the embedding of the document, that causality allows; each once.

    Args:
        senders: heads' outputs at regions.
        receivers: the same; each is a `z`, and its inputs are read at its own region or at the sender's.
        options: which inputs, in which variants.
        order: of the prompt's parts, such as "dqi".
    """
    paths = [
        Path(sender, receiver, variant)
        for variant in options.variants
        for sender in (_EMBEDDING, *senders)
        for head in receivers
        if reaches(sender, head, order)
        for receiver in (head, *_inputs(sender, head, options, variant))
    ]
    return list(dict.fromkeys(paths))


def reaches(sender: Site, receiver: Site, order: str) -> bool:
    """Whether a head can read what the sender writes: it lies in a later layer, and nowhere wholly before it."""
    is_later = sender == _EMBEDDING or receiver.layer > sender.layer
    return is_later and is_causal(f"{receiver.region}<-{sender.region}", order)


def require_paths_between(options: Paths, order: str) -> None:
    """Refuse named heads that are the end of no path; one that is named as both needs to be one of them.

    Raises:
        ValueError: names the option and the head.
    """
    if options.senders is None or options.receivers is None:
        return
    senders, receivers = ([head_site(name) for name in names] for names in (options.senders, options.receivers))
    ends = {end for sender in senders for receiver in receivers if reaches(sender, receiver, order)
            for end in (sender, receiver)}  # fmt: skip
    for option, sites, what in (
        ("senders", senders, "reaches none of the receivers"),
        ("receivers", receivers, "can read none of the senders"),
    ):
        for site in sites:
            if site not in ends:
                raise ValueError(
                    f"experiments.paths.{option}: {head_name(site)} {what}: a receiver lies in a later layer than its "
                    f"sender, and not before it in the order {order!r}"
                )


def path_place(path: Path) -> dict[str, Any]:
    """What a row says of where its path is: of a direct effect the module's own place."""
    sender, receiver = path.sender, path.receiver
    place = {"component": path.variant, "layer": sender.layer, "head": sender.head}
    if isinstance(receiver, Site):
        return {**place, "src": _name(sender), "dest": _name(receiver)}
    if path.variant != "frozen":
        raise InputError(f"an {path.variant} path to the logits is the sender's total effect: patch the sender instead")
    return {**place, "component": sender.component, "region": sender.region}


def _inputs(sender: Site, head: Site, options: Paths, variant: str) -> list[Site]:
    """Those of a head's inputs that a path can end in; frozen, its queries see a sender at their own region alone."""
    where = dict.fromkeys(options.inputs, sender.region)
    if "q" in where:
        where["q"] = head.region
        if variant == "frozen" and head.region != sender.region:
            del where["q"]
    return [Site(name, head.layer, region, head.head) for name, region in where.items()]


def _name(site: Site) -> str:
    return PathEnd(site.component, site.layer, site.head, site.region).name
