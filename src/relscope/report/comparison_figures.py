"""What of a comparison goes into a paper? Every family of maps and every scatter as PNG and PDF, one column wide."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from relscope.report.comparison_contents import Comparison
from relscope.report.comparison_maps import Family
from relscope.report.comparison_views import LAYER_COLOURS, PANEL_WORDS, QUANTITY_WORDS
from relscope.report.figures import STYLE, colour_bar, draw_map, file_name, new_figure, plain_text, save, ticks
from relscope.report.maps import Quantity
from relscope.results.files import make_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BAR_LABELS: Final[Mapping[str, Mapping[Quantity, str]]] = {
    "effects": {"effect": "effect (logits)", "ie": "indirect effect (share of the gap)"},
    "transfer": {"effect": "effect on the separation (logits)", "ie": QUANTITY_WORDS["transfer"]["ie"]},
}
_PREFIX: Final = {"effects": "compare", "transfer": "transfer"}


def draw_comparison(comparison: Comparison, folder: Path) -> list[Path]:
    """Write every family of maps, as the page shows it at first, and a scatter for each region; returns PNG paths.

    Raises:
        RunError: the folder cannot be made or written.
    """
    families = (*comparison.families, *comparison.transfer_families)
    heads = comparison.moved.heads
    if not families and heads is None:
        return []
    import matplotlib as mpl

    make_folder(folder)
    paths = []
    with mpl.rc_context(STYLE):
        for family in families:
            name = f"{_PREFIX[family.group]}_{family.kind.name}_{family.name}"
            figure = _family_figure(family, comparison.quantity(family.group))
            paths.append(save(figure, folder / file_name(name)))
        if heads is not None:
            for region in dict.fromkeys(str(region) for region in heads["region"]):
                figure = _scatter(heads[heads["region"] == region], region)
                paths.append(save(figure, folder / file_name(f"moved_{region}")))
    return paths


def _family_figure(family: Family, quantity: Quantity) -> Figure:
    """The panels below each other; those that share a scale have one bar, the difference has its own."""
    first = next(iter(family.panels.values()))
    n_rows, n_layers = len(first.rows), len(first.layers)
    of_heads = family.kind.of_heads
    height = min(2.0, max(0.6, 2.8 * n_rows / n_layers)) if of_heads else 0.135 * n_rows
    n_bars = 2 if "difference" in family.panels else 1
    figure = new_figure((0.22 + height) * len(family.panels) + 0.45 * n_bars + 0.3)
    axes = figure.subplots(len(family.panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (panel, effect_map) in zip(axes, family.panels.items(), strict=True):
        limit = family.limits[panel][quantity]
        mesh = draw_map(axis, effect_map, quantity, limit)
        what = f"z at {effect_map.name}" if of_heads else effect_map.name
        axis.set_title(plain_text(what) + f", {PANEL_WORDS[panel]}", loc="left", pad=2.5)
        if of_heads:
            axis.set_yticks(ticks(n_rows, 8))
            axis.set_ylabel("head", labelpad=2)
        else:
            axis.set_yticks(np.arange(n_rows), [plain_text(row) for row in effect_map.rows])
            axis.tick_params(axis="y", length=0, pad=2)
        last_of_scale = panel in ("difference", list(family.panels)[-1]) or panel == "tuned"
        if last_of_scale:
            sharing = [axes[i] for i, p in enumerate(family.panels) if (p == "difference") == (panel == "difference")]
            label = ("difference of the " if panel == "difference" else "") + _BAR_LABELS[family.group][quantity]
            colour_bar(figure, mesh, sharing, quantity, axes_inches=height * len(sharing), label=label)
    axes[-1].set_xlabel("layer", labelpad=1.5)
    return figure


def _scatter(here: pd.DataFrame, region: str) -> Figure:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import PercentFormatter

    figure = new_figure(2.5)
    axis = figure.subplots()
    size = here["effect_tuned"].abs().to_numpy(dtype=np.float64)
    points = axis.scatter(
        here["moved"].to_numpy(dtype=np.float64),
        size,
        c=here["layer"].to_numpy(dtype=np.float64),
        cmap=LinearSegmentedColormap.from_list("layers", LAYER_COLOURS),
        s=7,
        linewidths=0.2,
        clip_on=False,
        edgecolors="white",
    )
    for site in here.iloc[np.argsort(-size, kind="stable")[:3]].to_dict("records"):
        axis.annotate(
            f"L{site['layer']}H{site['head']}",
            (float(site["moved"]), abs(float(site["effect_tuned"]))),
            xytext=(2.5, 2),
            textcoords="offset points",
            fontsize=6,
        )
    axis.set_title(plain_text(f"heads at {region}"), loc="left", pad=2.5)
    axis.set_xlabel("output moved by", labelpad=1.5)
    axis.set_ylabel("|effect|, tuned (logits)", labelpad=2)
    axis.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axis.set_xlim(left=0)
    axis.set_ylim(bottom=0)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    bar = figure.colorbar(points, ax=axis, label="layer", fraction=0.04, pad=0.02)
    bar.outline.set_linewidth(0.4)
    return figure
