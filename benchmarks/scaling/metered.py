"""The process of Dask's scheduler: `python -m benchmarks.scaling.metered`. It prints its address.

The time of our plugin is the CPU time of the loop's thread in any of our hooks, without that in
what they have Dask do. Taking the time is part of it: some 0.5 us each time.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from typing import Any, Final

import distributed

from benchmarks.scaling.cluster import end_with_driver
from dask_limits.dask.scheduler.plugin import LimitsSchedulerPlugin

OURS: Final = (
    "_decide",
    "transition",
    "update_graph",
    "_place",
    "_call_started",
    "_join",
    "_cores",
)
DASKS: Final = ("transitions", "worker_send", "log_event")


class Meter:
    """Takes the time that is spent in our hooks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._is_ours = False
        self._since = 0.0

    def _switch(self, is_ours: bool) -> bool:
        """Return what it was before."""
        now = time.thread_time()
        if self._is_ours:
            self.seconds += now - self._since
        self._since = now
        was, self._is_ours = self._is_ours, is_ours
        return was

    def wrap(self, function: Callable[..., Any], *, is_ours: bool) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            was = self._switch(is_ours)
            try:
                return function(*args, **kwargs)
            finally:
                self._switch(was)

        return run

    def figures(self) -> dict[str, float]:
        """CPU seconds so far: of this process, and of our plugin."""
        return {"scheduler": time.process_time(), "plugin": self.seconds}


async def main() -> None:
    meter = Meter()
    for name in OURS:
        wrapped = meter.wrap(getattr(LimitsSchedulerPlugin, name), is_ours=True)
        setattr(LimitsSchedulerPlugin, name, wrapped)
    options = {"host": "127.0.0.1", "port": 0, "dashboard": False}
    async with distributed.Scheduler(dashboard_address="127.0.0.1:0", **options) as scheduler:
        for name in DASKS:
            setattr(scheduler, name, meter.wrap(getattr(scheduler, name), is_ours=False))
        scheduler.handlers["scaling_figures"] = lambda **_: meter.figures()
        print(scheduler.address, flush=True)  # noqa: T201  # the driver reads it
        await scheduler.finished()


if __name__ == "__main__":
    end_with_driver()
    asyncio.run(main())
