"""What goes into a paper? Maps and scatter plots as PNG and PDF, drawn at the width of one column of two.

They are drawn at 3.3 inches with 7-point type, so that they are placed unscaled. `flow`, `flow_attn_out` and
`flow_mlp_out` share one colour scale, which ends at the largest value of attn_out and mlp_out: on the scale of
resid_post, which reaches 1 wherever it holds everything, the modules would be pale. `flow_resid_post` has its own.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from relscope.report.contents import Contents
from relscope.report.maps import COLOURS, MODULES, EffectMap, Quantity
from relscope.report.scores import ScorePlot, named_heads
from relscope.results.files import make_folder, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_INCHES = 3.3
DPI = 300
BAR_INCHES = 0.07
STYLE: Any = {  # matplotlib types this as one literal of 300 keys
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "axes.linewidth": 0.5,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "hatch.linewidth": 0.4,
    "pdf.fonttype": 42,  # text stays text: journals refuse the type 3 fonts that are the default
    "svg.fonttype": "none",
}
COLOUR_LABELS: dict[Quantity, str] = {
    "ie": "indirect effect (share of the gap)",
    "effect": "effect (logit difference)",
}


def draw_figures(contents: Contents, folder: Path) -> list[Path]:
    """Write every map of effects, and S against them, to `folder` as PNG and PDF; returns the PNG paths.

    Raises:
        RunError: the folder cannot be made or written.
    """
    edges, scores = contents.mechanism.edges, contents.mechanism.scores
    if not (contents.flow or contents.heads or edges or (scores and scores.plots)):
        return []
    import matplotlib as mpl

    make_folder(folder)
    scale = contents.scale
    paths = []
    with mpl.rc_context(STYLE):
        for direction in contents.directions:
            suffix = f"_{direction}" if len(contents.directions) > 1 else ""
            flow = [m for m in contents.flow if m.direction == direction]
            if flow:
                figure = _flow_figure(flow, scale.quantity, scale.modules)
                paths.append(save(figure, folder / file_name(f"flow{suffix}")))
            for effect_map in flow:
                limit = scale.modules if effect_map.name in MODULES else scale.flow
                figure = _flow_figure([effect_map], scale.quantity, limit)
                paths.append(save(figure, folder / file_name(f"flow_{effect_map.name}{suffix}")))
            for effect_map in contents.heads:
                if effect_map.direction == direction:
                    figure = _heads_figure(effect_map, f"z at {effect_map.name}", scale.quantity, scale.heads)
                    paths.append(save(figure, folder / file_name(f"heads_{effect_map.name}{suffix}")))
            for effect_map in edges.maps if edges else ():
                if edges and effect_map.direction == direction:
                    figure = _heads_figure(effect_map, effect_map.name, scale.quantity, edges.limit)
                    name = effect_map.name.replace("<-", "_")
                    paths.append(save(figure, folder / file_name(f"edges_{name}{suffix}")))
            for plot in scores.plots if scores else ():
                if plot.direction == direction:
                    paths.append(save(_scatter(plot), folder / file_name(f"interaction_{plot.region}{suffix}")))
    return paths


def _flow_figure(flow: Sequence[EffectMap], quantity: Quantity, limit: float) -> Figure:
    n_rows = len(flow[0].rows)
    panel = 0.22 + 0.135 * n_rows
    figure = new_figure(0.65 + panel * len(flow))
    axes = figure.subplots(len(flow), 1, sharex=True, squeeze=False)[:, 0]
    for axis, effect_map in zip(axes, flow, strict=True):
        mesh = draw_map(axis, effect_map, quantity, limit)
        axis.set_title(plain_text(effect_map.name), loc="left", pad=2.5)
        axis.set_yticks(np.arange(n_rows), [plain_text(row) for row in effect_map.rows])
        axis.tick_params(axis="y", length=0, pad=2)
    for axis in axes[:-1]:
        axis.tick_params(axis="x", length=0)
    axes[-1].set_xlabel("layer", labelpad=1.5)
    clipped = any(np.nanmax(np.abs(m.values(quantity))) > limit for m in flow)
    colour_bar(figure, mesh, list(axes), quantity, axes_inches=0.135 * n_rows * len(flow), clipped=clipped)
    return figure


def _heads_figure(effect_map: EffectMap, title: str, quantity: Quantity, limit: float) -> Figure:
    n_heads, n_layers = len(effect_map.rows), len(effect_map.layers)
    height = min(2.8, max(0.8, 2.8 * n_heads / n_layers))
    figure = new_figure(0.85 + height)
    axis = figure.subplots()
    mesh = draw_map(axis, effect_map, quantity, limit)
    axis.set_title(plain_text(title), loc="left", pad=2.5)
    axis.set_yticks(ticks(n_heads, 8))
    axis.set_ylabel("head", labelpad=2)
    axis.set_xlabel("layer", labelpad=1.5)
    colour_bar(figure, mesh, [axis], quantity, axes_inches=height)
    return figure


def _scatter(plot: ScorePlot) -> Figure:
    figure = new_figure(2.3)
    axis = figure.subplots()
    marked = plot.heads["high_on_both"].to_numpy(dtype=bool)
    score, effect = (plot.heads[name].to_numpy(dtype=np.float64) for name in ("mean", "effect"))
    axis.axhline(0, color="#9a9a9a", linewidth=0.4, zorder=0)
    axis.axvline(0, color="#9a9a9a", linewidth=0.4, zorder=0)
    axis.scatter(score[~marked], effect[~marked], s=5, linewidths=0.5, facecolors="none", edgecolors=COLOURS[0])
    axis.scatter(score[marked], effect[marked], s=9, linewidths=0, color=COLOURS[-1])
    for i, name in named_heads(plot.heads).items():
        axis.annotate(name, (score[i], effect[i]), xytext=(2.5, 2), textcoords="offset points", fontsize=6)
    axis.set_title(plain_text(f"heads at {plot.region}"), loc="left", pad=2.5)
    axis.set_xlabel("interaction score S", labelpad=1.5)
    axis.set_ylabel("effect of z (logits)", labelpad=2)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    return figure


def new_figure(height: float) -> Figure:
    """An empty figure, one column wide and `height` inches high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(COLUMN_INCHES, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.035, h_pad=0.03, hspace=0.03)  # type: ignore[union-attr, call-arg]
    FigureCanvasAgg(figure)  # never a window, whatever the user's matplotlibrc says
    return figure


