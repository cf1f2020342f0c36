"""What is to be run? One frozen configuration, from YAML or from Python, that decides every row.

Fields that change what a row means are part of a run's identity (`StudyConfig.identity`): a run folder is only ever
continued with the same ones. Where and how fast it runs (device, memory) may change from one session to the next.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from relscope.data import NegativeSampling
from relscope.errors import InputError
from relscope.interventions import DEFAULT_MEMORY_BYTES, LAYER_COMPONENTS, Site, all_sites
from relscope.prompts import DEFAULT_REGIONS, REGIONS, PromptTemplate

DEFAULT_HEAD_REGIONS = ("query", "instruction", "last")
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
_NOT_IDENTITY = {"device", "memory"}


def nearest(name: str, known: tuple[str, ...]) -> str:
    """The end of an error message about a name that does not exist."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(known)}"


def _regions(value: Any) -> Any:
    for region in value if isinstance(value, list | tuple) else ():
        if region not in REGIONS:
            raise ValueError(f"region {region!r} does not exist: {nearest(str(region), REGIONS)}")
    return tuple(value) if isinstance(value, list) else value


def _components(value: Any) -> Any:
    for component in value if isinstance(value, list | tuple) else ():
        if component not in LAYER_COMPONENTS:
            raise ValueError(f"component {component!r} does not exist: {nearest(str(component), LAYER_COMPONENTS)}")
    return tuple(value) if isinstance(value, list) else value


def _bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    parsed = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", value)
    if parsed is None or parsed[2].lower() not in _UNITS:
        raise ValueError(f"{value!r} is no amount of memory; write for example 1GiB or 500MiB")
    return int(float(parsed[1]) * _UNITS[parsed[2].lower()])


Regions = Annotated[tuple[str, ...], BeforeValidator(_regions), Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Negatives(_Section):
    """Which negative documents a query is paired with."""

    kind: Literal["hard", "random"] = "hard"
    per_query: int = Field(default=1, ge=1)
    depth: int = Field(default=100, ge=1)
    """Hard negatives are drawn from so many top documents of BM25 (or of the collection's run)."""


class Flow(_Section):
    """Experiment `flow`: whole components of a layer, at regions (experiment 1 of the paper)."""

    regions: Regions = DEFAULT_REGIONS
    components: Annotated[tuple[str, ...], BeforeValidator(_components), Field(min_length=1)] = LAYER_COMPONENTS


class Heads(_Section):
    """Experiment `heads`: every head's output `z`, at regions (experiments 3 and 5 of the paper)."""

    regions: Regions = DEFAULT_HEAD_REGIONS


class Experiments(_Section):
    """What is measured: each experiment with its options; one that is left out is not run."""

    flow: Flow | None = None
    heads: Heads | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_alone(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else value
        if isinstance(names, list | tuple):
            for name in names:
                if name not in cls.model_fields:
                    raise ValueError(
                        f"experiment {name!r} does not exist: {nearest(str(name), tuple(cls.model_fields))}"
                    )
            return {name: {} for name in names}
        if isinstance(value, Mapping):
            return {name: {} if options is None else options for name, options in value.items()}
        return value

    @model_validator(mode="after")
    def _something(self) -> Experiments:
        if self.flow is None and self.heads is None:
            raise ValueError("no experiment is chosen; choose flow, heads or both")
        return self


class StudyConfig(_Section):
    """A whole study. Every field has a default; `relscope run` without options runs it on the demo collection."""

    model: str = "smollm2-135m"
    adapter: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    data: str = "demo"
    negatives: Negatives = Negatives()
    pairs: int | None = Field(default=None, ge=1)
    """At most so many pairs, the first ones; None: all."""
    filter: Literal["all", "correct"] = "all"
    """`correct`: patch only pairs whose two verdicts are both right (the paper's choice)."""
    prompt: PromptTemplate = PromptTemplate()
    experiments: Experiments = Experiments(flow=Flow(), heads=Heads())
    direction: Literal["denoise", "noise"] = "denoise"
    seed: int = Field(default=0, ge=0)
    memory: Annotated[int, BeforeValidator(_bytes), Field(ge=1)] = DEFAULT_MEMORY_BYTES
    """Bound on the patched activations held at once, in bytes or as text such as "1GiB"."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise InputError("; ".join(_problems(error))) from None

    @classmethod
    def from_mapping(cls, fields: Mapping[str, Any], source: str) -> StudyConfig:
        """Build from what a YAML file holds; `source` begins every error message."""
        if not isinstance(fields, Mapping):
            raise InputError(f"{source}: a mapping of fields is needed, such as 'model: smollm2-135m'")
        try:
            return cls(**{str(name): value for name, value in fields.items()})
        except InputError as error:
            raise InputError(f"{source}: {error}") from None

    def identity(self) -> dict[str, Any]:
        """The fields that decide what the rows mean, as plain JSON values."""
        return self.model_dump(mode="json", exclude=_NOT_IDENTITY | {"prompt"})

    def sampling(self) -> NegativeSampling:
        """How negatives are drawn; the study's seed decides."""
        chosen = self.negatives
        return NegativeSampling(kind=chosen.kind, per_query=chosen.per_query, seed=self.seed, depth=chosen.depth)

    def sites(self, n_layers: int, n_heads: int) -> dict[str, list[Site]]:
        """The sites of each chosen experiment, on a model of this shape."""
        chosen = {}
        if self.experiments.flow is not None:
            flow = self.experiments.flow
            chosen["flow"] = all_sites(flow.components, flow.regions, n_layers, n_heads)
        if self.experiments.heads is not None:
            chosen["heads"] = all_sites(("z",), self.experiments.heads.regions, n_layers, n_heads)
        return chosen


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The fields that a YAML file holds; an empty file holds none.

    Raises:
        InputError: the file cannot be read, is not YAML, or does not hold a mapping.
    """
    try:
        fields = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise InputError(f"{path}: holds no mapping of fields, such as 'model: smollm2-135m'")
    return fields


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        path = [str(part) for part in problem["loc"]]
        if problem["type"] == "extra_forbidden":
            known = _fields_at(path[:-1])
            yield f"unknown field {'.'.join(path)!r}: {nearest(path[-1], known)}"
            continue
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "literal_error":
            expected = str(problem["ctx"]["expected"])
            message = f"{problem['input']!r} does not exist: {nearest(str(problem['input']), _quoted(expected))}"
        field = ".".join(path)
        yield f"{field}: {message}" if field else message


def _quoted(expected: str) -> tuple[str, ...]:
    return tuple(re.findall(r"'([^']*)'", expected))


def _fields_at(path: list[str]) -> tuple[str, ...]:
    """Field names of the section that a path of field names leads to."""
    sections: dict[str, type[BaseModel]] = {
        "": StudyConfig, "negatives": Negatives, "experiments": Experiments, "experiments.flow": Flow,
        "experiments.heads": Heads, "prompt": PromptTemplate,
    }  # fmt: skip
    return tuple(sections[".".join(path)].model_fields)
