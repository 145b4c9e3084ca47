"""The workers that calls are placed on, and those that are to be had."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import distributed

from dask_limits.dask.compat.scheduler import events
from dask_limits.dask.reservations import OWN_BYTES, margin
from dask_limits.placement.resources import Room


@dataclass(frozen=True)
class Capacity:
    """What one worker has that can be had from a queue, for calls that no present one can run.

    Attributes:
        memory: Bytes of a worker in a batch job of its own; None if nothing limits them.
        cores: How many.
        wall_time: How long its job may last, seconds; None if there is no limit.
        was_seen: Whether this is what workers have had, and not only what was asked for.
    """

    memory: int | None = None
    cores: int = 1
    wall_time: float | None = None
    was_seen: bool = False

    def after(self, member: Member) -> Capacity:
        """When one has come from the queue: it may have less than was asked for, or more.

        Of several the best counts. Else a call for which all of them are too small would wait, and
        job after job be submitted for it.
        """
        memory = math.inf if member.memory is None else member.memory + OWN_BYTES
        cores = member.cores
        if self.was_seen:
            memory = max(memory, math.inf if self.memory is None else self.memory)
            cores = max(cores, self.cores)
        return replace(
            self,
            memory=None if memory == math.inf else int(memory),
            cores=cores,
            was_seen=True,
        )

    def room(self) -> Room:
        """What such a worker has for limited calls."""
        length = math.inf if self.wall_time is None else self.wall_time
        return Room(
            memory=math.inf if self.memory is None else max(self.memory - OWN_BYTES, 0),
            cores=self.cores,
            margin=0 if self.wall_time is None else margin(length),
            length=length,
        )


@dataclass(eq=False)
class Member:
    """A worker that has introduced itself."""

    state: Any
    """What Dask's scheduler knows of it: a `WorkerState`."""
    name: str
    address: str
    memory: int | None
    cores: int
    system: str
    job: str
    ends_in: float | None
    age: float
    cause: str = ""
    """Why it leaves, if it is about to."""
    time_is_up: bool = False
    idle_since: float | None = None

    def event(self, op: str, **more: Any) -> dict[str, Any]:
        """What is logged of it under Dask's topic for clients."""
        return {"op": op, "worker": self.name, "address": self.address, "job": self.job, **more}


def removal_of(scheduler: distributed.Scheduler, address: str) -> dict[str, Any]:
    """What Dask has logged of the last removal of a worker; empty if it has not.

    "expected" in it says whether Dask knew that the worker would go.
    """
    for _, event in reversed(events(scheduler, "all")):
        if event.get("action") == "remove-worker" and event.get("worker") == address:
            return dict(event)
    return {}
