"""What does a circuit's folder say? Everything that is computed from it, before any of it is drawn or written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from relscope.analysis import Areas, Circuit, Estimate, SetMetrics, curve_table, interval_method, set_name
from relscope.errors import InputError
from relscope.report import words
from relscope.results import open_circuit

CIRCUIT_NAME = "circuit.json"
METRIC_WORDS = {
    "ld_gap": "LD, relevant less other",
    "f1": "F1",
    "accuracy": "accuracy",
    "roc_auc": "ROC AUC",
}


@dataclass(frozen=True)
class MetricOfCircuit:
    """One metric of the circuit.

    Attributes:
        metric: its name; `words` for a reader.
        full, empty: of the whole model, and with every site ablated.
        kept, knocked_out: of the circuit alone, and of the model without it.
        f_kept, f_knocked_out: the same as shares of full less empty.
        randoms: f of random sets of the same size, kept alone.
    """

    metric: str
    full: Estimate
    empty: Estimate
    kept: Estimate
    knocked_out: Estimate
    f_kept: Estimate
    f_knocked_out: Estimate
    randoms: tuple[float, ...]

    @property
    def words(self) -> str:
        """The metric's name for a reader."""
        return METRIC_WORDS.get(self.metric, self.metric)


@dataclass(frozen=True)
class CircuitContents:
    """A circuit with all that was measured of it.

    Attributes:
        circuit: as it was saved.
        manifest: of its folder.
        metrics: of the queries of the evaluation.
        curves: faithfulness over size; empty where none was measured (a circuit that is evaluated elsewhere).
        areas: CPR and CMD of each metric of the curves.
        measured: each metric of the circuit.
        losses: of each member that was left out: its name, and f lost, the largest loss first.
        incompleteness: of each random part of the circuit.
        n_ranked: queries whose documents are reranked; 0 where none are.
    """

    circuit: Circuit
    manifest: dict[str, Any]
    metrics: SetMetrics
    curves: pd.DataFrame
    areas: tuple[Areas, ...]
    measured: tuple[MetricOfCircuit, ...]
    losses: tuple[tuple[str, Estimate], ...]
    incompleteness: tuple[Estimate, ...]
    n_ranked: int

    @property
    def ranking(self) -> MetricOfCircuit | None:
        """The measure of the reranking; None where nothing is reranked."""
        return next((one for one in self.measured if one.metric not in METRIC_WORDS), None)

    @property
    def ld_gap(self) -> MetricOfCircuit:
        """The metric that the circuit was searched by."""
        return next(one for one in self.measured if one.metric == "ld_gap")

    @property
    def share(self) -> float:
        """Sites of the circuit, of all."""
        return len(self.circuit) / len(self.circuit.all_sites)

    @property
    def method(self) -> str:
        """How the intervals of the metrics were found."""
        return interval_method(
            value for one in self.measured for value in (one.full, one.empty, one.kept, one.knocked_out)
        )


def read_circuit(directory: Path) -> CircuitContents:
    """Read a finished folder of `relscope circuit` and compute everything that is told of it.

    Raises:
        InputError: it is no such folder, is not complete, or its rows and its manifest do not belong together.
        RunError: a part is damaged.
    """
    folder = open_circuit(directory)
    manifest = folder.manifest
    if manifest["status"] != "complete":
        raise InputError(f"{directory}: is not complete; finish it by giving `relscope circuit` again")
    circuit = Circuit.load(directory / CIRCUIT_NAME)
    rows, ranked = (of[of["step"] == "evaluate"] for of in (folder.rows(), folder.rows(ranking=True)))
    metrics = SetMetrics(rows, manifest["query_of"], ranked, seed=manifest["identity"]["options"]["seed"])
    sizes, n_sites = manifest.get("sizes", ()), len(circuit.all_sites)
    curves = curve_table(metrics, sizes, n_sites)
    measured = tuple(_measured(metrics, metric, manifest["n_randoms"]) for metric in metrics.metrics)
    losses = [(name, metrics.loss("circuit", f"without {name}", "ld_gap")) for name in _left_out(manifest)]
    parts = [
        metrics.incompleteness(f"circuit without part {n}", f"model without part {n}", "ld_gap")
        for n in range(1, manifest["n_draws"] + 1)
    ]
    return CircuitContents(
        circuit=circuit,
        manifest=manifest,
        metrics=metrics,
        curves=curves if sizes else curves.iloc[:0],
        areas=tuple(_areas(metrics, sizes, n_sites, metric) for metric in metrics.metrics) if len(sizes) > 1 else (),
        measured=measured,
        losses=tuple(sorted(losses, key=lambda loss: -loss[1].value)),
        incompleteness=tuple(parts),
        n_ranked=int(ranked["query_id"].nunique()),
    )


def _measured(metrics: SetMetrics, metric: str, n_randoms: int) -> MetricOfCircuit:
    full, empty, kept, out = (metrics.value(name, metric) for name in
                              ("full", "empty", "circuit", "circuit knocked out"))  # fmt: skip
    randoms = [f"random {n}" for n in range(1, n_randoms + 1) if metrics.has(f"random {n}", metric)]
    return MetricOfCircuit(
        metric, full, empty, kept, out,
        metrics.faithfulness("circuit", metric), metrics.faithfulness("circuit knocked out", metric),
        tuple(metrics.faithfulness(name, metric).value for name in randoms),
    )  # fmt: skip


def _areas(metrics: SetMetrics, sizes: Sequence[int], n_sites: int, metric: str) -> Areas:
    names = [set_name("keep", size, n_sites) for size in sizes]
    return metrics.areas(names, [size / n_sites for size in sizes], metric)


def _left_out(manifest: dict[str, Any]) -> list[str]:
    return [words.site_label(layer, head, region) for layer, head, region in manifest["left_out"]]
