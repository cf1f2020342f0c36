"""What is to be run? One frozen configuration, from YAML or from Python, that decides every row.

Fields that change what a row means are part of a run's identity (`StudyConfig.identity`): a run folder is only ever
continued with the same ones. Where and how fast it runs (device, memory) may change from one session to the next; what
`precision: auto` came to is part of the identity.

A configuration is checked without torch, which is imported where sites are asked for.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from relscope.choices import DEFAULT_MEMORY_BYTES
from relscope.data import NegativeSampling
from relscope.errors import InputError, did_you_mean
from relscope.prompts import PromptTemplate, read_yaml
from relscope.results import TOTAL
from relscope.study.experiments import (
    DEFAULT_EDGES,
    Edges,
    Experiments,
    Flow,
    Heads,
    Interaction,
    JointHeads,
    Paths,
    Vocabulary,
    ends,
    experiment_options,
    is_causal,
)

if TYPE_CHECKING:
    from relscope.interventions import Site

PAIRWISE_PARTS = ("document_a", "document_b")
PROMPTS = ("pointwise-dqi", "pointwise-qdi", "pointwise-idq", "pairwise-dqi", "pairwise-idq")
_UNITS = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
}
_NOT_IDENTITY = {"device", "memory", "precision"}


def prompt_fields(prompt: str) -> dict[str, Any]:
    """The fields of a prompt that is given by its name, such as "pairwise-idq", or as a YAML file.

    Raises:
        InputError: there is no such prompt, or the file cannot be used.
    """
    if prompt.endswith((".yaml", ".yml")):
        PromptTemplate.from_yaml(prompt)  # so that whatever is wrong is said of this file
        return read_yaml(prompt)
    prompt_format, _, order = prompt.partition("-")
    order = order or "dqi"
    if f"{prompt_format}-{order}" not in PROMPTS:
        known = [name for name in PROMPTS if name.startswith(f"{prompt_format}-")]
        right = f"a {prompt_format} prompt is {' or '.join(known)}" if known else did_you_mean(prompt, PROMPTS)
        raise InputError(f"prompt: {prompt!r} does not exist: {right} (or give a FILE.yaml)")
    return {"format": prompt_format, "order": order}


def _bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    parsed = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-zA-Z]*)\s*", value)
    if parsed is None or parsed[2].lower() not in _UNITS:
        raise ValueError(f"{reprlib.repr(value)} is no amount of memory; write for example 1GiB or 500MiB")
    return int(float(parsed[1]) * _UNITS[parsed[2].lower()])


def _negatives(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


def _prompt(value: Any) -> Any:
    return prompt_fields(value) if isinstance(value, str) else value


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Negatives(_Section):
    """Which negative documents a query is paired with."""

    kind: Literal["hard", "random"] = "hard"
    per_query: int = Field(default=1, ge=1, strict=True)
    depth: int = Field(default=100, ge=1, strict=True)
    """Hard negatives are drawn from so many top documents of BM25 (or of the collection's run)."""


class StudyConfig(_Section):
    """A whole study. Every field has a default; `relscope run` without options runs it on the demo collection."""

    model: str = "smoljudge"
    adapter: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: Literal["auto", "float32", "bfloat16-weights", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    data: str = "demo"
    negatives: Annotated[Negatives, BeforeValidator(_negatives)] = Negatives()
    pairs: int | None = Field(default=None, ge=1, strict=True)
    """At most so many pairs, the first ones; None: all."""
    filter: Literal["all", "correct"] = "all"
    """`correct`: patch only pairs whose two verdicts are both right (the paper's choice)."""
    prompt: Annotated[PromptTemplate, BeforeValidator(_prompt)] = PromptTemplate()
    experiments: Experiments = Experiments(flow=Flow(), heads=Heads())
    direction: Literal["denoise", "noise"] = "denoise"
    seed: int = Field(default=0, ge=0, strict=True)
    memory: Annotated[int, BeforeValidator(_bytes), Field(ge=1, strict=True)] = DEFAULT_MEMORY_BYTES
    """Bound on the patched activations held at once, in bytes or as text such as "1GiB"."""
    precision: Literal["auto", "exact", "delta"] = "auto"
    """exact: float32 throughout. delta: matrix products of patched runs in bfloat16, of differences from the run that
    is patched, with a sample measured again exactly. auto: delta on a CUDA device, else exact."""

    def __init__(self, /, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise InputError("; ".join(config_problems(error, _fields_at))) from None

    @model_validator(mode="after")
    def _prompts_have_regions(self) -> StudyConfig:
        for option, region in self.experiments.named_regions():
            if self.prompt.format == "pointwise" and region.partition(".")[0] in PAIRWISE_PARTS:
                raise ValueError(
                    f"experiments.{option}: region {region!r} does not exist in a pointwise prompt, which has one "
                    "document: use 'document', or a pairwise prompt"
                )
        return self

    @model_validator(mode="after")
    def _attention_looks_back(self) -> StudyConfig:
        order, experiments = self.prompt.order, self.experiments
        for edge in (experiments.edges.edges or ()) if experiments.edges is not None else ():
            if not is_causal(edge, order):
                dest, src = ends(edge)
                raise ValueError(
                    f"experiments.edges.edges: {edge!r} is impossible in the order {order!r}: {src} stands behind "
                    f"{dest}, and attention looks back only; leave it out, turn it round, or choose another order"
                )
        if experiments.interaction is not None and not is_causal("query<-document", order):
            raise ValueError(
                f"experiments.interaction: needs the query behind the document, where it can look back at it; in the "
                f"order {order!r} it stands before: leave interaction out, or choose the order 'dqi' or 'idq'"
            )
        return self

    @model_validator(mode="after")
    def _paths_are_possible(self) -> StudyConfig:
        if self.experiments.paths is not None:
            from relscope.study.paths import require_paths_between

            require_paths_between(self.experiments.paths, self.prompt.order)
        return self

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Any], source: str) -> StudyConfig:
        """Build from what a YAML file holds; `source` begins every error message.

        A field without a value has its default; an experiment without a value runs with its defaults.
        """
        if not isinstance(fields, Mapping):
            raise InputError(f"{source}: a mapping of fields is needed, such as 'model: smoljudge'")
        given = {str(name): v for name, v in fields.items() if v is not None or name not in cls.model_fields}
        try:
            if isinstance(given.get("experiments"), Mapping):
                given["experiments"] = experiment_options(given["experiments"])
            return cls(**given)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None

    def identity(self) -> dict[str, Any]:
        """The fields that decide what the rows mean, as plain JSON values."""
        fields = self.model_dump(mode="json", exclude=_NOT_IDENTITY | {"prompt"})
        fields["experiments"] = {name: chosen for name, chosen in fields["experiments"].items() if chosen is not None}
        if self.experiments.edges is not None:
            fields["experiments"]["edges"]["edges"] = list(self.edges)
        return fields

    @property
    def edges(self) -> tuple[str, ...]:
        """The edges that are measured: those named, or those of the paper that the order of the prompt allows."""
        chosen = self.experiments.edges
        if chosen is None or chosen.edges is None:
            return tuple(edge for edge in DEFAULT_EDGES if chosen is not None and is_causal(edge, self.prompt.order))
        return chosen.edges

    def sampling(self) -> NegativeSampling:
        """How negatives are drawn; the study's seed decides."""
        chosen = self.negatives
        return NegativeSampling(kind=chosen.kind, per_query=chosen.per_query, seed=self.seed, depth=chosen.depth)

    def sites(self, n_layers: int, n_heads: int) -> dict[str, list[Site]]:
        """The sites of each chosen experiment that patches, on a model of this shape.

        Not of `joint` and `paths`: which heads they take is known when `heads` is measured. Of `paths` the total
        effects that its direct ones are parts of, as far as no other experiment measures them.
        """
        from relscope.interventions import all_sites
        from relscope.study.paths import MODULES

        chosen: dict[str, list[Site]] = {}
        if self.experiments.flow is not None:
            flow = self.experiments.flow
            chosen["flow"] = all_sites(flow.components, flow.regions, n_layers, n_heads)
        if self.experiments.heads is not None:
            chosen["heads"] = all_sites(("z",), self.experiments.heads.regions, n_layers, n_heads)
        if self.experiments.edges is not None:
            components = self.experiments.edges.components
            chosen["edges"] = [
                site
                for dest, src in map(ends, self.edges)
                for site in all_sites(components, (dest,), n_layers, n_heads, sources=(src,))
            ]
        if self.experiments.paths is not None:
            measured = {site for of in chosen.values() for site in of}
            totals = [site for site in all_sites(MODULES, ("last",), n_layers, n_heads) if site not in measured]
            chosen |= {TOTAL: totals} if totals else {}
        return chosen


def config_problems(error: ValidationError, fields_at: Callable[[list[str]], tuple[str, ...]]) -> Iterator[str]:
    """What is wrong with a configuration, in our own words; `fields_at` names the fields of a section by its path."""
    for problem in error.errors(include_url=False):
        path = [str(part) for part in problem["loc"]]
        given = problem["input"]
        message = problem["msg"]
        if problem["type"] == "extra_forbidden":
            fields = fields_at(path[:-1])
            right = did_you_mean(path[-1], fields) if fields else f"{path[-2]} has no options; leave it out"
            yield f"unknown field {'.'.join(path)!r}: {right}"
            continue
        if problem["type"] == "literal_error":
            known = re.findall(r"'([^']*)'", str(problem["ctx"]["expected"]))
            message = f"{reprlib.repr(given)} does not exist: {did_you_mean(str(given), tuple(known))}"
        elif problem["type"] == "model_type":
            message = f"a mapping of {', '.join(fields_at(path))} is needed, not {reprlib.repr(given)}"
        elif problem["type"] != "value_error":
            message = f"{message.replace('Input should', 'should', 1)}, not {reprlib.repr(given)}"
        yield ": ".join([".".join(path)] * bool(path) + [message.removeprefix("Value error, ")])


def _fields_at(path: list[str]) -> tuple[str, ...]:
    """Field names of the section that a path of field names leads to."""
    sections: dict[str, type[BaseModel]] = {
        "": StudyConfig, "negatives": Negatives, "prompt": PromptTemplate, "experiments": Experiments,
        "experiments.flow": Flow, "experiments.heads": Heads, "experiments.edges": Edges,
        "experiments.joint": JointHeads, "experiments.paths": Paths, "experiments.interaction": Interaction,
        "experiments.vocabulary": Vocabulary,
    }  # fmt: skip
    return tuple(sections[".".join(path)].model_fields)
