"""Runs on an executor whose workers are still to come."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from dask_limits import Scheduler
from dask_limits.batch_systems.job_state import JobState
from dask_limits.executors.cluster import (
    WaitingForWorkers,
    WatchedExecutor,
    WorkerAdded,
    WorkerInfo,
)
from dask_limits.executors.wrapped import WrappedExecutor
from dask_limits.future import Future

WORKER = WorkerInfo("w", "tcp://w:1", job="17", memory=2**30, cores=4)
PENDING = (JobState("17", "w", "PENDING", "Resources"),)


class LateExecutor(WatchedExecutor):
    """Threads, which are ready when a worker has been let come.

    Attributes:
        awaited: Set when a run has begun to wait for it.
    """

    def __init__(self) -> None:
        self._threads = WrappedExecutor(ThreadPoolExecutor(1), owned=True)
        self._ready = False
        self._error: Exception | None = None
        self.awaited = threading.Event()

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        return self._threads.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)

    def ready(self) -> bool:
        self.awaited.set()
        return self._ready

    def start_error(self) -> Exception | None:
        return self._error

    def wait_for(self, jobs: tuple[JobState, ...]) -> None:
        self._tell(WaitingForWorkers(jobs))

    def come(self) -> None:
        self._ready = True
        self._tell(WorkerAdded(WORKER))

    def fail(self, error: Exception) -> None:
        self._error = error
        self._tell()


class Waiting:
    """A scheduler on such an executor, and a list of its events."""

    def __init__(self) -> None:
        self.executor = LateExecutor()
        self.scheduler = Scheduler(self.executor)
        self.events: list[object] = []
        self._threads: list[threading.Thread] = []
        for event in self.scheduler.emitter.events:
            self.scheduler.on(event)(lambda *about, name=event.name: self.events.append(name))

    def soon(self, call: Any, *args: Any) -> None:
        """Call this in another thread, as soon as the run waits for workers."""

        def run() -> None:
            if self.executor.awaited.wait(60):
                call(*args)

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def close(self) -> None:
        for thread in self._threads:
            thread.join()
        self.executor.shutdown()


@pytest.fixture
def waiting() -> Any:
    waiting = Waiting()
    yield waiting
    waiting.close()


def test_a_run_starts_with_its_first_worker(waiting: Waiting) -> None:
    waiting.executor.wait_for(PENDING)  # before the run: nobody hears it
    waiting.soon(waiting.executor.wait_for, PENDING)
    waiting.scheduler.on_waiting_for_workers(lambda jobs: waiting.soon(waiting.executor.come))
    waiting.scheduler.on_start(lambda: waiting.scheduler.submit(abs, -1))
    waiting.scheduler.on_start(lambda: waiting.executor.wait_for(()))  # is no news for anybody
    assert waiting.scheduler.run(timeout=20).code == "exhausted"
    assert waiting.events.count("on_waiting_for_workers") == 1
    assert waiting.events[:4] == [
        "on_waiting_for_workers",
        "on_worker_added",
        "on_start",
        "on_future_submitted",
    ]


def test_counts_are_the_same_with_and_without_a_cluster(waiting: Waiting) -> None:
    waiting.soon(waiting.executor.come)
    waiting.scheduler.run(timeout=20)
    assert waiting.scheduler.event_counts == {
        "on_start": 1,
        "on_empty": 1,
        "on_finishing": 1,
        "on_finished": 1,
    }
    assert waiting.scheduler.emitter.counts["on_worker_added"] == 1


def test_an_async_run_waits_too(waiting: Waiting) -> None:
    async def run() -> None:
        waiting.soon(waiting.executor.come)
        await waiting.scheduler.async_run(timeout=20)

    asyncio.run(run())
    assert waiting.events[:2] == ["on_worker_added", "on_start"]


def test_stop_ends_the_wait(waiting: Waiting) -> None:
    waiting.soon(waiting.scheduler.stop)
    assert waiting.scheduler.run().code == "stopped"
    assert waiting.events == ["on_stop", "on_finishing", "on_finished"]


def test_a_timeout_ends_the_wait(waiting: Waiting) -> None:
    assert waiting.scheduler.run(timeout=0.1).code == "timeout"
    assert waiting.events == ["on_timeout", "on_finishing", "on_finished"]


def test_ctrl_c_ends_the_wait(waiting: Waiting) -> None:
    waiting.soon(os.kill, os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        waiting.scheduler.run()
    assert waiting.events == ["on_stop", "on_finishing", "on_finished"]


def test_cancelling_an_async_run_ends_the_wait(waiting: Waiting) -> None:
    async def run() -> None:
        running = asyncio.ensure_future(waiting.scheduler.async_run())
        await asyncio.sleep(0.1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(run())
    assert waiting.events == ["on_stop", "on_finishing", "on_finished"]


@pytest.mark.parametrize("on_exception", ["raise", "end", "continue"])
def test_what_keeps_workers_from_coming_is_raised(waiting: Waiting, on_exception: Any) -> None:
    waiting.soon(waiting.executor.fail, LookupError("no such queue"))
    with pytest.raises(LookupError, match="no such queue"):
        waiting.scheduler.run(on_exception=on_exception)
    assert waiting.events == ["on_stop", "on_finishing", "on_finished"]


def test_the_scheduler_shows_what_it_waits_for(waiting: Waiting) -> None:
    shown: list[str] = []
    look = lambda: shown.append(waiting.scheduler._repr_mimebundle_()["text/plain"])  # noqa: E731
    waiting.soon(waiting.executor.wait_for, PENDING)
    waiting.scheduler.on_waiting_for_workers(lambda _: look())
    waiting.scheduler.on_waiting_for_workers(lambda _: waiting.soon(waiting.executor.come))
    waiting.scheduler.on_start(look)
    waiting.scheduler.run(timeout=20)
    assert "No worker yet" in shown[0]
    assert "1 job PENDING (Resources)" in shown[0]
    assert "1 worker, 4 cores, 1.0 GiB" in shown[1]
