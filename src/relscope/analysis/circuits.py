"""Which heads, at which regions, are the circuit, and of how many should be tried?

A circuit is a set of sites (layer, head, region) of all sites of a model at some regions that share no token. Kept
alone, all other sites are ablated; knocked out, its own are. Positions in none of the regions are left as they are in
both, in the empty circuit and in the full one too: with `other` among the regions there are none.

A circuit is kept as JSON with whatever decides what it means: the model's weights, prompt and data, the queries it was
selected by, the kind of ablation, and how faithful it was found to be.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from pydantic import ConfigDict, TypeAdapter, ValidationError

from relscope.analysis.head_sets import Head
from relscope.analysis.head_source import check_shape, doubt_of, model_name
from relscope.analysis.regions import disjoint
from relscope.errors import InputError
from relscope.results import read_json, write_whole

SHARES: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of all sites that circuits are measured at, those of Mueller et al., arXiv 2504.13151 (2025)."""
VERSION: Final = 1

RankedBy = Literal["magnitude", "effect"]


@dataclass(frozen=True)
class Circuit:
    """Heads at regions that carry the verdict; iterates over its members, as `ablated` takes them.

    Attributes:
        members: the strongest first.
        regions: at which all sites of the model were candidates; they share no token.
        n_layers, n_heads: of the model.
        model: its identity (`ModelIdentity`); the fingerprint decides whether another model is the same.
        loading: what the model is loaded by: model, adapter, revision, dtype.
        prompt: the template's fields.
        data: name and SHA-256 of the pairs it was selected by, and how their negatives were drawn.
        selection: id and text of each query it was selected by, or that a filter of the run judged and left out; it is
            never evaluated on these.
        ablation: kind, and the positions of means.
        settings: of the search: threshold, tolerance, ...
        faithfulness: what was measured on other queries: each metric's value with its interval, and on what.

    Raises:
        InputError: a member stands twice or is none of the candidates, or the regions share tokens.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    members: tuple[Head, ...]
    regions: tuple[str, ...]
    n_layers: int
    n_heads: int
    model: dict[str, Any]
    loading: dict[str, Any]
    prompt: dict[str, Any]
    data: dict[str, Any]
    selection: dict[str, str]
    ablation: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    faithfulness: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_regions(self.regions)
        seen = set()
        for head in self.members:
            if head in seen:
                raise InputError(f"circuit: {head.name} stands twice among its members")
            seen.add(head)
            inside = 0 <= head.layer < self.n_layers and 0 <= head.head < self.n_heads
            if not inside or head.region not in self.regions:
                raise InputError(
                    f"circuit: {head.name} is none of the sites of {self.n_layers} layers with {self.n_heads} "
                    f"heads at {', '.join(self.regions)}"
                )

    def __iter__(self) -> Iterator[Head]:
        return iter(self.members)

    def __len__(self) -> int:
        return len(self.members)

    @property
    def all_sites(self) -> tuple[Head, ...]:
        """Every candidate, by region, layer and head."""
        return all_heads(self.n_layers, self.n_heads, self.regions)

    @property
    def others(self) -> OtherSites:
        """The candidates that are no members: ablated, they leave the circuit alone."""
        return OtherSites(self, without(self.all_sites, self.members))

    def check_use(self, identity: Mapping[str, Any], n_layers: int, n_heads: int) -> str | None:
        """Refuse a model of other shape than that in which it was found, and say where another has the same.

        Args:
            identity: of the model that it would be used in (`ModelIdentity`).
            n_layers, n_heads: its shape.

        Returns:
            What a reader must know; None where it is the circuit's model, in whatever number format.

        Raises:
            InputError: names both models and their shapes.
        """
        check_shape("the circuit", self.model, (self.n_layers, self.n_heads), identity, (n_layers, n_heads))
        return doubt_of("the circuit", self.model, identity)

    def check_model(self, identity: Mapping[str, Any]) -> None:
        """Refuse a model with other weights.

        Raises:
            InputError: names both models.
        """
        if identity["fingerprint"] != self.model["fingerprint"]:
            raise InputError(
                f"the circuit was found in {model_name(self.model)}, and {model_name(identity)} has other weights "
                f"(fingerprint {str(self.model['fingerprint'])[:12]} and {str(identity['fingerprint'])[:12]}); a "
                "circuit means nothing in another model"
            )

    def to_json(self) -> str:
        """One JSON object with all fields; members as [layer, head, region]."""
        fields = {"relscope_circuit": VERSION} | {
            name: value for name, value in asdict(self).items() if name != "members"
        }
        text = json.dumps(fields | {"members": []}, ensure_ascii=False, allow_nan=False, indent=1)
        lines = ",\n".join(f"  {json.dumps(member)}" for member in self.members)
        return text.replace('"members": []', f'"members": [\n{lines}\n ]' if lines else '"members": []') + "\n"

    def save(self, path: str | Path) -> Path:
        """Write `to_json` to a file, whole or not at all."""
        write_whole(Path(path), self.to_json().encode())
        return Path(path)

    @classmethod
    def from_json(cls, text: str) -> Circuit:
        """Read what `to_json` wrote.

        Raises:
            InputError: it is no circuit; names the field.
        """
        try:
            return cls._from_fields(json.loads(text))
        except ValueError as failure:
            if isinstance(failure, InputError):
                raise
            raise InputError(f"not JSON ({failure}); a circuit is the circuit.json of `relscope circuit`") from failure

    @classmethod
    def load(cls, path: str | Path) -> Circuit:
        """Read a circuit's file.

        Raises:
            InputError: names the file, and what is wrong with it.
        """
        try:
            return cls._from_fields(read_json(Path(path)))
        except InputError as failure:
            message = str(failure)
            raise failure if message.startswith(str(path)) else InputError(f"{path}: {message}") from None

    @classmethod
    def _from_fields(cls, fields: Any) -> Circuit:
        version = fields.pop("relscope_circuit", None) if isinstance(fields, dict) else None
        if version != VERSION:
            said = "no field relscope_circuit" if version is None else f"relscope_circuit is {version!r}"
            raise InputError(
                f"no circuit that this relscope reads ({said}); give the circuit.json of `relscope circuit`"
            )
        try:
            return TypeAdapter(cls).validate_python(fields)
        except ValidationError as error:
            problem = error.errors()[0]
            if isinstance(cause := problem.get("ctx", {}).get("error"), InputError):
                raise cause from None
            path = ".".join(str(part) for part in problem["loc"])
            raise InputError(f"circuit, field {path}: {problem['msg']}") from error


class OtherSites(tuple[Head, ...]):
    """The candidates that are no members of a circuit; they know its model, as the circuit does.

    Attributes:
        circuit: whose.
    """

    circuit: Circuit

    def __new__(cls, circuit: Circuit, sites: Iterable[Head]) -> OtherSites:
        """Some sites of a circuit's candidates."""
        others = super().__new__(cls, sites)
        others.circuit = circuit
        return others

    def __getnewargs__(self) -> tuple[Circuit, tuple[Head, ...]]:
        return self.circuit, tuple(self)

    def check_use(self, identity: Mapping[str, Any], n_layers: int, n_heads: int) -> str | None:
        """As `Circuit.check_use`."""
        return self.circuit.check_use(identity, n_layers, n_heads)


