"""How far did each head move in tuning, and do those that moved matter?

Of head outputs z over the region's positions, and of weights, over pairs and both prompts (or matrices):

    moved = sqrt(sum of |z_tuned - z_base|²) / sqrt(sum of |z_base|²)          0 not at all, 1 by as much as it was

a ratio of root sums of squares, so that prompts on which the head is silent do not dominate. A head can move far
without mattering (what it writes is not read), and can matter more without moving (what reads it has changed); so
`moved_and_matters` puts both side by side, and `move_correlations` gives Spearman's rank correlation over heads.

Cost: no forward pass; matrix products [site, pair] @ [pair, resample].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd
from jaxtyping import Float64

from relscope.analysis.intervals import Estimate, check_confidence, percentile_interval, queries_of
from relscope.analysis.paired import paired_sites, resample_shares
from relscope.analysis.similarity import LEAST_SITES, spearman
from relscope.errors import InputError

HEAD_CHANGE_COLUMNS: Final = ("pair_id", "prompt", "layer", "head", "region", "norm_base", "norm_tuned", "distance")
WEIGHT_CHANGE_COLUMNS: Final = ("name", "layer", "head", "part", "n_values", "norm_base", "norm_change")
PARTS: Final = ("q", "k", "v", "o", "mlp", "norm", "embedding", "other")
_SITE: Final = ["layer", "head", "region"]


@dataclass(frozen=True)
class MoveCorrelation:
    """Spearman's correlation over the heads at one region between how far they moved and how much they matter.

    Attributes:
        matters: "effect_tuned" or "difference", of which the absolute value is ranked.
        p_value: share of random relabellings of the heads with at least this |correlation|.
    """

    region: str
    matters: str
    correlation: Estimate
    p_value: float
    n_heads: int
    n_pairs: int
    n_queries: int


@dataclass(frozen=True)
class _Moves:
    """Sums over both prompts, [site, pair]; 0 where a pair lacks the site."""

    sites: pd.DataFrame
    pair_ids: tuple[str, ...]
    distance: Float64[np.ndarray, "site pair"]
    norm: Float64[np.ndarray, "site pair"]

    def moved(self, weights: Float64[np.ndarray, "pair resample"]) -> Float64[np.ndarray, "site resample"]:
        """Relative distance under each resample's weights; NaN where the base model's output is 0."""
        distance, norm = self.distance @ weights, self.norm @ weights
        ratio = np.divide(distance, norm, out=np.full(distance.shape, np.nan), where=norm > 0)
        return np.asarray(np.sqrt(ratio), dtype=np.float64)


def head_moves(
    changes: pd.DataFrame,
    query_of: Mapping[str, str],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """How far each head's output moved at each region, relative to what it was in the base model.

    Args:
        changes: `changes/heads.parquet`: one row for each pair, prompt, layer, head and region, with `norm_base`,
            `norm_tuned` and `distance`.
        query_of: the query of each pair.

    Returns:
        One row for each layer, head and region: `n_pairs`, `n_queries`, `moved` and its interval over queries
        `moved_low`, `moved_high` (NaN where the pairs are of one query).

    Raises:
        InputError: a column is missing, a row comes twice or is not finite, or a pair has no query.
    """
    check_confidence(confidence)
    moves = _moves(changes)
    query_ids = tuple(queries_of(pd.Series(moves.pair_ids, dtype=object), query_of))
    there = moves.norm + moves.distance > 0
    queries = np.array(query_ids, dtype=object)
    frame = moves.sites.assign(
        n_pairs=there.sum(axis=1),
        n_queries=[len(set(queries[row])) for row in there],
        moved=moves.moved(np.ones((len(query_ids), 1)))[:, 0] if query_ids else np.nan,
        moved_low=np.nan,
        moved_high=np.nan,
    )
    if len(set(query_ids)) > 1 and len(frame):
        resampled = moves.moved(resample_shares(query_ids, n_resamples, seed))
        frame["moved_low"], frame["moved_high"] = percentile_interval(resampled, confidence)
    return frame


def weight_moves(changes: pd.DataFrame) -> pd.DataFrame:
    """How far the weights of each head moved: layer, head, `moved_q`, `moved_o` (its slices of q and o).

    Args:
        changes: `changes/weights.parquet`: one row for each weight matrix and each head's slice.

    Raises:
        InputError: a column is missing, or a norm is not finite.
    """
    _check_weights(changes)
    of_heads = changes[changes["head"].notna() & changes["part"].isin(["q", "o"])]
    frames = [
        _relative(of_heads[of_heads["part"] == part], ["layer", "head"]).rename(columns={"moved": f"moved_{part}"})
        for part in ("q", "o")
    ]
    both = frames[0].merge(frames[1], on=["layer", "head"], how="outer")
    return both[["layer", "head", "moved_q", "moved_o"]].sort_values(["layer", "head"], ignore_index=True)


def part_moves(changes: pd.DataFrame) -> pd.DataFrame:
    """How far each part of the model moved, over whole matrices, in the order of PARTS.

    Returns:
        One row a part that the model has: `part`, `n_matrices`, `n_values`, `moved` (relative Frobenius norm), and the
        layer that moved farthest, `layer`, with its `layer_moved` (null where the part belongs to no layer).

    Raises:
        InputError: as `weight_moves`.
    """
    _check_weights(changes)
    whole = changes[changes["head"].isna()]
    by_layer = _relative(whole[whole["layer"].notna()], ["part", "layer"])
    rows = []
    for part in PARTS:
        here = whole[whole["part"] == part]
        if not len(here):
            continue
        layers = by_layer[by_layer["part"] == part].sort_values(["moved", "layer"], ascending=[False, True])
        most = layers.iloc[0] if len(layers) else None
        rows.append(
            {
                "part": part,
                "n_matrices": len(here),
                "n_values": int(here["n_values"].sum()),
                "moved": float(_relative(here, ["part"])["moved"].iloc[0]),
                "layer": pd.NA if most is None else int(most["layer"]),
                "layer_moved": np.nan if most is None else float(most["moved"]),
            }
        )
    names = ["part", "n_matrices", "n_values", "moved", "layer", "layer_moved"]
    return pd.DataFrame(rows, columns=names).astype({"layer": "Int16"})


def moved_and_matters(moves: pd.DataFrame, weights: pd.DataFrame | None, differences: pd.DataFrame) -> pd.DataFrame:
    """How far each head moved, next to its effects.

    Args:
        moves: from `head_moves`.
        weights: from `weight_moves`, or None where no weights were compared.
        differences: from `effect_differences`; its rows of the experiment "heads" in one direction.

    Returns:
        The rows of `moves` whose head and region have an effect, with `moved_q`, `moved_o` (NaN if unknown) and the
        effect, difference and interval columns of `differences`.

    Raises:
        InputError: a head comes twice at one region: choose one direction first.
    """
    heads = differences[(differences["experiment"] == "heads") & differences["head"].notna()]
    if heads.duplicated(subset=_SITE).any():
        raise InputError("differences: a head comes twice at one region; choose one direction first")
    columns = [
        f"{name}{end}" for name in ("effect_base", "effect_tuned", "difference") for end in ("", "_low", "_high")
    ]
    effects = _keyed(heads[[*_SITE, *columns]])
    joined = _keyed(moves).merge(effects, on=_SITE, how="inner")
    if weights is None or not len(weights):
        return joined.assign(moved_q=np.nan, moved_o=np.nan)
    of_weights = weights.astype({"layer": np.int64, "head": np.int64})
    return joined.merge(of_weights, on=["layer", "head"], how="left")


def move_correlations(
    changes: pd.DataFrame,
    rows_base: pd.DataFrame,
    rows_tuned: pd.DataFrame,
    query_of: Mapping[str, str],
    *,
    n_resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[MoveCorrelation]:
    """Did the heads that matter move, and do those that moved matter more now?

    Args:
        changes: as of `head_moves`.
        rows_base: rows of the base model's run; only the experiment "heads" counts. Give one direction.
        rows_tuned: the same of the tuned model.
        query_of: the query of each pair.

    Returns:
        For each region two correlations, with |effect_tuned| and with |difference|, over the pairs that have all
        heads everywhere; both sides are resampled together. None for a region of fewer than three heads.

    Raises:
        InputError: as `head_moves` and `paired_sites`.
    """
    check_confidence(confidence)
    of_heads = [rows[rows["experiment"] == "heads"] for rows in (rows_base, rows_tuned)]
    regions = dict.fromkeys(str(region) for region in of_heads[0]["region"].dropna().unique())
    found = []
    for region in regions:
        moves = _moves(changes[changes["region"] == region])
        base, tuned = (rows[rows["region"] == region] for rows in of_heads)
        paired = paired_sites(base, tuned, query_of).complete().of_pairs(set(moves.pair_ids))
        if paired.sites.duplicated(subset=_SITE).any():
            raise InputError("rows: a head comes twice at one region; give the rows of one direction")
        # both tables in one order of heads and pairs
        keys = pd.MultiIndex.from_frame(_keyed(paired.sites)[["layer", "head"]])
        place = pd.MultiIndex.from_frame(moves.sites[["layer", "head"]]).get_indexer(keys)
        columns = np.array([moves.pair_ids.index(pair) for pair in paired.pair_ids], dtype=np.intp)
        known = place >= 0
        if known.sum() < LEAST_SITES or not len(columns):
            continue
        cells = np.ix_(place[known], columns)
        here = _Moves(moves.sites, paired.pair_ids, moves.distance[cells], moves.norm[cells])
        effects = {
            "effect_tuned": paired.effect_tuned[known],
            "difference": (paired.effect_tuned - paired.effect_base)[known],
        }
        for matters, effect in effects.items():
            found.append(_correlation(region, matters, here, effect, paired.query_ids, (n_resamples, seed, confidence)))
    return found


def _correlation(
    region: str,
    matters: str,
    moves: _Moves,
    effect: Float64[np.ndarray, "site pair"],
    query_ids: tuple[str, ...],
    resampling: tuple[int, int, float],
) -> MoveCorrelation:
    n_resamples, seed, confidence = resampling
    n_sites, n_pairs = effect.shape
    once = np.full((n_pairs, 1), 1 / n_pairs)

    def correlation(weights: Float64[np.ndarray, "pair resample"]) -> Float64[np.ndarray, " resample"]:
        return spearman(np.nan_to_num(moves.moved(weights)).T, np.abs(effect @ weights).T)

    value = float(correlation(once)[0])
    low = high = float("nan")
    if len(set(query_ids)) > 1:
        resampled = correlation(resample_shares(query_ids, n_resamples, seed))
        if np.isfinite(resampled).all():
            low, high = (float(end) for end in percentile_interval(resampled, confidence))
    generator = np.random.default_rng(seed)
    moved, size = np.nan_to_num(moves.moved(once)).T, np.abs(effect @ once)[:, 0]
    relabelled = np.stack([size[generator.permutation(n_sites)] for _ in range(n_resamples)])
    null = spearman(np.repeat(moved, n_resamples, axis=0), relabelled)
    as_strong = int((np.abs(null) >= abs(value) - 1e-12).sum())
    p_value = (1 + as_strong) / (1 + n_resamples) if np.isfinite(value) else float("nan")
    return MoveCorrelation(region, matters, Estimate(value, low, high), p_value, n_sites, n_pairs, len(set(query_ids)))


def _moves(changes: pd.DataFrame) -> _Moves:
    _check_columns("changes/heads.parquet", changes, HEAD_CHANGE_COLUMNS, ("norm_base", "norm_tuned", "distance"))
    repeated = changes.duplicated(subset=["pair_id", "prompt", *_SITE])
    if repeated.any():
        raise InputError(
            f"changes/heads.parquet: pair {changes.loc[repeated, 'pair_id'].iloc[0]} comes twice at one head and prompt"
        )
    frame = _keyed(changes)
    groups = frame.groupby(_SITE, sort=True)
    site = np.asarray(groups.ngroup(), dtype=np.intp)
    pair_ids, pair = np.unique(frame["pair_id"].astype(str).to_numpy(dtype=object), return_inverse=True)
    shape = (groups.ngroups, len(pair_ids))
    sums = []
    for name in ("distance", "norm_base"):
        matrix = np.zeros(shape)
        np.add.at(matrix, (site, pair), frame[name].to_numpy(dtype=np.float64) ** 2)
        sums.append(matrix)
    order = np.unique(site, return_index=True)[1]
    sites = frame.iloc[order][_SITE].reset_index(drop=True)
    return _Moves(sites, tuple(str(pair_id) for pair_id in pair_ids), sums[0], sums[1])


def _keyed(frame: pd.DataFrame) -> pd.DataFrame:
    """Layer and head as plain integers and the region as text, as both sides of a join need them."""
    return frame.assign(
        layer=frame["layer"].astype(np.int64), head=frame["head"].astype(np.int64), region=frame["region"].astype(str)
    )


def _relative(changes: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Root sums of squares over each group, as a share: `moved`; NaN where the base weights are all 0."""
    squares = changes.assign(
        change=changes["norm_change"].astype(np.float64) ** 2, base=changes["norm_base"].astype(np.float64) ** 2
    )
    for key in keys:
        if key in ("layer", "head"):
            squares[key] = squares[key].astype(np.int64)
    sums = squares.groupby(keys, as_index=False)[["change", "base"]].sum()
    ratio = np.divide(
        sums["change"].to_numpy(), sums["base"].to_numpy(), out=np.full(len(sums), np.nan), where=sums["base"] > 0
    )
    return sums[keys].assign(moved=np.sqrt(ratio))


def _check_weights(changes: pd.DataFrame) -> None:
    _check_columns("changes/weights.parquet", changes, WEIGHT_CHANGE_COLUMNS, ("norm_base", "norm_change"))


def _check_columns(file: str, frame: pd.DataFrame, columns: tuple[str, ...], finite: tuple[str, ...]) -> None:
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise InputError(f"{file}: columns missing: {', '.join(missing)}")
    for name in finite:
        if not np.isfinite(frame[name].to_numpy(dtype=np.float64)).all():
            raise InputError(f"{file}: {name} holds a value that is not finite")
