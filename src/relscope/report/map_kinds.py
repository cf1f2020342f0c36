"""What is alike in all maps of one experiment: what their rows are, what they are called, and which share a scale?

Every page that draws maps asks here, so that maps of one kind look and read the same on all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import pandas as pd

from relscope.report import words
from relscope.report.findings import place
from relscope.report.maps import MODULES, EffectMap, edge_maps, flow_maps, head_maps


@dataclass(frozen=True)
class MapTitle:
    """What a map is called.

    Attributes:
        code: the component, or component and edge.
        where: the region, in words; may be empty.
        gloss: what the component is; may be empty.
        spoken: all of it, for a reader who does not see the map.
    """

    code: str
    where: str
    gloss: str
    spoken: str

    @property
    def short(self) -> str:
        """`attn_out`, `z at the query`, `scores query<-document`."""
        return f"{self.code} {self.where}".rstrip()


@dataclass(frozen=True)
class MapKind:
    """The maps of one experiment.

    Attributes:
        name: that of the experiment, by which the page's script knows the kind too.
        of_heads: the rows are heads; otherwise regions.
        maps: makes them from a table of effects, with the columns named.
        title: of a map, by its name.
    """

    name: str
    of_heads: bool
    maps: Callable[[pd.DataFrame, Sequence[str]], list[EffectMap]]
    title: Callable[[str], MapTitle]

    @property
    def axes(self) -> str:
        """The rows by the columns."""
        return "head by layer" if self.of_heads else "region by layer"

    def site(self, row: str, layer: int) -> str:
        """`L12H3`, `layer 12 at the query`: a square of a map."""
        return words.head_name(layer, int(row)) if self.of_heads else f"layer {layer} {place(row)}"

    def row_title(self, row: str) -> str:
        """`H3`, `query`: a row of a map as the column of a table."""
        return f"H{row}" if self.of_heads else row

    def names_width(self, rows: Iterable[str]) -> int:
        """Pixels that the names of the rows take at the left of a map, as the script leaves them."""
        return 34 if self.of_heads else 7 * max(map(len, rows)) + 8

    def common_rows(self, maps: Iterable[EffectMap]) -> tuple[str, ...]:
        """The rows of all these maps, in their order."""
        rows = {row for effect_map in maps for row in effect_map.rows}
        return tuple(sorted(rows, key=int) if self.of_heads else sorted(rows, key=words.region_key))

    def scale(self, map_name: str) -> str:
        """Maps of one scale have one meaning of colours; the residual stream, which reaches 1, stands apart."""
        return "residual stream" if self is FLOW and map_name not in MODULES else self.name


def _component(name: str) -> MapTitle:
    gloss = words.COMPONENTS.get(name, name)
    return MapTitle(name, "", gloss, gloss)


def _heads_at(region: str) -> MapTitle:
    return MapTitle("z", place(region), "", f"head outputs z {place(region)}")


def _edge(name: str) -> MapTitle:
    component = name.partition(" ")[0]
    return MapTitle(name, "", words.COMPONENTS.get(component, component), name)


FLOW: Final = MapKind(name="flow", of_heads=False, maps=flow_maps, title=_component)
HEADS: Final = MapKind(name="heads", of_heads=True, maps=head_maps, title=_heads_at)
EDGES: Final = MapKind(name="edges", of_heads=True, maps=edge_maps, title=_edge)
