"""The kinds of limits, and what goes over each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import overdoing
import pynisher
import pytest
from isolations import CANNOT, EACH, Isolated

from dask_limits import exceptions

REACHED_S = 3.0
"""A wall time in which a call gets to where its function waits, on a busy machine too."""


@dataclass(frozen=True)
class Kind:
    """One kind of limit.

    Attributes:
        limits: A limit that is soon gone over.
        breach: Our exception.
        pynishers: The exception that pynisher's users catch.
        over: Goes over it.
        over_detached: Has what it has detached go over it.
        enough: A limit that is not gone over.
    """

    name: str
    limits: dict[str, Any]
    breach: type[exceptions.Breach]
    pynishers: type[Exception]
    over: Callable[[], None]
    over_detached: Callable[[], object]
    enough: dict[str, Any]

    def __str__(self) -> str:
        return self.name

    @property
    def reached(self) -> dict[str, Any]:
        """A limit for calls that are to have begun their function when they go over it."""
        return {"wall_time": REACHED_S} if "wall_time" in self.limits else self.limits


WALL_TIME = Kind(
    "wall_time",
    {"wall_time": 0.25},
    exceptions.WallTimeBreach,
    pynisher.WallTimeoutException,
    overdoing.wait_on,
    overdoing.wait_on_detached,
    {"wall_time": "1 m"},
)
CPU_TIME = Kind(
    "cpu_time",
    {"cpu_time": 0.25},
    exceptions.CpuTimeBreach,
    pynisher.CpuTimeoutException,
    overdoing.spin,
    overdoing.spin_detached,
    {"cpu_time": (1, "m")},
)
MEMORY = Kind(
    "memory",
    {"memory": "100 MiB"},
    exceptions.MemoryBreach,
    pynisher.MemoryLimitException,
    overdoing.grow,
    overdoing.grow_detached,
    {"memory": "2 GiB"},
)
NUM_PROCESSES = Kind(
    "num_processes",
    {"num_processes": 2},
    exceptions.ProcessBreach,
    exceptions.ProcessLimitException,
    overdoing.sprout,
    overdoing.sprout_detached,
    {"num_processes": 8},
)
KINDS = [WALL_TIME, CPU_TIME, MEMORY, NUM_PROCESSES]


def expect_breach(isolated: Isolated, kind: Kind, way: Callable[..., Any]) -> None:
    """Go past a limit in this way: it must be a breach, and the next call must work."""
    error = isolated(way, **kind.limits).run(kind.over).exception
    assert isinstance(error, kind.breach), (kind, error)
    assert isolated(abs, wall_time=30)(-1) == 1


def each_kind_on(*isolations: Isolated) -> pytest.MarkDecorator:
    """Run a test for each kind of limit, at each level of isolation that has it."""
    pairs = [
        pytest.param(isolated, kind, id=f"{isolated}-{kind}")
        for isolated in isolations
        for kind in KINDS
        if (isolated.name, kind.name) not in CANNOT
    ]
    return pytest.mark.parametrize(("isolated", "kind"), pairs)


each_kind_on_each = each_kind_on(*EACH)
