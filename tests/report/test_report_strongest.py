"""Which few sites are printed when a run ends, worked out by hand from a small table of effects."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from relscope.analysis import site_effects
from relscope.report import report_run
from relscope.report.strongest import few_queries_caveat, strongest_sites
from relscope.results import open_run
from synthetic import write_synthetic_run


def effects(rows: list[tuple[str, str, int, int | None, str, float, float]]) -> pd.DataFrame:
    """Effects of sites: experiment, component, layer, head, region, effect, q."""
    names = ["experiment", "component", "layer", "head", "region", "effect", "q_value"]
    frame = pd.DataFrame(rows, columns=names).astype({"layer": "Int16", "head": "Int16"})
    return frame.assign(
        effect_low=frame["effect"] - 0.1, effect_high=frame["effect"] + 0.1, direction="denoise", dest=None, src=None
    )


def test_the_largest_among_those_with_a_small_q_come_first_whatever_their_sign() -> None:
    (found,) = strongest_sites(
        effects(
            [
                ("heads", "z", 0, 1, "last", 0.5, 0.01),
                ("heads", "z", 1, 2, "query", -0.75, 0.05),
                ("heads", "z", 2, 3, "last", 9.0, 0.06),  # large, and may be noise
                ("heads", "z", 3, 0, "last", 0.25, 0.0001),
                ("heads", "z", 3, 1, "last", 0.2, 0.0001),
            ]
        )
    )
    assert (found.name, found.n_sites, found.n_significant) == ("heads", 5, 4)
    assert found.sites == (
        ("L1H2@query", "−0.75 [−0.85, −0.65]", "0.050"),
        ("L0H1@last", "0.50 [0.40, 0.60]", "0.010"),
        ("L3H0@last", "0.25 [0.15, 0.35]", "< 0.001"),
    )


def test_all_tokens_are_not_compared_with_their_parts_and_components_are_listed_apart() -> None:
    found = strongest_sites(
        effects(
            [
                ("flow", "attn_out", 0, None, "all", 3.0, 0.01),
                ("flow", "attn_out", 1, None, "last", 1.0, 0.01),
                ("flow", "mlp_out", 1, None, "last", 0.5, 0.9),
            ]
        )
    )
    assert [(of.name, of.n_sites, [site[0] for site in of.sites]) for of in found] == [
        ("flow, attn_out", 1, ["attn_out of layer 1 at the last token"]),
        ("flow, mlp_out", 1, []),
    ]


def test_queries_too_few_for_any_small_q_are_told_once() -> None:
    of_heads = [("heads", "z", layer, 0, "last", 1.0, 0.9) for layer in range(40)]
    of_flow = [("flow", "mlp_out", layer, None, "last", 1.0, 0.9) for layer in range(20)]
    sites = effects([*of_heads, *of_flow])
    # eight queries: p is at least 2 / 2^8, so that k of n sites have q = 0.0078 n / k
    told = few_queries_caveat(sites.assign(p_value=0.9, n_queries=8))
    assert told == (
        "With 8 queries p is at least 0.0078, so that at least so many sites have q ≤ 0.05 together, or none has: "
        "7 of 40 (heads) and 4 of 20 (flow); measure more, by a larger --pairs or more data."
    )
    few = few_queries_caveat(sites.assign(p_value=0.9, n_queries=4))
    assert few.startswith("With 4 queries p is at least 0.12, so that no site can have q ≤ 0.05: measure more")
    assert few_queries_caveat(sites.assign(p_value=0.9, n_queries=8, q_value=0.01)) == ""


def test_a_report_gives_the_same_sites_as_the_effects_of_the_run(tmp_path: Path) -> None:
    folder = write_synthetic_run(tmp_path / "run")
    run = open_run(folder)
    summary = report_run(folder)
    assert summary.report == folder / "report.html"
    assert summary.strongest == strongest_sites(site_effects(run.rows(), run.manifest.query_of))
    assert summary.joint == ()
    assert {of.name for of in summary.strongest} >= {"flow, attn_out", "heads"}
