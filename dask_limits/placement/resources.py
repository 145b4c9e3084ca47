"""What workers have for calls, and what calls ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class WorkerResources:
    """What a worker has for calls; infinity where there is no limit.

    Attributes:
        memory: Bytes.
        cores: How many calls of one core it runs at one time.
        ends_at: When its batch job ends, by the clock that `Placement.place` is given.
        length: How long the whole job lasts, in seconds.
        margin: Seconds before the job's end in which no call runs, so that the worker can leave.
    """

    memory: float = math.inf
    cores: float = 1
    ends_at: float = math.inf
    length: float = math.inf
    margin: float = 0

    @property
    def longest(self) -> float:
        """Seconds that a call can have in a new job. Starting takes some of the job's time too."""
        return max(self.length - 2 * self.margin, 0)

    def time_left(self, now: float) -> float:
        """Seconds that a call can have if it starts now."""
        return self.ends_at - self.margin - now


@dataclass(frozen=True, slots=True)
class Request:
    """What a call reserves on its worker."""

    memory: int = 0  # bytes; 0 without a limit on memory
    cores: int = 1
    seconds: float = 0  # how long it may take; 0 without a limit on time


class FreeResources(NamedTuple):
    """What a worker can give to one call now: bytes, cores, and seconds."""

    memory: float
    cores: float
    seconds: float = math.inf


def maximal(free: Iterable[FreeResources]) -> list[FreeResources]:
    """Leave out what has no more of anything than another one.

    A request fits one of the rest, or none at all.
    """
    found: list[FreeResources] = []
    for memory, cores, seconds in sorted(set(free), reverse=True):
        if not any(m >= memory and c >= cores and s >= seconds for m, c, s in found):
            found.append(FreeResources(memory, cores, seconds))
    return found


class Refusal(NamedTuple):
    """Why no worker can run a call: it asks for more of something than any worker has."""

    limit: str  # "memory", "cores" or "wall_time"
    asked: float
    most: float


def refusal(request: Request, workers: Iterable[WorkerResources]) -> Refusal | None:
    """Why none of these workers could run a call if it ran nothing else; None if one could."""
    memory, cores, seconds = request.memory, request.cores, request.seconds
    workers = list(workers)
    if not workers or any(
        cores <= one.cores and memory <= one.memory and seconds <= one.longest for one in workers
    ):
        return None
    with_cores = [worker for worker in workers if worker.cores >= cores]
    if not with_cores:
        return Refusal("cores", cores, max(worker.cores for worker in workers))
    with_memory = [worker for worker in with_cores if worker.memory >= memory]
    if not with_memory:
        return Refusal("memory", memory, max(worker.memory for worker in with_cores))
    return Refusal("wall_time", seconds, max(worker.longest for worker in with_memory))
