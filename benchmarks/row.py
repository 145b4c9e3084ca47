"""What is measured, beside what, and what it is to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

Measure = Callable[[int], float]
"""Measures once, with this size, in a process of its own, and returns the figure."""

Mode = Literal["full", "quick", "tiny"]
OURS: Final = "ours"


@dataclass(frozen=True)
class Goal:
    """A bound on our cost or our speed, as a multiple of the peer's; or on our figure itself.

    Of a cost, such as a time, and a speed, such as calls/s, each is the inverse of the other. So a
    goal names what it means: "at most 2x the time" or "at least 1.5x the speed".
    """

    bound: float
    at_least: bool = False

    def met(self, figure: float) -> bool:
        return figure >= self.bound if self.at_least else figure <= self.bound

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.bound:g}"


def at_most(bound: float) -> Goal:
    return Goal(bound)


def at_least(bound: float) -> Goal:
    return Goal(bound, at_least=True)


@dataclass(frozen=True)
class Peer:
    """Something to compare with: another library, another way, or the ideal, a figure."""

    name: str
    what: str
    measure: Measure | float
    goal: Goal | None = None


@dataclass(frozen=True)
class Row:
    """A thing that is measured.

    Attributes:
        name: By which it is chosen.
        what: The text of the table.
        unit: "ms", "calls/s", ... One that ends in "/s" is a speed, any other a cost.
        ours: The measurement.
        full: Its size, such as the number of calls.
        quick: Its size with `--quick`, which measures only what has a goal.
        tiny: Its size in tests.
        peers: What it is compared with, in the order of the table.
        goal: A bound on our figure itself.
        rounds: How often each side is measured; once, with `--quick` and in tests.
    """

    name: str
    what: str
    unit: str
    ours: Measure
    full: int
    quick: int = 0
    tiny: int = 2
    peers: tuple[Peer, ...] = ()
    goal: Goal | None = None
    rounds: int = 5

    def size(self, mode: Mode) -> int:
        return {"full": self.full, "quick": self.quick, "tiny": self.tiny}[mode]

    def in_mode(self, mode: Mode) -> Row:
        """What is measured of it."""
        if mode == "full":
            return self
        peers = tuple(peer for peer in self.peers if peer.goal or mode != "quick")
        return replace(self, peers=peers, rounds=1)

    @property
    def has_goal(self) -> bool:
        return self.goal is not None or any(peer.goal for peer in self.peers)

    @property
    def sides(self) -> dict[str, Measure | float]:
        """Each that is measured in a round, by name."""
        return {OURS: self.ours} | {peer.name: peer.measure for peer in self.peers}

    @property
    def is_speed(self) -> bool:
        return self.unit.endswith("/s")
