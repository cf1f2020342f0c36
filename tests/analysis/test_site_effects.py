"""Effects of sites, against plain Python loops over rows, against identities, and against sums done by hand."""

from __future__ import annotations

import itertools
import math
import time
import tracemalloc
from typing import Any

import numpy as np
import pandas as pd
import pytest

from relscope.analysis import EFFECT_COLUMNS, TINY_GAP, bootstrap_weights, site_effects
from relscope.errors import InputError
from relscope.results import SITE_COLUMNS


def row(pair: str, ld: tuple[float, float, float], **site: Any) -> dict[str, Any]:
    """One row with LD clean, corrupted, patched; the margins are their tanh(LD / 2)."""
    clean, corrupted, patched = ld
    return {
        "experiment": "heads",
        "pair_id": pair,
        "component": "z",
        "layer": 0,
        "head": 0,
        "region": "last",
        "dest": None,
        "src": None,
        "direction": "denoise",
        "ld_clean": clean,
        "ld_corrupted": corrupted,
        "ld_patched": patched,
        "p_clean": math.tanh(clean / 2),
        "p_corrupted": math.tanh(corrupted / 2),
        "p_patched": math.tanh(patched / 2),
    } | site


def frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype({"layer": "Int16", "head": "Int16"})


def random_rows(seed: int, n_pairs: int = 9, missing: float = 0.0, direction: str = "denoise") -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    for pair in range(n_pairs):
        clean, corrupted = rng.normal(2.0, 1.0), rng.normal(-2.0, 1.0)
        for layer in range(3):
            for head in (None, 0, 1):
                experiment = {"experiment": "flow", "component": "attn_out"} if head is None else {}
                for region in ("query", "last"):
                    if rng.random() >= missing:
                        ld = (clean, corrupted, rng.normal(0.0, 2.0))
                        site = {"layer": layer, "head": head, "region": region, "direction": direction}
                        rows.append(row(f"p{pair}", ld, **experiment, **site))
    return frame(rows)


def query_of(n_pairs: int = 9, per_query: int = 2) -> dict[str, str]:
    return {f"p{pair}": f"q{pair // per_query}" for pair in range(n_pairs)}


def slow_effects(
    rows: pd.DataFrame, queries: dict[str, str], n_resamples: int, seed: int, confidence: float
) -> dict[tuple[Any, ...], dict[str, float]]:
    """The numbers of each site, one row and one resample at a time."""
    sites: dict[tuple[Any, ...], list[Any]] = {}
    for one in rows.itertuples(index=False):
        key = tuple(None if pd.isna(getattr(one, name)) else getattr(one, name) for name in SITE_COLUMNS)
        sites.setdefault(key, []).append(one)
    answers = {}
    for key, members in sites.items():
        members.sort(key=lambda one: one.pair_id)
        weights = bootstrap_weights([queries[one.pair_id] for one in members], n_resamples, seed)
        changes = []
        for one in members:
            noise = one.direction == "noise"
            start, end = (one.ld_clean, one.ld_corrupted) if noise else (one.ld_corrupted, one.ld_clean)
            p_start = one.p_clean if noise else one.p_corrupted
            changes.append((one.ld_patched - start, end - start, one.p_patched - p_start))

        def mean(which: int, weight: Any, changes: list[Any] = changes) -> float:
            return sum(w * c[which] for w, c in zip(weight, changes, strict=True)) / sum(weight)

        ones = [1.0] * len(members)
        ratios = [c[0] / c[1] for c in changes if abs(c[1]) >= 0.1]
        answer = {
            "n_pairs": len(members),
            "n_queries": len({queries[one.pair_id] for one in members}),
            "effect": mean(0, ones),
            "gap": mean(1, ones),
            "p_effect": mean(2, ones),
            "ie": mean(0, ones) / mean(1, ones),
            "ie_per_pair": sum(ratios) / len(ratios),
            "n_tiny_gap": len(members) - len(ratios),
        }
        tails = [50 * (1 - confidence), 100 - 50 * (1 - confidence)]
        resampled = {
            "effect": [mean(0, w) for w in weights],
            "gap": [mean(1, w) for w in weights],
            "p_effect": [mean(2, w) for w in weights],
            "ie": [mean(0, w) / mean(1, w) for w in weights],
        }
        for name, numbers in resampled.items():
            answer[f"{name}_low"], answer[f"{name}_high"] = np.percentile(numbers, tails)
        of_query: dict[str, float] = {}
        for one, change in zip(members, changes, strict=True):
            of_query[queries[one.pair_id]] = of_query.get(queries[one.pair_id], 0.0) + change[0]
        patterns = list(itertools.product([1, -1], repeat=len(of_query)))
        sums = [abs(sum(s * total for s, total in zip(signs, of_query.values(), strict=True))) for signs in patterns]
        answer["p_value"] = sum(total >= sums[0] - 1e-9 for total in sums) / len(patterns)
        answers[key] = answer
    for experiment in {key[0] for key in answers}:
        together = sorted((a for key, a in answers.items() if key[0] == experiment), key=lambda a: a["p_value"])
        for place, answer in enumerate(together):
            answer["q_value"] = min(
                len(together) / later * other["p_value"] for later, other in enumerate(together[place:], place + 1)
            )
    return answers