def all_heads(n_layers: int, n_heads: int, regions: Sequence[str]) -> tuple[Head, ...]:
    """Every head at every region."""
    return tuple(Head(layer, head, r) for r in regions for layer in range(n_layers) for head in range(n_heads))


def without(sites: Iterable[Head], removed: Iterable[Head]) -> tuple[Head, ...]:
    """Some sites, in their order, less others."""
    gone = set(removed)
    return tuple(site for site in sites if site not in gone)


def check_regions(regions: Sequence[str]) -> None:
    """Refuse regions that share tokens: a position would be kept at one of them and ablated at the other.

    By their names alone; of prompts that end within a part, `last` and that part share a token as well.

    Raises:
        InputError: names those that may be used together.
    """
    right = disjoint(regions)
    if not regions or set(right) != set(regions):
        raise InputError(
            f"regions {', '.join(regions) or '(none)'}: a circuit needs regions that share no token, such as "
            f"{', '.join(right) or 'document, query, instruction, last'}"
        )


def ranked_sites(effects: pd.DataFrame, by: RankedBy = "magnitude") -> pd.DataFrame:
    """Heads at regions, those first that a circuit begins with; ties by region, layer and head.

    Args:
        effects: of `site_effects`, of one direction and experiment; heads only (component z) count.
        by: `magnitude`: the largest |effect| first; `effect`: the largest effect first, those that hinder last.

    Returns:
        Columns layer, head, region, effect, numbered from 0.

    Raises:
        InputError: there are no heads, one comes twice, or an effect is not finite.
    """
    heads = effects[(effects["component"] == "z") & effects["head"].notna()]
    if not len(heads):
        raise InputError("effects: there is no head among them; a circuit needs the experiment heads")
    repeated = heads[heads.duplicated(["layer", "head", "region"])]
    if len(repeated):
        layer, head, region = repeated.iloc[0][["layer", "head", "region"]]
        raise InputError(
            f"effects: L{layer}H{head}@{region} comes more than once; choose one direction and experiment first"
        )
    effect = heads["effect"].to_numpy(dtype=np.float64)
    if not np.isfinite(effect).all():
        raise InputError("effects: one is not finite")
    strength = np.abs(effect) if by == "magnitude" else effect
    keys = (heads["head"].to_numpy(np.intp), heads["layer"].to_numpy(np.intp), heads["region"].astype(str), -strength)
    ranked = heads.iloc[np.lexsort(keys)][["layer", "head", "region", "effect"]]
    return ranked.assign(region=ranked["region"].astype(str)).reset_index(drop=True)


def heads_of(ranked: pd.DataFrame) -> tuple[Head, ...]:
    """The sites of a ranking, in its order."""
    return tuple(
        Head(int(layer), int(head), str(region))
        for layer, head, region in zip(ranked["layer"], ranked["head"], ranked["region"], strict=True)
    )


def circuit_sizes(n_sites: int, shares: Sequence[float] = SHARES) -> tuple[int, ...]:
    """Numbers of sites at shares of all of them, rounded, at least one, each once; all sites always come last.

    Raises:
        InputError: a share is not in (0, 1].
    """
    for share in shares:
        if not 0 < share <= 1 or not math.isfinite(share):
            raise InputError(f"share {share} of all sites: give numbers above 0 and at most 1")
    return tuple(sorted({max(1, round(share * n_sites)) for share in shares} | {n_sites}))