def draw_map(axis: Axes, effect_map: EffectMap, quantity: Quantity, limit: float) -> Any:
    """Draw one map on `axis`; returns what a colour bar needs."""
    from matplotlib.colors import LinearSegmentedColormap

    n_rows, n_layers = len(effect_map.rows), len(effect_map.layers)
    lined = max(n_rows, n_layers) <= 48  # lines between smaller squares would outweigh them
    values = np.ma.masked_invalid(effect_map.values(quantity))
    mesh = axis.pcolormesh(
        np.arange(n_layers + 1) - 0.5,
        np.arange(n_rows + 1) - 0.5,
        values,
        cmap=LinearSegmentedColormap.from_list("relscope", COLOURS),
        vmin=-limit,
        vmax=limit,
        edgecolors="white" if lined else "none",
        linewidth=0.25 if lined else 0,
        antialiased=lined,  # unlined squares would let the ground shine through their seams
        rasterized=n_rows * n_layers > 4000,  # a page with more small squares opens slowly
    )
    axis.patch.set(facecolor="#e9e9e9", hatch="//////", edgecolor="#9a9a9a")  # shows where a site is missing
    axis.invert_yaxis()
    axis.set_xticks(ticks(n_layers, 12))
    for side in ("top", "right", "left", "bottom"):
        axis.spines[side].set_visible(False)
    return mesh


def colour_bar(
    figure: Figure,
    mesh: Any,
    axes: list[Axes],
    quantity: Quantity,
    *,
    axes_inches: float,
    clipped: bool = False,
    label: str | None = None,
) -> None:
    """A bar below `axes`, which are `axes_inches` high together; equally long and thick in every figure."""
    from matplotlib.ticker import MaxNLocator

    bar = figure.colorbar(
        mesh,
        ax=axes,
        location="bottom",
        fraction=BAR_INCHES / axes_inches,
        aspect=2.4 / BAR_INCHES,
        pad=0.02,
        extend="both" if clipped else "neither",
        extendfrac=0.03,
        ticks=MaxNLocator(5, steps=[1, 2, 5, 10]),
        label=label or COLOUR_LABELS[quantity],
    )
    bar.outline.set_linewidth(0.4)
    bar.ax.tick_params(length=2, pad=1.5)
    bar.ax.xaxis.labelpad = 1.5


def ticks(n: int, most: int) -> list[int]:
    """Whole numbers from 0 below `n`, in steps of 1, 2, 5, 10, ... so that there are at most `most`."""
    steps = (factor * 10**power for power in range(6) for factor in (1, 2, 5))
    step = next(s for s in steps if (n - 1) // s + 1 <= most)
    return list(range(0, n, step))


def plain_text(text: str) -> str:
    """`text` as matplotlib shows it as it is, cut where it is long."""
    short = text if len(text) <= 24 else text[:23] + "…"
    return short.replace("$", r"\$")  # matplotlib reads a formula between two dollar signs


def file_name(text: str) -> str:
    """The PNG's name, of letters, digits, dots, dashes and underscores alone."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", text) + ".png"


def save(figure: Figure, path: Path) -> Path:
    """Write the figure to `path`, a PNG, and as a PDF beside it; returns `path`."""
    # Without the creation date the same run gives the same bytes.
    for target, options in (
        (path, {"dpi": DPI}),
        (path.with_suffix(".pdf"), {"metadata": {"CreationDate": None}}),
    ):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=target.suffix[1:], **options)
        write_whole(target, buffer.getvalue())
        figure.set_layout_engine("none")  # keeps the places found by the first drawing, and spares a second search
    return path
