"""What can a study measure, and with which options? Each experiment is a section of the configuration.

`flow`, `heads`, `edges`, `joint` and `paths` patch and give rows; `interaction` and `vocabulary` are readouts with
tables of their own.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from relscope.choices import EDGE_COMPONENTS, RESIDUAL_COMPONENTS, VARIANTS
from relscope.errors import InputError, did_you_mean
from relscope.prompts import DEFAULT_REGIONS, REGIONS
from relscope.results import HEAD_INPUTS
from relscope.study.head_names import head_at, head_name_of

DEFAULT_HEAD_REGIONS = ("query", "instruction", "last")
DEFAULT_EDGES = (
    "query<-document",
    "last<-document",
    "last<-query",
    "last<-instruction",
    "instruction<-query",
    "instruction<-document",
    "query<-instruction",
)
"""Destination and source of experiment 6 of the paper."""
EXPERIMENTS = ("flow", "heads", "edges", "joint", "paths", "interaction", "vocabulary")
READOUTS = ("interaction", "vocabulary")
"""Experiments that patch nothing."""
WITH_REGIONS = ("flow", "heads", "vocabulary")
"""Experiments that have the option `regions`."""


def experiment_options(value: Any) -> dict[str, Any]:
    """The chosen experiments with their options, from any of the ways to write them in YAML.

    `flow`, `[flow, heads]`, `{flow: {regions: [last]}, heads: }`, or a list of such mappings.

    Raises:
        InputError: an experiment that does not exist, or options that are no mapping.
    """
    chosen: dict[str, Any] = {}
    for item in value if isinstance(value, list | tuple) else [value]:
        for name, options in item.items() if isinstance(item, Mapping) else [(item, None)]:
            if name not in EXPERIMENTS:
                raise InputError(f"experiment {name!r} does not exist: {did_you_mean(str(name), EXPERIMENTS)}")
            if options is not None and not isinstance(options, Mapping):
                raise InputError(
                    f"experiment {name}: a mapping of options is needed, such as 'regions: [last]', "
                    f"not {reprlib.repr(options)}"
                )
            chosen[name] = dict(options or {})
    return chosen


def _each_once(example: str, read: Callable[[Any], str], value: Any, *, may_be_empty: bool = False) -> Any:
    """Names from a list or a single one, each as `read` gives it and once."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not (names or may_be_empty):
        raise ValueError(f"a list of names is needed, such as [{example}], not {reprlib.repr(value)}")
    return tuple(dict.fromkeys(map(read, names)))


def _known(kind: str, known: tuple[str, ...], name: Any) -> str:
    if name not in known:
        raise ValueError(f"{kind} {name!r} does not exist: {did_you_mean(str(name), known)}")
    return str(name)


def _edge(value: Any) -> str:
    dest, arrow, src = str(value).partition("<-")
    if not arrow:
        raise ValueError(f"{value!r} is no edge: write destination<-source, such as query<-document")
    return "<-".join(_known("region", REGIONS, end.strip()) for end in (dest, src))


def _head(value: Any) -> str:
    return head_name_of(*head_at(str(value)))


def _list_of(kind: str, known: tuple[str, ...], *, may_be_empty: bool = False) -> BeforeValidator:
    read = partial(_known, kind, known)
    return BeforeValidator(partial(_each_once, ", ".join(known[:2]), read, may_be_empty=may_be_empty))


Regions = Annotated[tuple[str, ...], _list_of("region", REGIONS)]
Components = Annotated[tuple[str, ...], _list_of("component", RESIDUAL_COMPONENTS)]
OfEdges = Annotated[tuple[str, ...], _list_of("component", EDGE_COMPONENTS)]
EdgeNames = Annotated[tuple[str, ...], BeforeValidator(partial(_each_once, "query<-document, last<-query", _edge))]
Inputs = Annotated[tuple[str, ...], _list_of("input", HEAD_INPUTS, may_be_empty=True)]
Variants = Annotated[tuple[str, ...], _list_of("variant", VARIANTS)]
HeadNames = Annotated[tuple[str, ...], BeforeValidator(partial(_each_once, "L12H3@last, L8H11@query", _head))]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Flow(_Section):
    """Experiment `flow`: whole components of a layer, at regions (experiment 1 of the paper)."""

    regions: Regions = DEFAULT_REGIONS
    components: Components = ("attn_out", "mlp_out", "resid_post")


class Heads(_Section):
    """Experiment `heads`: every head's output `z`, at regions (experiments 3 and 5 of the paper)."""

    regions: Regions = DEFAULT_HEAD_REGIONS


class Edges(_Section):
    """Experiment `edges`: every head's attention from one region to another (experiment 6 of the paper)."""

    components: OfEdges = ("scores", "pattern")
    edges: EdgeNames | None = None
    """Such as "query<-document": the destination, where attention looks from, and the source, where it looks to. None:
    those of the paper that the order of the prompt allows."""


class JointHeads(_Section):
    """Experiment `joint`: heads patched together, in pairs and in a growing set.

    The heads are those of the largest effects in the run's own rows of `heads`, over all of its pairs, unless they are
    named.
    """

    top: int = Field(default=8, ge=1, strict=True)
    """So many heads at each region of `heads`, where no heads are named."""
    heads: HeadNames | None = None
    """Such as "L12H3@last": layer, head, region; in the order in which the growing set takes them."""

    @model_validator(mode="after")
    def _more_than_one(self) -> JointHeads:
        if self.heads is not None and len(self.heads) < 2:
            raise ValueError(
                f"joint needs at least two heads, and heads names {self.heads[0]} alone: name more, such as "
                f"'joint: {{heads: [L12H3@last, L8H11@query]}}'; what one head does alone the experiment heads measures"
            )
        return self


