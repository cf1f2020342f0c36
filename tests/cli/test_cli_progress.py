"""Where no terminal watches, lines now and then say how far a command is, by a clock that is set by hand."""

from __future__ import annotations

from relscope.cli.progress import Lines
from relscope.cli.show import clock


class Watched:
    """Lines, what they said, and the time."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.time = 100.0
        self.lines = Lines(self.said.append, lambda: self.time)

    def wait(self, seconds: int) -> list[str]:
        """Let seconds go by, each with a beat; returns what is said in them."""
        before = len(self.said)
        for _ in range(seconds):
            self.time += 1
            self.lines.beat()
        return self.said[before:]


def test_a_command_of_seconds_says_nothing() -> None:
    watched = Watched()
    watched.lines.stage("reading demo")
    watched.wait(4)
    watched.lines.stage("judging 3 pairs")
    watched.wait(5)
    assert watched.said == []


def test_a_stage_that_tells_nothing_is_named_after_ten_seconds_and_each_thirty_from_then_on() -> None:
    watched = Watched()
    watched.lines.stage("loading a model")
    assert watched.wait(9) == []
    assert watched.wait(1) == ["[0:10] loading a model"]
    assert watched.wait(29) == []
    assert watched.wait(31) == ["[0:40] loading a model", "[1:10] loading a model"]


def test_a_stage_with_amounts_says_what_is_done_and_how_long_the_rest_takes() -> None:
    watched = Watched()
    watched.lines.stage("patching 800 sites of 8 pairs")
    watched.lines.start(800, 4000.0)
    watched.wait(5)
    for _ in range(4):  # 100 sites of 10 seconds each, an eighth of the work
        watched.time += 10
        watched.lines.advance(100, 500.0)
    watched.lines.beat()
    # Half the work in 45 seconds: the other half takes as long.
    assert watched.said == ["[0:45] patching 800 sites of 8 pairs: 400 of 800 (50%), about 0:45 left"]


def test_the_time_left_counts_down_until_more_is_done() -> None:
    watched = Watched()
    watched.lines.stage("patching")
    watched.lines.start(100, 100.0)
    watched.wait(40)
    watched.lines.advance(40, 40.0)  # one each second
    said = watched.wait(100)
    assert said == [
        "[1:10] patching: 40 of 100 (40%), about 0:30 left",
        "[1:40] patching: 40 of 100 (40%)",  # it has run out, and nothing new is known
        "[2:10] patching: 40 of 100 (40%)",
    ]
    watched.lines.advance(30, 30.0)  # 70 in 140 seconds, so that 30 take 60
    assert watched.wait(10) == []
    assert watched.wait(20) == ["[2:40] patching: 70 of 100 (70%), about 0:40 left"]


def test_what_was_stored_before_does_not_make_the_rest_look_quick_for_long() -> None:
    watched = Watched()
    watched.lines.stage("judging")
    watched.lines.start(1000, 1000.0)
    watched.lines.advance(500, 500.0)  # known, and counted at once
    for _ in range(40):  # then one each ten seconds
        watched.time += 10
        watched.lines.advance(1, 1.0)
    watched.lines.beat()
    # 460 are left, at ten seconds each
    assert watched.said[-1] == "[6:40] judging: 540 of 1,000 (54%), about 1:16:40 left"


def test_a_stage_that_lasted_is_said_to_be_done_before_the_next_is_named() -> None:
    watched = Watched()
    watched.lines.stage("loading a model")
    watched.wait(12)
    watched.lines.stage("aligning 64 pairs")
    watched.wait(2)
    watched.lines.stage("judging 64 pairs")
    assert watched.said == [
        "[0:10] loading a model",
        "[0:12] loading a model: done in 0:12",
        "[0:12] aligning 64 pairs",
        "[0:14] judging 64 pairs",
    ]


def test_a_warning_is_said_at_once() -> None:
    watched = Watched()
    watched.lines.warn("few queries")
    assert watched.said == ["warning: few queries"]


def test_seconds_are_shown_as_a_clock_shows_them() -> None:
    assert [clock(seconds) for seconds in (0, 7.4, 59.6, 750, 3723)] == ["0:00", "0:07", "1:00", "12:30", "1:02:03"]
