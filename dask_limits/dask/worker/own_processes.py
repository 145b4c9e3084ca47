"""What the processes of ours below a Dask worker use, for what Dask shows of the worker."""

from __future__ import annotations

import asyncio
import time
from typing import Final

from dask_limits.limits.linux import proctree
from dask_limits.limits.owner.guardian import Guardian

_REST: Final = 20
"""How many times as long as a look takes there is none after it: looks take 5 % of a core at most.
The memory of a process of 10 GiB takes up to 50 ms."""


class OwnProcesses:
    """Measures the guardian of a worker and all processes below it, those of calls included.

    Attributes:
        memory: Their bytes at the last look, with each shared page divided by its sharers.
    """

    def __init__(self, guardian: Guardian) -> None:
        self._guardian = guardian
        self._cpu_time = 0.0  # seconds, at the last look
        self._looked_at = time.monotonic()
        self._next_look = 0.0  # seconds of time.monotonic()
        self._cpu_percent = 0.0
        self.memory = 0

    async def measure(self) -> tuple[float, int]:
        """Their CPU in percent of one core since the last look, and their memory in bytes."""
        if time.monotonic() >= self._next_look:
            await asyncio.to_thread(self._look)
        return self._cpu_percent, self.memory

    def _look(self) -> None:
        now, cpu_time, memory = time.monotonic(), 0.0, 0
        for pid in self._guardian.pids:
            if (root := proctree.read_process(pid)) is not None:
                below = proctree.descendants_of(root)
                cpu_time += root.cpu_time + proctree.cpu_time_below(root, below)
                memory += sum(proctree.proportional_memory(p.pid) for p in (root, *below))
        used = max(cpu_time - self._cpu_time, 0)  # less, if a guardian has ended
        self._cpu_percent = 100 * used / max(now - self._looked_at, 0.001)
        self._cpu_time, self._looked_at, self.memory = cpu_time, now, memory
        self._next_look = now + _REST * (time.monotonic() - now)
