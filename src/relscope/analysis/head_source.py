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
    def model_text(self) -> str:
        """The model for display: as it was asked for, and what that is."""
        named = _named(self.model, self.adapter)
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
        here = _named(identity["name"], identity.get("adapter"))
        chosen_in = _named(self.model, self.adapter)
        if (n_layers, n_heads) != (self.n_layers, self.n_heads):
            raise InputError(
                f"head set {name!r} was chosen in {chosen_in}, with {self.n_layers} layers of {self.n_heads} heads, "
                f"and {here} has {n_layers} of {n_heads}: its heads are none of this model's; choose by a run of it"
            )
        if identity["dtype"] == self.dtype:
            same = identity["fingerprint"] == self.fingerprint
        else:
            known = (self.model, self.adapter, self.revision)
            same = (identity["name"], identity.get("adapter"), identity.get("revision")) == known
        if same:
            return None
        return (
            f"{name}: was chosen in {chosen_in} (weights {self.fingerprint[:12]}) and is used in {here} (weights "
            f"{str(identity['fingerprint'])[:12]}), another model of the same shape, where its heads may do otherwise"
        )


def _named(name: Any, adapter: Any) -> str:
    return f"{name} with {adapter}" if adapter else str(name)
