"""What does every page carry besides its numbers? A name, a template, our own style and script, and plotly's.

Every text passes the template's automatic escaping; only what is read here is put in as it is.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

REPORT_NAME: Final = "report.html"


def template(name: str) -> Template:
    """A page's template; a value that it names and is not given is an error."""
    environment = Environment(
        loader=PackageLoader("relscope.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


@cache
def own(name: str) -> Markup:
    """One of this package's own files, such as `report.css`."""
    return Markup(files("relscope.report").joinpath("templates", name).read_text(encoding="utf-8"))


@cache
def plotly() -> Markup:
    """Plotly's script, whole: a page needs no network."""
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs())
