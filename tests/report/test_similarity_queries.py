"""What compared runs say goes no further than their queries and ceilings allow, and names the queries they share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from relscope.analysis import Estimate
from relscope.analysis.similarity import Chance
from relscope.report.similarity_contents import Mechanisms, PairOfRuns, compare_runs
from relscope.report.similarity_findings import findings
from relscope.report.similarity_page import render
from relscope.report.similarity_runs import read_runs
from relscope.report.similarity_views import left_rows
from synthetic import write_synthetic_run


@pytest.fixture(scope="module")
def mechanisms(tmp_path_factory: pytest.TempPathFactory) -> Mechanisms:
    """Two small runs, of one component."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [
        write_synthetic_run(
            folder / f"run{seed}", n_layers=5, n_heads=3, seed=seed, regions=("query", "last"), components=("attn_out",)
        )
        for seed in range(2)
    ]
    return compare_runs(read_runs(runs), 20)


def changed_headline(pair: PairOfRuns, rbo: dict[str, Any], **fields: Any) -> PairOfRuns:
    """The pair with its first headline alone, some fields of it and of its RBO replaced."""
    found = pair.headline[0]
    measures = tuple(replace(one, **rbo) if one.measure == "rbo" else one for one in found.measures)
    return replace(pair, found=(replace(found, measures=measures, **fields),))


@pytest.mark.parametrize(
    ("fields", "low", "value", "said"),
    [
        ({"n_queries": (40, 5), "n_shared_queries": 0}, 0.7, 0.9, "too few queries to say"),
        # the divisions must go half of the way from 0.2 to 0.8
        ({"n_queries": (40, 6), "n_shared_queries": 0}, 0.49, 0.9, "more alike than by chance, too few queries to say"),
        ({"n_queries": (40, 6), "n_shared_queries": 0}, 0.51, 0.9, "as alike as a run with itself"),
        ({"n_queries": (40, 6), "n_shared_queries": 6}, 0.51, 0.9, "above the ceiling, on 6 queries that both share"),
        ({"n_queries": (40, 6), "n_shared_queries": 6}, 0.51, 0.65, "largely alike, 75"),
    ],
)
def test_runs_are_said_to_be_as_alike_as_one_with_itself_only_where_the_ceiling_is_known(
    mechanisms: Mechanisms, fields: dict[str, Any], low: float, value: float, said: str
) -> None:
    rbo = {
        "value": Estimate(value, 0.5, 1.0),
        "chance": Chance(0.2, 0.001),
        "ceilings": (0.8, 0.8),
        "ceilings_low": (0.7, low),
    }
    pair = changed_headline(mechanisms.pairs[0], rbo, **fields)
    (finding,) = findings(replace(mechanisms, pairs=(pair,)))
    assert f": {said}" in finding.title
    assert ("as alike as a run with itself" in finding.title) == (said == "as alike as a run with itself")
    assert ("whose noise they share" in finding.text) == (fields["n_shared_queries"] > 0 and value > 0.8)


@pytest.mark.parametrize(
    ("n_queries", "n_shared", "said"),
    [
        ((6, 6), 6, "A and B rest on the same queries, resampled together."),
        (
            (16, 6),
            6,
            "A and B share 6 queries (A rests on 16, B on 6): a query that both have is drawn as often in both",
        ),
        ((16, 6), 0, "A and B rest on different queries, resampled apart."),
    ],
)
def test_the_page_says_which_queries_the_runs_share(
    mechanisms: Mechanisms, n_queries: tuple[int, int], n_shared: int, said: str
) -> None:
    pair = changed_headline(mechanisms.pairs[0], {}, n_queries=n_queries, n_shared_queries=n_shared)
    assert said in render(replace(mechanisms, pairs=(pair,)))


def test_joint_patches_are_not_compared_and_named_once() -> None:
    joint = {"run_one": "A", "run_other": "B", "experiment": "joint", "direction": "denoise", "measured_in": "A"}
    entry = {**joint, "component": "joint", "place": "sets of heads", "n_sites": 7, "reason": "its own"}
    (row,) = left_rows([entry])
    assert (row["experiment"], row["sets"]) == ("joint", [{"component": "", "places": "sets of heads"}])
