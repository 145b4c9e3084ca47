"""Which call does what, by the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.soak.calls import Item
from dask_limits.exceptions import (
    CpuTimeBreach,
    CrashError,
    ExitError,
    GuardianLostError,
    MemoryBreach,
    ProcessBreach,
    WallTimeBreach,
    WorkerLostError,
)

USUAL: Final[dict[str, Any]] = {"walltime_limit": "5 m", "memory_limit": "1 GiB"}
OF_A_KILL: Final = (CrashError, GuardianLostError, WorkerLostError)
"""How calls end whose processes are killed."""
LOAD: Final = bytes(1_000_000)
CANCELLED_WITHIN_S: Final = 0.2


@dataclass(frozen=True)
class Kind:
    """Calls that do the same.

    Attributes:
        share: How many of a thousand calls.
        error: What they end with; None if with a result.
        limits: Of their task.
    """

    share: float
    error: type[BaseException] | None = None
    limits: dict[str, Any] = field(default_factory=dict)
    load: bytes = b""


KINDS: Final = {
    "plain": Kind(0),
    "load": Kind(1, load=LOAD),
    "warm": Kind(2, limits={"isolation": "warm"}),
    "fresh": Kind(0.2, limits={"isolation": "fresh"}),
    "litter": Kind(0.5),
    "raise": Kind(2, LookupError),
    "crash": Kind(0.5, CrashError),
    "exit": Kind(0.5, ExitError),
    "cancel": Kind(1),
    "wall": Kind(0.3, WallTimeBreach, {"walltime_limit": 0.2}),
    "cpu": Kind(0.3, CpuTimeBreach, {"cputime_limit": 0.2}),
    "memory": Kind(0.3, MemoryBreach, {"memory_limit": "100 MiB"}),
    "processes": Kind(0.3, ProcessBreach, {"process_limit": 2}),
}
"""What is not of another kind is plain."""


class Mix:
    """Draws the kinds of calls, one after the other. The same seed draws the same."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        others = [name for name in KINDS if name != "plain"]
        self._names = ["plain", *others]
        shares = [KINDS[name].share / 1000 for name in others]
        self._shares = [1 - sum(shares), *shares]

    def items(self, numbers: Iterator[int]) -> Iterator[Item]:
        for number in numbers:
            (name,) = self._dice.choices(self._names, self._shares)
            yield Item(number, name, KINDS[name].load)

    def patience(self) -> float:
        """After how many seconds a call is cancelled that is of that kind: often at once."""
        return max(self._dice.uniform(-CANCELLED_WITHIN_S, CANCELLED_WITHIN_S), 0)


def is_as_meant(item: Item, future: Future[Any]) -> bool:
    """Whether a call has ended as its kind does, if nothing is killed."""
    kind = KINDS[item.kind]
    if item.kind == "cancel" or future.cancelled():
        return item.kind == "cancel" and future.cancelled()
    error = future.exception()
    if kind.error is None or error is None:
        return error is None and kind.error is None and future.result() == item
    return isinstance(error, kind.error)