@pytest.mark.parametrize(("missing", "direction"), [(0.0, "denoise"), (0.3, "denoise"), (0.3, "noise")])
def test_every_number_agrees_with_plain_loops(missing: float, direction: str) -> None:
    rows = random_rows(1, missing=missing, direction=direction)
    options = {"n_resamples": 40, "seed": 5, "confidence": 0.8}
    fast = site_effects(rows, query_of(), **options)  # type: ignore[arg-type]
    slow = slow_effects(rows, query_of(), **options)  # type: ignore[arg-type]
    assert len(fast) == len(slow) == 18
    assert not fast["unstable_ie"].any()
    for one in fast.itertuples(index=False):
        key = tuple(None if pd.isna(getattr(one, name)) else getattr(one, name) for name in SITE_COLUMNS)
        for name, expected in slow[key].items():
            # Float64 sums of nine numbers in another order; ratios of them.
            np.testing.assert_allclose(getattr(one, name), expected, rtol=1e-10, atol=1e-12, err_msg=name)


def test_three_pairs_by_hand() -> None:
    # gaps 4, 2, 0.05; changes 1, 2, 0.05. Effect 3.05 / 3; gap 6.05 / 3; own ratios 1/4 and 1 (the third is tiny).
    rows = frame(
        [
            row("p0", (3.0, -1.0, 0.0)),
            row("p1", (1.0, -1.0, 1.0)),
            row("p2", (0.05, 0.0, 0.05)),
        ]
    )
    (site,) = site_effects(rows, {"p0": "a", "p1": "b", "p2": "c"}).to_dict("records")
    assert site["effect"] == pytest.approx(3.05 / 3, rel=1e-12)
    assert site["gap"] == pytest.approx(6.05 / 3, rel=1e-12)
    assert site["ie"] == pytest.approx(3.05 / 6.05, rel=1e-12)
    assert site["ie_per_pair"] == pytest.approx((0.25 + 1.0) / 2, rel=1e-12)
    assert (site["n_tiny_gap"], site["n_pairs"], site["n_queries"]) == (1, 3, 3)
    p_changes = [math.tanh(0.0) - math.tanh(-0.5), math.tanh(0.5) - math.tanh(-0.5), math.tanh(0.025)]
    assert site["p_effect"] == pytest.approx(sum(p_changes) / 3, rel=1e-12)


def test_noise_is_measured_from_the_clean_run() -> None:
    # From LD 3 down to 1, of a way from 3 to -1: half of it, and the change is negative.
    rows = frame([row(f"p{i}", (3.0, -1.0, 1.0), direction="noise") for i in range(4)])
    (site,) = site_effects(rows, query_of(4, 1)).to_dict("records")
    assert (site["effect"], site["gap"], site["ie"]) == (-2.0, -4.0, 0.5)
    assert site["p_effect"] == pytest.approx(math.tanh(0.5) - math.tanh(1.5), rel=1e-12)
    assert not site["unstable_ie"]


@pytest.mark.parametrize("direction", ["denoise", "noise"])
def test_a_patch_that_gives_the_end_run_has_ie_exactly_one_and_one_that_gives_the_start_zero(
    direction: str,
) -> None:
    rows = random_rows(2, direction=direction)
    start, end = ("corrupted", "clean") if direction == "denoise" else ("clean", "corrupted")
    for run, expected in ((end, 1.0), (start, 0.0)):
        same = rows.assign(ld_patched=rows[f"ld_{run}"], p_patched=rows[f"p_{run}"])
        effects = site_effects(same, query_of())
        for name in ("ie", "ie_low", "ie_high", "ie_per_pair"):
            assert (effects[name] == expected).all(), name
        if run == start:
            for name in ("effect", "effect_low", "effect_high", "p_effect"):
                assert (effects[name] == 0.0).all(), name


def test_denoise_and_noise_swap_when_clean_and_corrupted_swap() -> None:
    rows = random_rows(3)
    swap = {"ld_clean": "ld_corrupted", "ld_corrupted": "ld_clean"}
    swap |= {"p_clean": "p_corrupted", "p_corrupted": "p_clean"}
    mirrored = rows.rename(columns=swap).assign(direction="noise")
    one, other = site_effects(rows, query_of()), site_effects(mirrored, query_of())
    pd.testing.assert_frame_equal(one.drop(columns="direction"), other.drop(columns="direction"), check_exact=True)


