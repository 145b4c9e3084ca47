"""What the scheduler plugin does later: timers and tasks, on the loop of Dask's scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import distributed
from distributed import Status


class Background:
    """Timers and tasks that end with the plugin.

    Args:
        scheduler: Dask's. This is called on its loop.
    """

    def __init__(self, scheduler: distributed.Scheduler) -> None:
        self._scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # asyncio holds them weakly

    def later(self, name: str, seconds: float, do: Callable[[], object]) -> None:
        """Do something after some time, unless a timer of this name is running already."""

        def run() -> None:
            del self._timers[name]
            do()

        if name not in self._timers:
            self._timers[name] = self._loop.call_later(max(seconds, 0), run)

    def cancel_timer(self, name: str) -> None:
        """Stop a timer, if it is running."""
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine in a task, unless the scheduler is closing."""
        if self._scheduler.status in (Status.closing, Status.closed):
            work.close()
            return
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Cancel all timers and tasks."""
        for timer in self._timers.values():
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()

    async def stopped(self) -> None:
        """Wait for the tasks that were cancelled: they may have to end a command first."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
