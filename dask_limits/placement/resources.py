"""What workers have for limited calls, and what is in use of it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from dask_limits.placement.queue import Call, Request


@dataclass
class Room:
    """What a worker has for limited calls.

    Attributes:
        memory: Bytes; infinity if nothing limits it.
        cores: How many calls of one core it runs at one time.
        ends_at: When its batch job ends, by the clock that `place` is given; infinity for never.
        margin: Seconds before that which are kept free for leaving in order.
        length: How long the whole job lasts, seconds.
    """

    memory: float = math.inf
    cores: int = 1
    ends_at: float = math.inf
    margin: float = 0
    length: float = math.inf

    @property
    def longest(self) -> float:
        """Seconds that there are for a call in a new job: starting takes some of it too."""
        return max(self.length - 2 * self.margin, 0)

    def holds(self, asked: Request) -> bool:
        """Whether such a call could ever run in such a room."""
        return not self.lacks(asked)

    def lacks(self, asked: Request) -> str:
        """The limit that it can never grant: "memory", "cores" or "wall_time"; else empty."""
        if asked.cores > self.cores:
            return "cores"
        if asked.memory > self.memory:
            return "memory"
        return "wall_time" if asked.seconds > self.longest else ""


class Refusal(NamedTuple):
    """Why a call can run nowhere: `asked` of `limit`, of which there is at most `most`."""

    limit: str
    asked: float
    most: float


def refusal(asked: Request, rooms: Iterable[Room]) -> Refusal | None:
    """Why a call could run in none of these rooms, empty as they may be; None if it could.

    Example:
        >>> refusal(Request(memory=100), [Room(memory=10), Room(memory=50)])
        Refusal(limit='memory', asked=100, most=50)
    """
    rooms = list(rooms)
    if not rooms or any(room.holds(asked) for room in rooms):
        return None
    with_cores = [room for room in rooms if room.cores >= asked.cores]
    if not with_cores:
        return Refusal("cores", asked.cores, max(room.cores for room in rooms))
    with_memory = [room for room in with_cores if room.memory >= asked.memory]
    if not with_memory:
        return Refusal("memory", asked.memory, max(room.memory for room in with_cores))
    return Refusal("wall_time", asked.seconds, max(room.longest for room in with_memory))


@dataclass(eq=False)
class Worker:
    """A worker, and what is in use of its room."""

    name: str
    room: Room
    is_open: bool = True
    """Whether it takes calls now: not if it is paused, or about to leave."""
    running: dict[Hashable, Request] = field(default_factory=dict)
    since: dict[Hashable, float] = field(default_factory=dict)
    memory: int = 0
    cores: int = 0
    beside: set[Hashable] = field(default_factory=set)
    """Which of the running have started since the worker was claimed."""
    ahead: Call | None = None
    ahead_since: float = 0
    turn: int = 0
    """The number of the last call that it was given."""

    def take(self, call: Call, now: float) -> None:
        """There is room for a call, and now it is in use."""
        self.running[call.key] = call.request
        self.since[call.key] = now
        self.memory += call.request.memory
        self.cores += call.request.cores

    def give_back(self, key: Hashable) -> None:
        """A call uses its room no more."""
        request = self.running.pop(key)
        del self.since[key]
        self.beside.discard(key)
        self.memory -= request.memory
        self.cores -= request.cores

    def time_left(self, now: float) -> float:
        """Seconds that there are for a call that starts now."""
        return self.room.ends_at - self.room.margin - now

    def fits(self, asked: Request, now: float) -> bool:
        """Whether a call could start now."""
        return (
            self.ahead is None  # whose turn it is next
            and self.cores + asked.cores <= self.room.cores
            and self.memory + asked.memory <= self.room.memory
            and asked.seconds <= self.time_left(now)
        )

    def fits_next(self, asked: Request) -> bool:
        """Whether a call will fit as soon as any one of those that run is done."""
        running = self.running.values()
        longest = max(
            self.since[key] + (one.seconds or math.inf) for key, one in self.running.items()
        )
        return (
            self.cores == self.room.cores  # else it would hold up what still fits
            # Each of them has one of the worker's threads then, and none is left: a call without
            # limits, that waits for nothing else there, would begin at once in a free one.
            and all(one.cores == 1 for one in running)
            and asked.cores == 1
            and self.memory - min(one.memory for one in running) + asked.memory <= self.room.memory
            and (
                self.room.ends_at == math.inf
                or longest + asked.seconds <= self.room.ends_at - self.room.margin
            )
        )

    def until_free(self, asked: Request, now: float) -> tuple[float, int, float]:
        """How soon a call will fit: when at the latest, after how many others, how much is left."""
        cores, memory, ended = self.cores, self.memory, 0
        at = now
        ends = sorted(
            (self.since[key] + (one.seconds or math.inf), one.cores, one.memory)
            for key, one in self.running.items()
        )
        for end, one_cores, one_memory in ends:
            if cores + asked.cores <= self.room.cores and memory + asked.memory <= self.room.memory:
                break
            at, cores, memory, ended = end, cores - one_cores, memory - one_memory, ended + 1
        return at, ended, self.memory - self.room.memory