def test_one_barely_separated_pair_does_not_dominate_the_ratio_of_means() -> None:
    rows = frame([row(f"p{i}", (2.0, -2.0, 0.0)) for i in range(9)] + [row("p9", (0.11, 0.0, 2.0))])
    (site,) = site_effects(rows, query_of(10, 1)).to_dict("records")
    assert site["ie"] == pytest.approx((9 * 2 + 2) / (9 * 4 + 0.11), rel=1e-12)
    assert 0.5 < site["ie"] < 0.6
    assert site["ie_per_pair"] > 2  # the mean of ratios is what that pair makes of it


def test_pairs_without_a_gap_are_counted_and_leave_no_mean_of_ratios() -> None:
    rows = frame([row(f"p{i}", (0.05, 0.0, 1.0)) for i in range(3)])
    (site,) = site_effects(rows, query_of(3, 1)).to_dict("records")
    assert site["n_tiny_gap"] == 3
    assert math.isnan(site["ie_per_pair"])
    exactly = frame([row(f"p{i}", (TINY_GAP, 0.0, 1.0)) for i in range(3)])
    assert site_effects(exactly, query_of(3, 1))["n_tiny_gap"].tolist() == [0]


def test_a_gap_that_may_be_zero_makes_the_ratio_unstable_and_leaves_the_effect() -> None:
    rng = np.random.default_rng(4)
    gaps = rng.normal(0.0, 1.0, 20)
    rows = frame([row(f"p{i}", (gap, 0.0, 1.0)) for i, gap in enumerate(gaps)])
    (site,) = site_effects(rows, query_of(20, 1)).to_dict("records")
    assert site["gap_low"] < 0 < site["gap_high"]
    assert site["unstable_ie"]
    assert math.isnan(site["ie_low"])
    assert math.isnan(site["ie_high"])
    assert site["ie"] == pytest.approx(1 / gaps.mean(), rel=1e-9)
    assert (site["effect_low"], site["effect_high"]) == pytest.approx((1.0, 1.0), rel=1e-12)


def test_no_gap_at_all_gives_no_ratio_rather_than_a_number() -> None:
    rows = frame([row(f"p{i}", (1.0, 1.0, 2.0)) for i in range(3)])
    (site,) = site_effects(rows, query_of(3, 1)).to_dict("records")
    assert site["effect"] == 1.0
    assert site["gap"] == 0.0
    assert math.isnan(site["ie"])
    assert site["unstable_ie"]


def test_one_query_gives_values_without_intervals() -> None:
    rows = frame([row("p0", (2.0, -2.0, 1.0)), row("p1", (2.0, -2.0, -1.0))])
    (site,) = site_effects(rows, query_of(2, 2)).to_dict("records")
    assert (site["effect"], site["ie"], site["n_queries"], site["n_pairs"]) == (2.0, 0.5, 1, 2)
    names = [name for name in EFFECT_COLUMNS if name.endswith(("_low", "_high"))]
    assert len(names) == 8
    assert all(math.isnan(site[name]) for name in names)
    assert site["unstable_ie"]


def test_a_site_that_lacks_pairs_uses_its_own_and_leaves_the_others_alone() -> None:
    full = random_rows(5)
    cut = full[~((full["layer"] == 1) & (full["pair_id"].isin(["p0", "p3"])))]
    sites = list(SITE_COLUMNS)
    whole, partial = (site_effects(rows, query_of()).sort_values(sites).reset_index(drop=True) for rows in (full, cut))
    there = partial["layer"] == 1
    assert set(partial.loc[there, "n_pairs"]) == {7}
    assert set(partial.loc[~there, "n_pairs"]) == {9}
    # The others' sums run over the same numbers, but in a matrix of another height.
    # q depends on all sites of the experiment, and those that lack pairs have other p values now.
    partial, whole = partial.drop(columns="q_value"), whole.drop(columns="q_value")
    pd.testing.assert_frame_equal(partial[~there], whole[~there], rtol=1e-12, atol=1e-14)
    alone = site_effects(cut[cut["layer"] == 1], query_of()).sort_values(sites).reset_index(drop=True)
    alone = alone.drop(columns="q_value")
    pd.testing.assert_frame_equal(partial[there].reset_index(drop=True), alone, rtol=1e-12, atol=1e-14)


