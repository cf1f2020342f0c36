"""A report in a tab of a browser, where what goes wrong is noticed."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Opened:
    """A report in a tab, with everything that went wrong in it."""

    def __init__(self, browser: Any, report: Path, width: int = 1280, scheme: str = "light") -> None:
        self.context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, offline=True, accept_downloads=True
        )
        self.tab = self.context.new_page()
        self.problems: list[str] = []
        self.tab.on("console", lambda message: self.problems.append(f"{message.type}: {message.text}"))
        self.tab.on("pageerror", lambda error: self.problems.append(str(error)))
        self.tab.on("dialog", lambda dialog: (self.problems.append(f"dialog {dialog.message}"), dialog.dismiss()))
        self.tab.on("request", self._requested)
        self.requests: list[str] = []
        self.tab.goto(report.as_uri())
        # Drawing takes a second; a machine that is busy with other tests may need far longer.
        self.tab.wait_for_selector("html[data-plots=drawn]", timeout=120_000)

    def _requested(self, request: Any) -> None:
        self.requests.append(request.url)

    def beyond_the_edge(self) -> list[str]:
        """The parts of the page that reach out of the window and do not scroll on their own."""
        found: list[str] = self.tab.evaluate(
            """() => [...document.querySelectorAll("main *, header *")].filter((node) =>
                !node.closest(".scroll, .visually-hidden, svg, thead")
                && node.getBoundingClientRect().right > innerWidth + 0.5
            ).map((node) => node.outerHTML.slice(0, 80))"""
        )
        return found

    def assert_within(self, width: int) -> None:
        """With every part unfolded, nothing reaches out of a window of this width, and nothing goes wrong."""
        self.tab.evaluate("document.querySelectorAll('details').forEach((part) => { part.open = true; })")
        assert self.tab.evaluate("document.documentElement.scrollWidth") <= width
        assert self.beyond_the_edge() == []
        assert self.problems == []

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def point_at(self, identifier: str, column: int, row: int) -> str:
        """Move the pointer onto a square of a map; returns the text of the label that appears."""
        square = self.tab.evaluate(
            """([id, column, row]) => {
                const plot = document.getElementById(id), full = plot._fullLayout;
                plot.scrollIntoView({block: "center", behavior: "instant"});
                const box = plot.getBoundingClientRect();
                return [
                    box.left + full.xaxis._offset + full.xaxis.l2p(column),
                    box.top + full.yaxis._offset + full.yaxis.l2p(row),
                ];
            }""",
            [identifier, column, row],
        )
        self.tab.mouse.move(square[0] - 1, square[1] - 1)
        self.tab.mouse.move(*square)
        label = self.tab.locator(f"#{identifier} .hoverlayer .hovertext")
        label.wait_for(timeout=30_000)
        return str(label.text_content())
