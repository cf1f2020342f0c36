"""Which heads should be ablated together, and with which sets should they be compared?

Sets of heads from measured effects (`site_effects`), each head at the region it was chosen for:

    Doc-k, Query-k, Inst-k, Last-k    the k heads of largest |effect| at document, query, instruction, last
    Mixed-n                           all of these sets together; a head that stands in two is ablated at both regions

and controls: `Bottom-k`, the k heads of smallest |effect| at a region; `Random-k`, k heads drawn at random at all
positions, as in Table 1 of Liu, Mao and Wen (arXiv 2504.07898); and `Matched-k`, drawn among the heads that were not
chosen, at the same regions and with the same distribution over depth, so that place and depth alone cannot explain
what the chosen heads do.

Queries by which heads are chosen and queries on which their ablation is evaluated must not be the same: an effect that
is large by chance on some queries is large on these alone. `split_queries` parts them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from relscope.analysis.head_source import HeadSource
from relscope.analysis.heads import top_heads
from relscope.errors import InputError
from relscope.results import Run, make_folder, write_whole

SET_REGIONS: Final = ("document", "query", "instruction", "last")
"""Regions whose heads make up the sets, in the order of the paper's Table 1."""
HEAD_SET_VERSION: Final = 3
"""The `schema_version` that is written; files of version 2 have no `query_texts`, and those of version 1 and those made
by hand have no version and no `source`."""
_READABLE: Final = (None, 2, HEAD_SET_VERSION)
N_DRAWS: Final = 20
N_DEPTHS: Final = 4
"""Equal parts of the layers within which matched heads are drawn."""

_SHORT = {"document": "Doc", "instruction": "Inst"}


class Head(NamedTuple):
    """A head at a region."""

    layer: int
    head: int
    region: str

    @property
    def name(self) -> str:
        """`L12H3@last`, as rows, configurations and command lines name it."""
        return f"L{self.layer}H{self.head}@{self.region}"


