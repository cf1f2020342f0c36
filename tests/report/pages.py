"""The page as a reader's program sees it, and runs made from others to build it from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd

from relscope.report.contents import read_contents
from relscope.report.page import render
from relscope.results import Manifest, create_or_resume, open_run


@dataclass
class Page:
    """A parsed page: its visible text, its elements (tag, attributes), and the content of its scripts by id."""

    html: str
    text: str = ""
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    scripts: dict[str | None, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Page:
        page = cls(path.read_text(encoding="utf-8"))
        _Reader(page).feed(page.html)
        return page

    @property
    def data(self) -> dict[str, Any]:
        """The numbers that the page's script draws."""
        parsed: dict[str, Any] = json.loads(self.scripts["plot-data"])
        return parsed

    def tags(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == name]


class _Reader(HTMLParser):
    def __init__(self, page: Page) -> None:
        super().__init__()
        self.page = page
        self.inside: str | None = None
        self.script_id: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.page.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self.inside, self.script_id = tag, dict(attrs).get("id")

    def handle_endtag(self, tag: str) -> None:
        if tag == self.inside:
            self.inside = None

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.page.scripts[self.script_id] = self.page.scripts.get(self.script_id, "") + data
        elif self.inside is None:
            self.page.text += data


def exclusion_rows(html: str) -> list[tuple[str, str, int]]:
    """The tables of exclusions in a piece of a page: stage, reason and how many pairs of each row."""
    cells = r'data-name="Stage">(\w+) .*?data-name="Reason">([^<]*)<.*?data-name="Pairs" class="num">(\d+)<'
    return [(stage, reason, int(n)) for stage, reason, n in re.findall(cells, html)]


def section(html: str, name: str) -> str:
    """The HTML of one section of a page."""
    return html.partition(f'<section id="{name}"')[2].partition("</section>")[0]


def changed_run(
    source: Path,
    directory: Path,
    keep: Callable[[pd.DataFrame], pd.DataFrame] = lambda rows: rows,
    **updates: Any,
) -> Path:
    """A new run with the rows of another that `keep` returns, and with some fields of its manifest replaced."""
    run = open_run(source)
    manifest = Manifest.model_validate({**run.manifest.model_dump(), "identity_hash": "", **updates})
    rows = keep(run.rows())
    with create_or_resume(directory, manifest) as new:
        for experiment in rows["experiment"].astype(str).unique():
            new.write_part(experiment, rows[rows["experiment"] == experiment])
    return directory


def with_edges(rows: pd.DataFrame, edges: Sequence[str], components: Sequence[str] = ("scores",)) -> pd.DataFrame:
    """The rows and those of edges, each of which has exactly the effects of `z` at its destination."""
    texts = dict.fromkeys(("experiment", "component", "region", "dest", "src"), object)
    rows = rows.astype(texts)
    found = [rows]
    for edge in edges:
        dest, _, src = edge.partition("<-")
        at_dest = rows[(rows["component"] == "z") & (rows["region"] == dest)]
        named = {"experiment": "edges", "region": None, "dest": dest, "src": src}
        found += [at_dest.assign(**named, component=component) for component in components]
    return pd.concat(found, ignore_index=True)


def require_exclusions_of_the_example(shown: str) -> None:
    """The section on exclusions tells those of the synthetic run: each stage and reason, and how many are left."""
    assert exclusion_rows(shown) == [
        ("data", "empty document", 2),
        ("alignment", "no document token left", 1),
        ("filter", "judged wrongly", 2),
    ]
    assert "5 pairs or queries left out; 12 of 17 loaded pairs are patched." in shown


def page_only(run_dir: Path) -> Path:
    """The report of a run without its figures, which take most of the time of building one."""
    path = run_dir / "report.html"
    run = open_run(run_dir)
    path.write_text(render(read_contents(run), run_dir, []), encoding="utf-8", errors="replace")
    return path