def test_the_order_of_the_rows_changes_the_order_of_the_sites_alone() -> None:
    rows = random_rows(6, missing=0.2)
    sites = list(SITE_COLUMNS)
    one = site_effects(rows, query_of()).sort_values(sites).reset_index(drop=True)
    shuffled = rows.sample(frac=1, random_state=1)
    other = site_effects(shuffled, query_of()).sort_values(sites).reset_index(drop=True)
    pd.testing.assert_frame_equal(one, other, rtol=1e-12, atol=1e-14)


def test_sites_come_in_the_order_of_first_appearance() -> None:
    rows = frame(
        [row(f"p{pair}", (1.0, -1.0, 0.0), region=region) for pair in range(2) for region in ("query", "all", "last")]
    )
    assert site_effects(rows, query_of())["region"].tolist() == ["query", "all", "last"]


def test_working_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_rows(7, missing=0.2)
    whole = site_effects(rows, query_of(), n_resamples=50)
    monkeypatch.setattr("relscope.analysis.effects._MOST_CELLS", 1000)  # chunks of three sites
    pd.testing.assert_frame_equal(site_effects(rows, query_of(), n_resamples=50), whole, rtol=1e-12, atol=1e-14)


def test_categories_and_plain_text_give_the_same_and_judge_rows_are_passed_over() -> None:
    rows = random_rows(8)
    text = ["experiment", "pair_id", "component", "region", "dest", "src", "direction"]
    categories = rows.astype(dict.fromkeys(text, "category"))
    categories = categories.astype(dict.fromkeys([n for n in rows if n.startswith(("ld_", "p_"))], "float64"))
    nothing = dict.fromkeys(["component", "layer", "head", "region", "direction", "ld_patched", "p_patched"])
    judged = frame([row("p0", (1.0, 0.0, 0.0)) | {"experiment": "judge"} | nothing])
    expected = site_effects(rows, query_of())
    for same in (categories, pd.concat([judged, rows], ignore_index=True)):
        pd.testing.assert_frame_equal(site_effects(same, query_of()), expected)


def test_without_patched_rows_the_frame_is_empty_and_has_its_columns() -> None:
    some = site_effects(random_rows(9), query_of())
    none = site_effects(random_rows(9).iloc[:0], query_of())
    assert len(none) == 0
    assert list(none.columns) == list(some.columns) == list(EFFECT_COLUMNS)
    assert none.dtypes.astype(str).to_dict() == some.dtypes.astype(str).to_dict()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("p0", (1.0, float("nan"), 0.0))], "ld_corrupted of pair p0 is not finite"),
        ([row("p0", (1.0, 0.0, float("nan")))], "ld_patched of pair p0 is not finite"),
        ([row("p0", (1.0, 0.0, 0.0)), row("p0", (1.0, 0.0, 0.5))], "a site of a pair comes twice"),
        ([row("p0", (1.0, 0.0, 0.0), direction="both")], "direction must be one of denoise, noise"),
        ([row("p0", (1.0, 0.0, 0.0), direction=None)], "direction must be one of denoise, noise"),
        ([row("p77", (1.0, 0.0, 0.0))], "have no query, such as 'p77'"),
    ],
)
def test_rows_that_mean_nothing_are_refused(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        site_effects(frame(rows), query_of())


def test_a_large_model_is_analysed_in_seconds_and_bounded_memory() -> None:
    # 100 pairs x 32 layers x 32 heads x 5 regions, 1000 resamples
    rng = np.random.default_rng(0)
    pair, layer, head, region = (axis.ravel() for axis in np.indices((100, 32, 32, 5)))
    n = pair.size
    categories = {
        "pair_id": pd.Categorical.from_codes(pair, [f"p{i}" for i in range(100)]),
        "region": pd.Categorical.from_codes(region, ["query", "document", "instruction", "last", "all"]),
    }
    for name, value in (("experiment", "heads"), ("component", "z"), ("direction", "denoise")):
        categories[name] = pd.Categorical.from_codes(np.zeros(n, dtype=int), [value])
    for name in ("dest", "src"):
        categories[name] = pd.Categorical.from_codes(np.full(n, -1), np.array([], dtype=object))
    values = {
        name: rng.normal(size=n).astype(np.float32)
        for name in ("ld_clean", "ld_corrupted", "ld_patched", "p_clean", "p_corrupted", "p_patched")
    }
    rows = pd.DataFrame({**categories, "layer": layer, "head": head, **values})
    rows = rows.astype({"layer": "Int16", "head": "Int16"})
    tracemalloc.start()
    try:
        started = time.process_time()
        effects = site_effects(rows, query_of(100, 2))
        elapsed = time.process_time() - started
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(effects) == 5120
    assert set(effects["n_pairs"]) == {100}
    assert elapsed < 10  # about 1.3 s on one core
    assert peak < 2**30