@dataclass(frozen=True)
class HeadSet:
    """Heads that are ablated together, each at its region; iterates over its members.

    Attributes:
        name: for display.
        members: the heads.
        chosen_on: ids of the queries by which they were chosen, on which they must not be evaluated; empty: not known.
        source: the run by which they were chosen, with its model; None: not known.
        held_out: ids of queries that the run judged and that chose nothing (its filter); not evaluated on either.
        query_texts: the texts of these queries, by id. A query is known by its text, since ids of other data may be the
            same; where it has none here, by its id.

    Raises:
        InputError: a member stands twice.
    """

    name: str
    members: tuple[Head, ...]
    chosen_on: tuple[str, ...] = ()
    source: HeadSource | None = None
    held_out: tuple[str, ...] = ()
    query_texts: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if len(set(self.members)) != len(self.members):
            twice = next(head for n, head in enumerate(self.members) if head in self.members[:n])
            raise InputError(f"head set {self.name!r} has layer {twice.layer}, head {twice.head} twice at one region")

    def __iter__(self) -> Iterator[Head]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    def check_use(self, identity: Mapping[str, Any], n_layers: int, n_heads: int) -> str | None:
        """Refuse a model of other shape than that in which they were chosen, if it is known (`HeadSource.check_use`).

        Raises:
            InputError: names both models and their shapes.
        """
        return None if self.source is None else self.source.check_use(self.name, identity, n_layers, n_heads)

    def to_json(self) -> str:
        """One JSON object: name, members, each as [layer, head, region], and the other attributes where known."""
        queries = {"chosen_on": self.chosen_on, "held_out": self.held_out}
        known: dict[str, Any] = {name: ids for name, ids in queries.items() if ids}
        known |= {"query_texts": dict(self.query_texts)} if self.query_texts else {}
        known |= {"source": asdict(self.source)} if self.source else {}
        fields = {"schema_version": HEAD_SET_VERSION, "name": self.name, "members": self.members, **known}
        return json.dumps(fields, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> HeadSet:
        """Read what `to_json` wrote, now or before it had a `schema_version`.

        Raises:
            InputError: it is no head set, which says what one looks like; or one of another version.
        """
        try:
            given = json.loads(text)
            members = tuple(Head(_whole(layer), _whole(head), str(region)) for layer, head, region in given["members"])
            version = given.get("schema_version")
            if version not in _READABLE:
                raise InputError(f"has schema_version {version!r}; this relscope reads 2, {HEAD_SET_VERSION} or none")
            chosen_on, held_out, source = given.get("chosen_on", []), given.get("held_out", []), given.get("source")
            if not isinstance(chosen_on, list) or not isinstance(held_out, list):
                raise TypeError("chosen_on or held_out is no list")
            texts = {str(query_id): str(text) for query_id, text in dict(given.get("query_texts", {})).items()}
            chosen_in = None if source is None else HeadSource.from_fields(source)
            others = tuple(map(str, held_out))
            return cls(str(given["name"]), members, tuple(map(str, chosen_on)), chosen_in, others, texts)
        except (KeyError, TypeError, ValueError) as failure:
            if isinstance(failure, InputError):
                raise
            raise InputError(
                'a head set is a JSON object like {"name": "Last-1", "members": [[15, 4, "last"]]}, '
                "members as layer, head and region"
            ) from failure

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file, whole or not at all.

        Raises:
            RunError: the disk refuses.
        """
        make_folder(Path(path).parent)
        write_whole(Path(path), (self.to_json() + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> HeadSet:
        """Read what `save` wrote.

        Raises:
            InputError: the file cannot be read, or holds no head set.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise InputError(f"{path}: is not UTF-8 text") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from error


@dataclass(frozen=True)
class QuerySplit:
    """Queries by which heads are chosen, and queries on which their ablation is evaluated."""

    selection: tuple[str, ...]
    evaluation: tuple[str, ...]

    def __post_init__(self) -> None:
        shared = sorted(set(self.selection) & set(self.evaluation))
        if shared:
            raise InputError(f"query {shared[0]!r} is both selected by and evaluated on; use each for one of them")

    def check_selection(self, query_ids: Iterable[str]) -> None:
        """Refuse effects that were measured on queries other than those of the selection.

        Raises:
            InputError: names one of them.
        """
        _check_within(query_ids, self.selection, "heads may be chosen by", "selection")

    def check_evaluation(self, query_ids: Iterable[str]) -> None:
        """Refuse to ablate on queries other than those of the evaluation.

        Raises:
            InputError: names one of them.
        """
        _check_within(query_ids, self.evaluation, "an ablation may be evaluated on", "evaluation")


def split_queries(query_ids: Iterable[str], share: float = 0.5, seed: int = 0) -> QuerySplit:
    """Part queries at random: `share` of them for selection (rounded, at least one), the others for evaluation.

    Neither their order nor how often each comes matters.

    Raises:
        InputError: there are fewer than two queries, or the share is not between 0 and 1.
    """
    distinct = sorted(set(query_ids))
    if not 0 < share < 1:
        raise InputError(f"share is {share}; give a number between 0 and 1")
    if len(distinct) < 2:
        raise InputError(f"{len(distinct)} queries cannot be parted into selection and evaluation; give at least 2")
    n = min(max(1, round(share * len(distinct))), len(distinct) - 1)
    order = np.random.default_rng(seed).permutation(len(distinct))
    chosen = {distinct[i] for i in order[:n]}
    return QuerySplit(tuple(q for q in distinct if q in chosen), tuple(q for q in distinct if q not in chosen))


def set_size(k: int | float, n_layers: int, n_heads: int) -> int:
    """How many heads a set has: `k` itself, or where k is below 1, that share of all heads (rounded, at least one).

    `n_heads` are those of a layer.

    In models of a few hundred heads the paper's 20 of 1024 would be a large part; 0.02 is the same share of any model.

    Raises:
        InputError: k is not positive, or neither a whole number nor a share.
    """
    if k <= 0 or (k >= 1 and k != int(k)):
        raise InputError(f"k is {k}; give a number of heads, or a share of all heads between 0 and 1")
    return int(k) if k >= 1 else max(1, round(k * n_layers * n_heads))


def top_set(effects: pd.DataFrame, region: str, k: int, *, name: str | None = None, run: Run | None = None) -> HeadSet:
    """The `k` heads of largest |effect| at a region, ablated there; named Doc-k, Query-k and so on.

    Args:
        effects: of `site_effects`, of one direction and experiment.
        region: at which heads are chosen and ablated.
        k: number of heads; see `set_size` for shares.
        name: in place of the usual one.
        run: by which the effects were measured; the set then carries its model and its queries.

    Raises:
        InputError: fewer than k heads were measured at the region, or a head comes twice.
    """
    ranked = _ranked(effects, region, k)
    return _known(HeadSet(name or f"{_SHORT.get(region, region.capitalize())}-{k}", ranked[:k]), run)


def bottom_set(effects: pd.DataFrame, region: str, k: int) -> HeadSet:
    """The `k` heads of smallest |effect| at a region, ablated there. Arguments and errors are those of `top_set`."""
    ranked = _ranked(effects, region, k)
    return HeadSet(f"Bottom-{_SHORT.get(region, region.capitalize())}-{k}", ranked[::-1][:k])


def mixed_set(sets: Iterable[HeadSet]) -> HeadSet:
    """All members of some sets, each at its own region; named Mixed-n after their number."""
    members = tuple(dict.fromkeys(head for of in sets for head in of))
    return HeadSet(f"Mixed-{len(members)}", members)


def region_sets(
    effects: pd.DataFrame, k: int, regions: Sequence[str] = SET_REGIONS, *, run: Run | None = None
) -> list[HeadSet]:
    """The top set of each region, and all of them mixed: the paper's Table 1 with k = 20. Arguments as of `top_set`."""
    sets = [top_set(effects, region, k) for region in regions]
    return [_known(one, run) for one in (*sets, mixed_set(sets))]


def seen_by(run: Run) -> dict[str, Any]:
    """What a set chosen by a run knows of it, as fields of `HeadSet`: its model, and its queries with their texts."""
    chosen_on = run.manifest.patched_queries
    query_ids = dict.fromkeys(run.manifest.query_of.values())
    return {
        "chosen_on": chosen_on,
        "source": HeadSource.of_run(run),
        "held_out": tuple(query_id for query_id in query_ids if query_id not in set(chosen_on)),
        "query_texts": {pair.query_id: pair.query_text for pair in run.manifest.pairs},
    }


def random_sets(n_layers: int, n_heads: int, k: int, *, n_draws: int = N_DRAWS, seed: int = 0) -> list[HeadSet]:
    """Draws of `k` heads of the whole model, each ablated at all positions.

    Raises:
        InputError: the model has fewer heads.
    """
    if not 1 <= k <= n_layers * n_heads:
        raise InputError(f"k is {k}; give a number from 1 to {n_layers * n_heads}, the heads of the model")
    sets = []
    for number, generator in enumerate(_generators(n_draws, seed), start=1):
        drawn = sorted(generator.choice(n_layers * n_heads, size=k, replace=False).tolist())
        sets.append(HeadSet(f"Random-{k} {number}", tuple(Head(i // n_heads, i % n_heads, "all") for i in drawn)))
    return sets


def matched_sets(
    chosen: HeadSet, n_layers: int, n_heads: int, *, n_draws: int = N_DRAWS, seed: int = 0
) -> list[HeadSet]:
    """Draws of heads that were not chosen, as many at each region and depth as the chosen ones.

    A head that was chosen at any region is drawn at none. Depth is one of N_DEPTHS equal parts of the layers.

    Raises:
        InputError: a part has too few heads that were not chosen; choose fewer.
    """
    depth_of = [layer * N_DEPTHS // n_layers for layer in range(n_layers)]
    taken = {(head.layer, head.head) for head in chosen}
    free = {
        depth: [(layer, head) for layer in range(n_layers) if depth_of[layer] == depth for head in range(n_heads)
                if (layer, head) not in taken]
        for depth in range(N_DEPTHS)
    }  # fmt: skip
    wanted = Counter((head.region, depth_of[head.layer]) for head in chosen)
    for (region, depth), n in wanted.items():
        if n > len(free[depth]):
            raise InputError(
                f"head set {chosen.name!r} has {n} heads at {region!r} in part {depth + 1} of {N_DEPTHS} of the "
                f"layers, where {len(free[depth])} others are left to draw from; choose fewer heads"
            )
    sets = []
    for number, generator in enumerate(_generators(n_draws, seed), start=1):
        members = []
        for (region, depth), n in sorted(wanted.items()):
            drawn = sorted(generator.choice(len(free[depth]), size=n, replace=False).tolist())
            members += [Head(free[depth][i][0], free[depth][i][1], region) for i in drawn]
        sets.append(HeadSet(f"Matched-{len(chosen)} of {chosen.name} {number}", tuple(members)))
    return sets


def _known(heads: HeadSet, run: Run | None) -> HeadSet:
    return heads if run is None else replace(heads, **seen_by(run))


def _ranked(effects: pd.DataFrame, region: str, k: int) -> tuple[Head, ...]:
    """All heads measured at a region, the largest |effect| first."""
    ranked = top_heads(effects, region, max(1, len(effects)))
    if not 1 <= k <= len(ranked):
        raise InputError(f"k is {k}; give a number from 1 to {len(ranked)}, the heads measured at region {region!r}")
    if not all(math.isfinite(effect) for effect in ranked["effect"]):
        raise InputError(f"effects: a head at region {region!r} has an effect that is not finite")
    return tuple(Head(int(layer), int(head), region)
                 for layer, head in zip(ranked["layer"], ranked["head"], strict=True))  # fmt: skip


def _generators(n_draws: int, seed: int) -> list[np.random.Generator]:
    """One for each draw: the first draws are the same however many follow."""
    if n_draws < 1:
        raise InputError(f"n_draws is {n_draws}; give at least 1")
    return [np.random.default_rng((seed, number)) for number in range(n_draws)]


def _check_within(query_ids: Iterable[str], allowed: Sequence[str], what: str, side: str) -> None:
    outside = sorted(set(query_ids) - set(allowed))
    if outside:
        raise InputError(f"query {outside[0]!r} is not one that {what}: it is not in the {side} of the split")


def _whole(number: Any) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise TypeError(f"{number!r} is no layer or head")
    return number
