"""A Dask cluster whose workers are simulated, and what its processes have used."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import psutil
from distributed import Client

from benchmarks.runner import ENVIRONMENT, ROOT, end

START_S: Final = 900
SETTINGS: Final = {
    "DASK_LOGGING__DISTRIBUTED": "error",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": f"{START_S}s",
}
"""On a busy machine it takes its time to connect a thousand workers."""


class Used(NamedTuple):
    """CPU seconds of the processes; the plugin's are a part of the scheduler's."""

    driver: float
    scheduler: float
    plugin: float
    workers: float

    def since(self, before: Used) -> Used:
        return Used(*(now - then for now, then in zip(self, before, strict=True)))


class SimulatedCluster:
    """A client of it, and what has been used."""

    def __init__(self, client: Client, workers: int) -> None:
        self.client = client
        self._workers = psutil.Process(workers)

    def used(self) -> Used:
        figures = self.client.sync(self.client.scheduler.scaling_figures)
        times = self._workers.cpu_times()
        return Used(time.process_time(), **figures, workers=times.user + times.system)


@contextlib.contextmanager
def simulated_cluster(n_workers: int, seconds: float) -> Iterator[SimulatedCluster]:
    """One with so many workers, on each of which a call takes so long."""
    with contextlib.ExitStack() as stack:
        scheduler = stack.enter_context(process("benchmarks.scaling.metered"))
        assert scheduler.stdout is not None
        address = scheduler.stdout.readline().strip()
        client = stack.enter_context(Client(address, set_as_default=False, timeout=START_S))
        arguments = (address, str(n_workers), str(seconds))
        workers = stack.enter_context(process("benchmarks.scaling.simulated", *arguments))
        client.wait_for_workers(n_workers, timeout=START_S)
        yield SimulatedCluster(client, workers.pid)


@contextlib.contextmanager
def process(module: str, *arguments: str) -> Iterator[subprocess.Popen[Any]]:
    started = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=ENVIRONMENT | SETTINGS,
        stdin=subprocess.PIPE,  # it ends when this closes
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield started
    finally:
        end(started)
        for pipe in (started.stdin, started.stdout):
            assert pipe is not None
            pipe.close()


def end_with_driver() -> None:
    """Have this process end when the one that has started it does."""

    def wait() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
