"""Where on the page does each head and each path of the graph stand? Layers from top to bottom, regions side by side.

The embedding of the document stands above the first layer, the logits below the last; a path runs downwards, and its
width is |effect|. Plain numbers in units of the drawing, which the template writes as SVG.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from relscope.report import words
from relscope.results import PathEnd

LOGITS: Final = "logits"
_LEFT, _LANE, _ROW, _TOP = 30.0, 82.0, 44.0, 24.0
_HALF_WIDTH, _HALF_HEIGHT = 24.0, 9.0
_THINNEST, _THICKEST = 0.8, 7.0
_BEND = 36.0


@dataclass(frozen=True)
class Edge:
    """A path from one name to another (`LOGITS` for the final residual), its effect in logits and what is told of it.

    `sure`: its interval excludes 0.
    """

    src: str
    dest: str
    effect: float
    sure: bool
    told: str


def path_graph(edges: Sequence[Edge], order: str, told: Mapping[str, str]) -> dict[str, Any]:
    """What the template needs to draw the paths between the heads that they join.

    Args:
        edges: one or more.
        order: of the prompt's parts, such as "dqi": regions stand in it from left to right.
        told: what is told of each end, by its name.
    """
    names = dict.fromkeys(name for edge in edges for name in (edge.src, edge.dest))
    ends = {name: PathEnd.read(name) for name in names if name != LOGITS}
    lanes = sorted({end.region for end in ends.values()} | {"last"}, key=lambda region: _lane_key(region, order))
    middle = {region: _LEFT + _LANE * (number + 0.5) for number, region in enumerate(lanes)}
    rows: dict[float, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, end in ends.items():
        rows[-1 if end.head is None else end.layer][end.region].append(name)
    rows[math.inf]["last"].append(LOGITS)
    places: dict[str, tuple[float, float]] = {}
    layers = []
    y = _TOP
    for layer, by_lane in sorted(rows.items()):
        height = _ROW * max(map(len, by_lane.values()))
        if math.isfinite(layer) and layer >= 0:
            layers.append({"words": str(int(layer)), "y": y + height / 2, "top": y})
        for region, here in by_lane.items():
            of_lane = sorted(here, key=lambda name: -1 if name == LOGITS else ends[name].head or 0)
            first = y + (height - _ROW * len(here)) / 2
            places |= {name: (middle[region], first + _ROW * (n + 0.5)) for n, name in enumerate(of_lane)}
        y += height
    largest = max(abs(edge.effect) for edge in edges)
    weakest_first = sorted(edges, key=lambda edge: abs(edge.effect))
    return {
        "width": _LEFT + _LANE * len(lanes),
        "height": y,
        "lanes": [{"words": region, "x": middle[region]} for region in lanes],
        "layers": layers,
        "edges": [_drawn(edge, places, largest) for edge in weakest_first],
        "nodes": [
            {
                "x": x - _HALF_WIDTH,
                "y": at - _HALF_HEIGHT,
                "width": 2 * _HALF_WIDTH,
                "height": 2 * _HALF_HEIGHT,
                "middle": x,
                "baseline": at + 3.8,
                "words": _short(name, ends),
                "told": told.get(name, ""),
                "is_head": name != LOGITS and ends[name].head is not None,
            }
            for name, (x, at) in places.items()
        ],
    }


def _drawn(edge: Edge, places: Mapping[str, tuple[float, float]], largest: float) -> dict[str, Any]:
    (x, y), (to_x, to_y) = places[edge.src], places[edge.dest]
    y, to_y = y + _HALF_HEIGHT, to_y - _HALF_HEIGHT
    # Past what stands between two ends of one lane.
    bend = -_BEND if x == to_x and to_y - y > _ROW else 0.0
    reach = max(10.0, (to_y - y) / 2)
    line = f"M{x:g} {y:g}C{x + bend:g} {y + reach:g} {to_x + bend:g} {to_y - reach:g} {to_x:g} {to_y:g}"
    width = _THINNEST + (_THICKEST - _THINNEST) * abs(edge.effect) / largest
    kind = ("up" if edge.effect > 0 else "down") + ("" if edge.sure else " unsure")
    return {"line": line, "width": f"{width:.2f}", "kind": kind, "told": edge.told}


def _short(name: str, ends: Mapping[str, PathEnd]) -> str:
    if name == LOGITS:
        return "LD"
    end = ends[name]
    return "words" if end.head is None else words.head_name(end.layer, end.head)


def _lane_key(region: str, order: str) -> tuple[int, tuple[int, int, str]]:
    place = len(order) if region == "last" else order.find(region[0])
    return place, words.region_key(region)