class Paths(_Section):
    """Experiment `paths`: direct effects of all modules at the last token, and paths between heads (experiment 10).

    The heads are those of the largest effects in the run's own rows of `heads`, over all of its pairs, unless they are
    named.
    """

    top: int = Field(default=4, ge=0, strict=True)
    """So many heads at each region of `heads`, where none are named; 0: direct effects alone."""
    senders: HeadNames | None = None
    """Such as "L8H11@query": layer, head, region. The embedding of the document is always one."""
    receivers: HeadNames | None = None
    inputs: Inputs = HEAD_INPUTS
    """What of a receiving head, beside its output `z`, alone sees the change."""
    variants: Variants = ("frozen",)
    """frozen: the direct path from sender to receiver. open: through everything in between."""

    @model_validator(mode="after")
    def _both_ends(self) -> Paths:
        for given, missing in (("senders", "receivers"), ("receivers", "senders")):
            if self.top == 0 and getattr(self, given) is not None and getattr(self, missing) is None:
                raise ValueError(f"with {given} named and top: 0 there are no {missing}: name them too, or raise top")
        return self

    @property
    def chooses(self) -> bool:
        """Whether some of its heads are chosen by their effects."""
        return self.top > 0 and (self.senders is None or self.receivers is None)


class Interaction(_Section):
    """Readout `interaction`: how each head matches query and document in what it attends to (experiment 7)."""


class Vocabulary(_Section):
    """Readout `vocabulary`: what heads and MLPs write, in words and into LD, and the logit lens (experiment 4)."""

    regions: Regions = DEFAULT_HEAD_REGIONS
    """Of the words and of the logit lens; what is written into LD is read at the last token."""


class Experiments(_Section):
    """What is measured: each experiment with its options; one that is left out is not run."""

    flow: Flow | None = None
    heads: Heads | None = None
    edges: Edges | None = None
    joint: JointHeads | None = None
    paths: Paths | None = None
    interaction: Interaction | None = None
    vocabulary: Vocabulary | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        return experiment_options(value) if isinstance(value, str | list | tuple) else value

    @model_validator(mode="after")
    def _something(self) -> Experiments:
        if not self.chosen:
            raise ValueError(f"no experiment is chosen; choose from {', '.join(EXPERIMENTS)}")
        if self.joint is not None and self.joint.heads is None and self.heads is None:
            raise ValueError(
                "joint chooses its heads by their effects in the experiment heads, which is not chosen: choose heads "
                "too, or name some, such as 'joint: {heads: [L12H3@last, L8H11@query]}'"
            )
        if self.joint is not None and self.joint.heads is None and self.joint.top * self._n_head_regions == 1:
            raise ValueError(
                "joint needs at least two heads, and takes one: the strongest at the only region of heads; give a "
                "larger top, such as 'joint: {top: 4}'"
            )
        if self.paths is not None and self.paths.chooses and self.heads is None:
            raise ValueError(
                "paths chooses its heads by their effects in the experiment heads, which is not chosen: choose heads "
                "too, or name some, such as 'paths: {senders: [L8H11@query], receivers: [L12H3@last]}', or take direct "
                "effects alone with 'paths: {top: 0}'"
            )
        return self

    @property
    def chosen(self) -> tuple[str, ...]:
        """Names of the experiments that are run."""
        return tuple(name for name in EXPERIMENTS if getattr(self, name) is not None)

    @property
    def _n_head_regions(self) -> int:
        return 0 if self.heads is None else len(self.heads.regions)

    def named_regions(self) -> Iterator[tuple[str, str]]:
        """Every region that an option names, after the option's path."""
        for name in WITH_REGIONS:
            if (section := getattr(self, name)) is not None:
                yield from ((f"{name}.regions", region) for region in section.regions)
        if self.edges is not None:
            yield from (("edges.edges", end) for edge in self.edges.edges or () for end in ends(edge))
        if self.joint is not None:
            yield from (("joint.heads", head_at(name)[2]) for name in self.joint.heads or ())
        for option, names in self.named_path_heads():
            yield from ((option, head_at(name)[2]) for name in names)

    def named_path_heads(self) -> Iterator[tuple[str, tuple[str, ...]]]:
        """The heads that `paths` is told to take, after the option's path."""
        if self.paths is not None:
            yield "paths.senders", self.paths.senders or ()
            yield "paths.receivers", self.paths.receivers or ()


def ends(edge: str) -> tuple[str, str]:
    """Destination and source of an edge."""
    dest, _, src = edge.partition("<-")
    return dest, src


def is_causal(edge: str, order: str) -> bool:
    """Whether any of the source stands at, or before, any of the destination in prompts of an order such as "dqi"."""
    dest, src = ends(edge)
    return _extent(src, order)[0] <= _extent(dest, order)[1]


def _extent(region: str, order: str) -> tuple[float, float]:
    """Where a region begins and ends, in parts of the prompt."""
    if region in ("all", "other"):
        return 0.0, math.inf
    if region == "last":
        return math.inf, math.inf
    part, _, end = region.partition(".")
    start = float(order.index(part[0]))
    first, last = {"document_a": (0.0, 0.4), "document_b": (0.5, 0.9)}.get(part, (0.0, 0.9))
    return {"first": (start + first,) * 2, "last": (start + last,) * 2}.get(end, (start + first, start + last))
