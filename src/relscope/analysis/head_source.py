"""In which model were heads chosen, and may they be used in this one?

A head is a place in a model. In a model of other shape the place is another one or none: refused. In another model of
the same shape it is there, and may do something else: in a tuned model beside its base that is a question worth asking,
so it is told and not refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from relscope.errors import InputError
from relscope.results import Run


@dataclass(frozen=True)
class HeadSource:
    """The run by which heads were chosen, and its model.

    Attributes:
        run: the folder, for display.
        run_identity: the hash of the run's identity.
        model, adapter, revision, dtype, fingerprint: which weights these are (`ModelIdentity`).
        n_layers, n_heads: of the model.
        asked: the model's name as the run was given it, such as "smoljudge", where that is another one; None: it is
            not, or not known.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    run: str
    run_identity: str
    model: str
    adapter: str | None
    revision: str | None
    dtype: str
    fingerprint: str
    n_layers: int
    n_heads: int
    asked: str | None = None

    @classmethod
    def of_run(cls, run: Run) -> HeadSource:
        """What the manifest of a run says."""
        identity, shape = run.manifest.identity["model"], run.manifest.model_shape
        asked = run.manifest.identity["config"].get("model")
        return cls(
            run=str(run.directory),
            run_identity=run.manifest.identity_hash,
            model=str(identity["name"]),
            adapter=identity.get("adapter"),
            revision=identity.get("revision"),
            dtype=str(identity["dtype"]),
            fingerprint=str(identity["fingerprint"]),
            n_layers=shape["n_layers"],
            n_heads=shape["n_heads"],
            asked=None if asked == identity["name"] else asked,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """Which weights these are, by the names of `ModelIdentity`."""
        return {"name": self.model, "adapter": self.adapter, "revision": self.revision, "dtype": self.dtype,
                "fingerprint": self.fingerprint}  # fmt: skip

    @property
    def model_text(self) -> str:
        """The model for display: as it was asked for, and what that is."""
        named = model_name(self.identity)
        return named if self.asked is None else f"{self.asked} ({named})"

    @classmethod
    def from_fields(cls, fields: Any) -> HeadSource:
        """Read what `dataclasses.asdict` gave.

        Raises:
            InputError: names the field.
        """
        try:
            return TypeAdapter(cls).validate_python(fields)
        except ValidationError as error:
            problem = error.errors()[0]
            path = ".".join(str(part) for part in ("source", *problem["loc"]))
            raise InputError(f"head set, field {path}: {problem['msg']}") from error

    def check_use(self, name: str, identity: Mapping[str, Any], n_layers: int, n_heads: int) -> str | None:
        """Refuse a model of other shape, and say where another model has the same.

        Args:
            name: of the heads.
            identity: of the model that they would be used in (`ModelIdentity`).
            n_layers, n_heads: its shape.

        Returns:
            What a reader must know; None where it is the model in which they were chosen. Number formats have
            fingerprints of their own: where they differ, name, adapter and revision decide.

        Raises:
            InputError: names both models and their shapes.
        """
        check_shape(f"head set {name!r}", self.identity, (self.n_layers, self.n_heads), identity, (n_layers, n_heads))
        return doubt_of(name, self.identity, identity)


def check_shape(
    what: str,
    chosen_in: Mapping[str, Any],
    shape: tuple[int, int],
    used_in: Mapping[str, Any],
    shape_there: tuple[int, int],
) -> None:
    """Refuse to use heads in a model of other shape, given as numbers of layers and of heads a layer.

    Raises:
        InputError: names both models and their shapes.
    """
    if shape != shape_there:
        raise InputError(
            f"{what} was chosen in {model_name(chosen_in)}, with {shape[0]} layers of {shape[1]} heads, and "
            f"{model_name(used_in)} has {shape_there[0]} of {shape_there[1]}: its heads are none of this model's; "
            "choose by a run of it"
        )


def doubt_of(what: str, chosen_in: Mapping[str, Any], used_in: Mapping[str, Any]) -> str | None:
    """What a reader must know where heads are used in another model of the same shape; None where it is the same.

    Number formats have fingerprints of their own: where they differ, name, adapter and revision decide.
    """
    if used_in.get("dtype") == chosen_in.get("dtype"):
        same = used_in["fingerprint"] == chosen_in["fingerprint"]
    else:
        same = all(used_in.get(field) == chosen_in.get(field) for field in ("name", "adapter", "revision"))
    if same:
        return None
    weights, weights_there = (str(identity["fingerprint"])[:12] for identity in (chosen_in, used_in))
    return (
        f"{what}: was chosen in {model_name(chosen_in)} (weights {weights}) and is used in {model_name(used_in)} "
        f"(weights {weights_there}), another model of the same shape, where its heads may do otherwise"
    )


def model_name(identity: Mapping[str, Any]) -> str:
    """A model for display, by its identity (`ModelIdentity`)."""
    name, adapter = identity.get("name"), identity.get("adapter")
    return f"{name} with {adapter}" if adapter else str(name)
