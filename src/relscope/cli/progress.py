"""How far is a command? A bar where a terminal watches; elsewhere a line now and then, so that a log shows life.

Both go to standard error. Lines begin with the time since the command began: one for each stage that lasts, one each
30 s within it with what is done and the time left, and none of a command that ends within seconds.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from relscope.cli.show import ERR, clock

QUIET = 10.0
"""Seconds before the first line."""
EVERY = 30.0
"""Seconds between lines of one stage, at least."""
# The rate is that of the last so many seconds: what was stored before is counted at once when a command goes on.
_WINDOW = 180.0
_FIRST = "loading libraries"


class _Counted(MofNCompleteColumn):
    def render(self, task: Task) -> Text:
        n_all = task.fields.get("n_all", 0)
        return Text(f"{task.fields.get('n_done', 0):,}/{n_all:,}" if n_all else "")


class _TimeLeft(TimeRemainingColumn):
    def render(self, task: Task) -> Text:
        return super().render(task).append(" left") if task.total else Text("")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        done, seconds = task.fields.get("n_done", 0), task.elapsed or 0
        return Text(f"{done / seconds:,.0f}/s" if done and seconds else "")


class Bar:
    """A study's progress as a bar on a terminal."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._task: TaskID | None = None

    def stage(self, text: str) -> None:
        """Another stage has begun."""
        if self._task is not None:
            self._bars.remove_task(self._task)  # resetting it would keep its total
        self._task = self._bars.add_task(escape(text), total=None, n_done=0, n_all=0)

    def start(self, n_patches: int, work: float) -> None:
        """Patching begins: so many patches, so much work."""
        if self._task is not None:
            self._bars.update(self._task, total=work, n_all=n_patches)

    def advance(self, n_patches: int, work: float) -> None:
        """So much more is done; time left follows the work, since patches differ in length."""
        if self._task is not None:
            done = self._bars.tasks[0].fields["n_done"] + n_patches
            self._bars.update(self._task, advance=work, n_done=done)

    def warn(self, text: str) -> None:
        """Print a warning on standard error."""
        self._bars.console.print(f"[yellow]warning:[/yellow] {escape(text)}")


@dataclass
class _Stage:
    """One stage, and how far it is; `samples` are the time and the work done of late."""

    text: str
    began: float
    n_all: int = 0
    work: float = 0.0
    n_done: int = 0
    done: float = 0.0
    samples: deque[tuple[float, float]] = field(default_factory=deque)

    def so_far(self, now: float) -> str:
        """What is done, and how long the rest takes at the rate of late.

        The estimate is that of the last work that was done, and counts down until more is; no time is said where it
        has run out.
        """
        if not self.n_all or not self.work:
            return self.text
        text = f"{self.text}: {self.n_done:,} of {self.n_all:,} ({min(1.0, self.done / self.work):.0%})"
        (then, before), (last, _) = self.samples[0], self.samples[-1]
        if self.done > before:
            left = max(0.0, self.work - self.done) * (last - then) / (self.done - before) - (now - last)
            text += f", about {clock(left)} left" if left > 0 else ""
        return text


class Lines:
    """A study's progress as lines.

    Args:
        say: takes each line.
        now: the time in seconds, ever rising.
    """

    def __init__(self, say: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._say, self._now = say, now
        self._lock = threading.Lock()  # `beat` comes from a thread of its own
        self._began = now()
        self._due = self._began + QUIET
        self._stage: _Stage | None = None

    def stage(self, text: str) -> None:
        """Another stage has begun; the one before it is said to be done where it took long enough to be spoken of."""
        with self._lock:
            now = self._now()
            if self._stage is not None and now - self._stage.began >= QUIET:
                self._line(f"{self._stage.text}: done in {clock(now - self._stage.began)}", now)
            self._stage = _Stage(text, now, samples=deque([(now, 0.0)]))
            if now - self._began >= QUIET:
                self._line(text, now)

    def start(self, n_patches: int, work: float) -> None:
        """Patching begins: so many patches, so much work."""
        with self._lock:
            if self._stage is not None:
                self._stage.n_all, self._stage.work = n_patches, work

    def advance(self, n_patches: int, work: float) -> None:
        """So much more is done."""
        with self._lock:
            if (stage := self._stage) is not None:
                now = self._now()
                stage.n_done, stage.done = stage.n_done + n_patches, stage.done + work
                stage.samples.append((now, stage.done))
                while len(stage.samples) > 2 and stage.samples[1][0] < now - _WINDOW:
                    stage.samples.popleft()

    def warn(self, text: str) -> None:
        """Say a warning."""
        self._say(f"warning: {text}")

    def beat(self) -> None:
        """Say where the stage is, if nothing was said for a while."""
        with self._lock:
            now = self._now()
            if self._stage is not None and now >= self._due:
                self._line(self._stage.so_far(now), now)

    def _line(self, text: str, now: float) -> None:
        self._due = now + EVERY
        self._say(f"[{clock(now - self._began)}] {text}")


@contextmanager
def progress_shown() -> Iterator[Bar | Lines]:
    """A progress bar on standard error while a terminal watches it; else lines there."""
    if not ERR.is_terminal:
        with _beating(Lines(lambda line: ERR.print(line, markup=False))) as lines:
            lines.stage(_FIRST)
            yield lines
        return
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), _Counted(), _Rate(), TimeElapsedColumn(),
        _TimeLeft(),
    )  # fmt: skip
    with Progress(*columns, console=ERR, transient=True) as bars:
        bar = Bar(bars)
        bar.stage(_FIRST)
        yield bar


@contextmanager
def _beating(lines: Lines) -> Iterator[Lines]:
    """Lines that also come where a stage tells nothing for long."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(1.0):
            lines.beat()

    thread = threading.Thread(target=beat, name="progress", daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        ended.set()
        thread.join()
