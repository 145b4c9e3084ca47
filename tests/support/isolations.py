"""Over which levels of isolation a promise is tested: over each, but for what one cannot give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import pytest
from our_processes import guardian_process, task_processes, templates
from processes import until

from dask_limits.limits import LimitedCall, Limits
from dask_limits.limits.owner.guardian import default_guardian


@dataclass(frozen=True)
class Isolated:
    """Puts limits on functions, at one level of isolation."""

    name: str
    options: dict[str, Any]

    def __call__(self, fn: Callable[..., Any], **limits: Any) -> LimitedCall[..., Any]:
        return LimitedCall(fn, Limits(**self.options | limits))

    def __str__(self) -> str:
        return self.name


CLEAN = Isolated("clean", {})
WARM = Isolated("warm", {"isolation": "warm"})
FRESH = Isolated("fresh", {"isolation": "fresh"})
THREAD = Isolated("thread", {"isolation": "thread"})
SPAWN = Isolated("spawn", {"isolation": "fresh", "context": "spawn"})
FORKSERVER = Isolated("forkserver", {"isolation": "fresh", "context": "forkserver"})
EACH = [CLEAN, FRESH, THREAD]
PROCESSES = [CLEAN, WARM, FRESH]
FRESH_BY_EACH_METHOD = [FRESH, SPAWN, FORKSERVER]

CANNOT = {
    ("thread", "num_processes"): "which thread started a process cannot be seen",
    ("thread", "grace_period"): "a thread cannot be killed when it is over",
    ("thread", "capture_output"): "what is printed is its whole process's",
    ("thread", "children"): "what it starts is not counted, and not ended",
    ("thread", "calls in C"): "an interrupt waits for the next step of Python code",
    ("thread", "swallowed"): "an interrupt is an exception, which code can handle and go on",
    ("thread", "crash"): "it is its caller's process that crashes",
    ("thread", "clean"): "what a call changes stays changed",
    ("thread", "cancel"): "nothing ends a call but its own limits",
    ("thread", "peak_memory"): "memory is its whole process's",
    ("thread", "stacks of all threads"): "the other threads are its caller's",
}
"""What a level of isolation cannot promise, and why. `test_thread.py` shows each to be so."""


def on_each(*needed: str) -> pytest.MarkDecorator:
    """Run a test at each level of isolation that can give what it needs."""
    return pytest.mark.parametrize("isolated", able_to(*needed), ids=str)


def able_to(*needed: str) -> list[Isolated]:
    return [it for it in EACH if not any((it.name, what) in CANNOT for what in needed)]


on_all = pytest.mark.parametrize("isolated", [*EACH, WARM], ids=str)
"""For what a call may leave to another: clean processes run calls of one function alone."""
on_processes = pytest.mark.parametrize("isolated", PROCESSES, ids=str)
on_fresh = pytest.mark.parametrize("isolated", FRESH_BY_EACH_METHOD, ids=str)


def nothing_goes_on() -> None:
    """Wait until nothing is left of the calls that the default guardian has run."""
    until(lambda: not _left_running(), instead=_left_running)


def _left_running() -> list[psutil.Process]:
    connection = default_guardian()._connection
    if connection is None:
        return []
    try:
        reaper, its = psutil.Process(connection.pid), default_guardian()
        own = task_processes(its)
        ours = [guardian_process(its), *templates(its), *own]
        below = [p for p in reaper.children(recursive=True) if p not in ours]
        extra = max(len(own) - len(connection._leases) - 1, 0)  # one is the spare
        return below + own[:extra]
    except psutil.NoSuchProcess:  # one that goes at this moment: look again
        return [psutil.Process()]
