"""A worker, and what the calls that run there have reserved of it."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field, replace

from dask_limits.placement.queue import WaitingCall
from dask_limits.placement.resources import FreeResources, Request, WorkerResources


@dataclass(eq=False)
class Worker:
    """A worker, and what is reserved of its resources."""

    name: str
    resources: WorkerResources
    is_open: bool = True  # whether it takes calls; not if it is paused, or about to leave
    running: dict[Hashable, Request] = field(default_factory=dict)  # what each call has reserved
    started: dict[Hashable, float] = field(default_factory=dict)  # when each of them did
    memory: int = 0  # bytes that are reserved
    cores: int = 0  # cores that are reserved
    prefetched: WaitingCall | None = None  # waits there until another one ends
    asked_back_at: float = 0  # when that one was sent, or last asked back
    turn: int = 0  # the number of the last call that it was given

    def calls(self) -> list[Hashable]:
        """The calls that were sent there and have not ended."""
        return [*self.running, *([self.prefetched.key] if self.prefetched else [])]

    def reserve(self, call: WaitingCall, now: float) -> None:
        """Start a call."""
        self.running[call.key] = call.request
        self.started[call.key] = now
        self.memory += call.request.memory
        self.cores += call.request.cores

    def release(self, key: Hashable) -> None:
        """A call has ended."""
        request = self.running.pop(key)
        del self.started[key]
        self.memory -= request.memory
        self.cores -= request.cores

    def release_cores(self, key: Hashable) -> None:
        """A call needs its cores no more, and runs on."""
        request = self.running[key]
        self.cores -= request.cores
        self.running[key] = replace(request, cores=0)

    def free(self, now: float) -> FreeResources:
        """What no call has reserved."""
        there = self.resources
        memory, cores = there.memory - self.memory, there.cores - self.cores
        return FreeResources(memory, cores, there.ends_at - there.margin - now)

    def fits_next(self, request: Request) -> bool:
        """Whether a call will fit as soon as any one of those that run has ended."""
        resources, running = self.resources, self.running.values()
        if self.cores != resources.cores:
            return False  # it would hold up what fits now
        # Each call must have one thread of the worker, so that none is free: a call without limits
        # does not wait for resources there, and would begin at once in a free one.
        if request.cores != 1 or any(one.cores != 1 for one in running):
            return False
        if self.memory - min(one.memory for one in running) + request.memory > resources.memory:
            return False
        if resources.ends_at == math.inf:
            return True
        return max(self._ends()) + request.seconds <= resources.time_left(0)

    def until_free(self, request: Request, now: float) -> tuple[float, int, float]:
        """How soon a call will fit, for comparison with other workers.

        This is when it will fit at the latest, how many calls must end before, and the memory in
        use that exceeds the worker's: of two equal workers, the emptier one is less.
        """
        resources, at, n_ended = self.resources, now, 0
        cores, memory = self.cores + request.cores, self.memory + request.memory
        ends = sorted(
            (end, one.cores, one.memory)
            for end, one in zip(self._ends(), self.running.values(), strict=True)
        )
        for end, one_cores, one_memory in ends:
            if cores <= resources.cores and memory <= resources.memory:
                break
            at, cores, memory = end, cores - one_cores, memory - one_memory
            n_ended += 1
        return at, n_ended, self.memory - resources.memory

    def _ends(self) -> list[float]:
        """When each of the running calls ends at the latest."""
        return [
            self.started[key] + (request.seconds or math.inf)
            for key, request in self.running.items()
        ]
