"""What the ways of patching took, line by line (a region, say), and how it reads as tables of Markdown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from goals import DELTA_TOLERANCE, EXACT_TOLERANCE, PEER_TOLERANCE, TOGETHER, Goals, verdict

PLAIN = "plain hooks"
TOLERANCES = {"exact": EXACT_TOLERANCE, "delta": DELTA_TOLERANCE}


@dataclass
class Tally:
    """One way at one line, summed over pairs; `flops` are counted, everything else is measured."""

    n_cells: int = 0
    seconds: float = 0.0
    recording_seconds: float = 0.0
    flops: float = 0.0
    worst: float = 0.0

    def add(
        self, n_cells: int, seconds: float, worst: float = 0.0, *, recording: float = 0.0, flops: float = 0.0
    ) -> None:
        """Count one more pair; `worst` is its largest difference in LD from plain hooks."""
        self.n_cells += n_cells
        self.seconds += seconds
        self.recording_seconds += recording
        self.flops += flops
        self.worst = max(self.worst, worst)

    @property
    def ms(self) -> float:
        """Milliseconds a cell, patches alone."""
        return 1e3 * self.seconds / self.n_cells

    @property
    def ms_with_recording(self) -> float:
        """Milliseconds a cell, the two recorded runs of each pair shared among its cells."""
        return 1e3 * (self.seconds + self.recording_seconds) / self.n_cells


@dataclass
class Tallies:
    """All ways at all lines.

    Attributes:
        measured: lines that are measured, in their order.
        goals: of each precision, by line.
        peaks: measured floating-point operations a second of matrix products, for each precision.
        peers: name on the table of each peer that was started.
        failures: why a peer was not run.
    """

    measured: Sequence[str]
    goals: Goals
    peaks: Mapping[str, float]
    peers: dict[str, str] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    _of: dict[str, dict[str, Tally]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(Tally)))

    def at(self, line: str, way: str) -> Tally:
        """The tally to add to, or to read."""
        return self._of[way][line]

    def drop(self, peer: str, reason: str) -> None:
        """Leave out a peer that failed: part of its figures would be compared with all of the others'."""
        self.failures[peer] = reason
        self._of.pop(peer, None)

    @property
    def ways(self) -> list[str]:
        """The peers that were measured."""
        return [peer for peer in self.peers if peer not in self.failures]

    @property
    def lines(self) -> list[str]:
        """What was measured, and all of it together where there is a goal for that and nothing is missing."""
        return (
            [*self.measured, TOGETHER] if {*self.measured, TOGETHER} == set(self.goals["exact"]) else [*self.measured]
        )

    def summed(self, line: str, way: str) -> Tally:
        """The tally of a line; of all together, as if all cells of each had been measured."""
        if line != TOGETHER:
            return self.at(line, way)
        each = [self.at(one, way) for one in self.measured]
        return Tally(
            n_cells=len(each),
            seconds=sum(of.seconds / of.n_cells for of in each),
            recording_seconds=sum(of.recording_seconds / of.n_cells for of in each),
            flops=sum(of.flops / of.n_cells for of in each),
        )


def speed_table(tallies: Tallies, title: str) -> Iterator[str]:
    """Milliseconds a cell of every way, and how many times faster than plain hooks each is."""
    titles = [*(tallies.peers[peer] for peer in tallies.peers), "relscope, exact", "relscope, delta"]
    yield row([f"{title}: ms a cell", PLAIN, *titles])
    yield rule(len(titles) + 2)
    for line in tallies.lines:
        plain = tallies.summed(line, PLAIN).ms
        cells = []
        for way in (*tallies.peers, *TOLERANCES):
            if way in tallies.failures:
                cells.append("not run")
                continue
            ms = tallies.summed(line, way).ms
            cells.append(f"{_short(ms)} ({ratio_text(plain / ms)})")
        yield row([line, _short(plain), *cells])


def goal_table(tallies: Tallies) -> Iterator[str]:
    """Each precision against its goals and against what the processor could do."""
    yield row(["cells", "precision", "ratio", "goal", "recorded runs counted", "lower bound, ms a cell", "of peak"])
    yield rule(7)
    for precision, goals in tallies.goals.items():
        for line in tallies.lines:
            plain, ours = tallies.summed(line, PLAIN), tallies.summed(line, precision)
            bound = 1e3 * ours.flops / ours.n_cells / tallies.peaks[precision]
            ratio = plain.ms / ours.ms
            counted = f"{_short(ours.ms_with_recording)} ms ({ratio_text(plain.ms / ours.ms_with_recording)})"
            yield row(
                [line, precision, ratio_text(ratio), verdict(ratio, goals.get(line)), counted, _short(bound),
                 f"{bound / ours.ms:.0%}"]
            )  # fmt: skip


def agreement_table(tallies: Tallies) -> Iterator[str]:
    """The largest difference in LD of every way from plain hooks, on the same cells."""
    ways = {**{peer: tallies.peers[peer] for peer in tallies.ways}, "exact": "exact", "delta": "delta"}
    yield row(["max LD difference from plain hooks", *ways.values()])
    yield rule(len(ways) + 1)
    for line in tallies.measured:
        worst = {way: tallies.at(line, way).worst for way in ways}
        yield row([line, *(f"{value:.1e}{_mark(way, value)}" for way, value in worst.items())])
    yield row(["at most", *(f"{_tolerance(way):g}" for way in ways)])


def disagreements(tallies: Tallies) -> list[str]:
    """Every way and line that differs by more than its tolerance."""
    return [
        f"{way} at {line}"
        for way in (*tallies.ways, *TOLERANCES)
        for line in tallies.measured
        if _mark(way, tallies.at(line, way).worst)
    ]


def _tolerance(way: str) -> float:
    return TOLERANCES.get(way, PEER_TOLERANCE)


def _mark(way: str, worst: float) -> str:
    return "" if worst <= _tolerance(way) else ", disagrees"


def _short(ms: float) -> str:
    return f"{ms:.0f}" if ms >= 100 else f"{ms:.1f}" if ms >= 10 else f"{ms:.2f}"


def ratio_text(times: float) -> str:
    """So many times as fast, to three figures at most."""
    return f"{times:.0f}x" if times >= 100 else f"{times:.1f}x" if times >= 1 else f"{times:.2f}x"


def row(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def rule(n_columns: int) -> str:
    """The line under a table's head."""
    return row(["---"] * n_columns)
