"""The process of the workers: `python -m benchmarks.scaling.simulated ADDRESS WORKERS SECONDS`."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import sys
import tempfile
from collections.abc import Callable
from typing import Any, Final

import dask
import distributed

from benchmarks.scaling.cluster import end_with_driver
from dask_limits.dask.batch import BatchOutcome, numbers_left
from dask_limits.dask.worker import plugin
from dask_limits.dask.worker.executor import LimitsExecutor
from dask_limits.limits import Limits, Outcome, Usage
from dask_limits.limits.packed_outcome import PackedOutcome

AT_A_TIME: Final = 50
"""How many workers are started together."""
QUIET: Final = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "60s",
    "distributed.admin.tick.limit": "1h",
    "distributed.admin.system-monitor.interval": "60s",
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}
"""What each worker does all the time by itself would take more of one process than all calls."""


class SimulatedExecutor(LimitsExecutor):
    """Ends the calls of a task when their time is over, and runs nothing."""

    seconds = 0.0  # that a call takes

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Any:
        node, data, delay = args
        numbers = numbers_left(self._tasks[node.key].annotations)
        usage = Usage(wall_time=self.seconds, cpu_time=0.0)
        one = PackedOutcome.of(Outcome(value=None, usage=usage), "echo", Limits())
        outcome = BatchOutcome(dict.fromkeys(numbers, one), self.seconds)
        ended: concurrent.futures.Future[Any] = concurrent.futures.Future()

        def end() -> None:
            ended.set_result(fn(lambda _: outcome, data, delay))

        self._loop.call_later(self.seconds * len(numbers), end)
        return ended


async def main(address: str, n_workers: int, seconds: float) -> None:
    SimulatedExecutor.seconds = seconds
    plugin.LimitsExecutor = SimulatedExecutor  # type: ignore[misc]
    with tempfile.TemporaryDirectory() as folder:
        options = {"nthreads": 1, "memory_limit": "4 GiB", "dashboard": False}
        workers = (
            distributed.Worker(address, name=name, local_directory=folder, **options)
            for name in range(n_workers)
        )
        started = []
        while some := list(itertools.islice(workers, AT_A_TIME)):
            started += await asyncio.gather(*some)
        await asyncio.gather(*(worker.finished() for worker in started))


if __name__ == "__main__":
    end_with_driver()
    dask.config.set(QUIET)
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
