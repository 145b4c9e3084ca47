"""Kills processes below the driver, by the seed."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from typing import Final

from benchmarks.soak.census import processes

OFTEN: Final = {"task": 6, "template": 1, "guardian": 1, "reaper": 1, "worker": 1}
LIVES_SHORT: Final = "task"
CALLS_BETWEEN: Final = 50
"""How many calls are told from one kill of what lives long to the next one: a call that has lost
one guardian after the other before it has begun is refused, as it should be."""


class Killer:
    """Kills one process after the other.

    What lives long is killed in the first part only, so that the rest shows whether it grows. Of
    Dask's workers one is spared, so that calls never wait for workers alone.
    """

    def __init__(self, seed: int, every_s: float) -> None:
        self._dice = random.Random(seed)
        self._every_s = every_s
        self._next_at = every_s
        self._told = 0  # calls, when something was killed last that lives long
        self.killed: Counter[str] = Counter()

    def look(self, at: float, told: int, *, is_calm: bool) -> None:
        """Kill something, if it is time to; so many calls were told so far."""
        if at < self._next_at:
            return
        self._next_at = at + self._dice.expovariate(1 / self._every_s)
        there = list(processes())
        spares_others = is_calm or told < self._told + CALLS_BETWEEN
        roles = sorted({one for one, _ in there} & ({LIVES_SHORT} if spares_others else {*OFTEN}))
        if not roles:
            return
        (role,) = self._dice.choices(roles, [OFTEN[one] for one in roles])
        pids = sorted(pid for one, pid in there if one == role)
        if role == "worker":
            pids = pids[1:]
        if pids:
            try:
                os.kill(self._dice.choice(pids), signal.SIGKILL)
            except ProcessLookupError:
                return
            self.killed[role] += 1
            self._told = told if role != LIVES_SHORT else self._told
