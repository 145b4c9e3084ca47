"""Runs on a real SLURM in which something breaks, and of which each call keeps a record."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from processes import until

from dask_limits import PynisherPlugin, Scheduler
from dask_limits.batch_systems.job_state import JobState
from dask_limits.exceptions import WorkerLostError
from dask_limits.executors import Future
from dask_limits.executors.cluster import WorkerInfo

MARK = "DASK_LIMITS_TEST"
"""A variable that everything inherits that a test starts, in jobs too: the name of its folder."""
TRACKER = "multiprocessing.resource_tracker"
"""What multiprocessing keeps for as long as the process lives that has started it."""


class Begun(NamedTuple):
    """That a call has begun."""

    number: int
    job: str
    pid: int
    at: float


def work(folder: Path, number: int, gate: str = "") -> int:
    """A call that says that it has begun, has a process that has detached itself, and waits."""
    job = os.environ["SLURM_JOB_ID"]
    subprocess.run(["/bin/sh", "-c", "setsid sleep 600 &"], check=True)
    with (folder / "begun").open("a") as file:
        file.write(f"{number} {job} {os.getpid()} {time.time()}\n")
    if gate:
        until((folder / gate).exists, 120)
    return number


def begun_in(folder: Path) -> list[Begun]:
    """What calls have said there, in order."""
    path = folder / "begun"
    text = path.read_text() if path.exists() else ""
    lines = [line.split() for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [Begun(int(n), job, int(pid), float(at)) for n, job, pid, at in lines]


class Run:
    """A run, its calls, and what was told of them.

    Args:
        folder: Where its calls write.
        options: Of `Scheduler.with_slurm`.

    Attributes:
        failing: The numbers of the calls that are to fail.
    """

    def __init__(self, folder: Path, **options: Any) -> None:
        given = {"cores": 2, "memory": "1 GiB", "walltime": "10 m", "interface": "lo"}
        given |= {"shared_temp_directory": str(folder / "shared"), **options}
        self.folder = folder
        self.scheduler = Scheduler.with_slurm(**given)
        self.failing: set[int] = set()
        self.futures: dict[int, Future[Any]] = {}
        self.reruns: list[tuple[int, WorkerLostError, int]] = []
        self.waiting: list[JobState] = []
        self.added: list[WorkerInfo] = []
        self.removed: list[tuple[WorkerInfo, str]] = []
        self.scheduler.on_waiting_for_workers(self.waiting.extend)
        self.scheduler.on_worker_added(self.added.append)
        self.scheduler.on_worker_removed(lambda *about: self.removed.append(about))
        self.scheduler.on_future_rerun(self._note_rerun)

    def _note_rerun(self, future: Future[Any], error: WorkerLostError, attempt: int) -> None:
        number = next(n for n, one in self.futures.items() if one is future)
        self.reruns.append((number, error, attempt))

    @contextmanager
    def going(self) -> Iterator[None]:
        """It goes on meanwhile, and ends when all calls have; then nothing was lost or hidden."""
        with ThreadPoolExecutor(1) as thread:
            begins: list[bool] = []
            self.scheduler.on_start(lambda: begins.append(True))
            options = {"end_on_empty": False, "on_exception": "continue", "wait": False}
            ended = thread.submit(self.scheduler.run, timeout=150, **options)
            try:
                until(lambda: begins or ended.done(), 40)
                assert begins, ended.result()
                yield
                until(lambda: all(one.done() for one in self.futures.values()), 60)
            finally:
                self.scheduler.stop()
            ended.result()
        self.check()

    def submit(self, numbers: range, gate: str = "", call: Any = work, **limits: Any) -> None:
        """Submit a call for each of these numbers, which ends when there is a file of that name."""
        plugins = [PynisherPlugin(**({"memory_limit": "300 MiB"} | limits))]
        task = self.scheduler.task(call, plugins=plugins)
        for number in numbers:
            self.futures[number] = task.submit(self.folder, number, gate)

    def open(self, gate: str) -> None:
        """Let the calls end that wait for this file."""
        (self.folder / gate).touch()

    def begun(self) -> list[Begun]:
        """What calls have said, in order."""
        return begun_in(self.folder)

    def wait_for(self, number_begun: int) -> list[Begun]:
        """Wait until so many calls have begun."""
        until(lambda: len(self.begun()) >= number_begun, 40)
        return self.begun()

    def check(self) -> None:
        """All have their results, or failed as they were to; and each start was told of."""
        begun = Counter(one.number for one in self.begun())
        told = Counter(number for number, _, _ in self.reruns)
        errors = {n: future.exception() for n, future in self.futures.items()}
        assert {n for n, error in errors.items() if error is not None} == self.failing, errors
        for number, future in self.futures.items():
            if number in self.failing:
                continue
            assert future.result() == number
            # One that was on its way to a worker that was lost is told of too: it may have begun.
            assert begun[number] <= future.attempts == 1 + told[number], number
            assert len(future.earlier) == told[number], number

    def told(self) -> dict[int, str]:
        """Why each call that ran again did so, the last time."""
        return {number: error.cause for number, error, _ in self.reruns}


def marked(folder: Path) -> list[psutil.Process]:
    """The processes that a test has started, wherever they went; from outside of jobs too."""
    mark = f"{MARK}={folder}\0".encode()
    found = []
    for process in psutil.process_iter():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
            command = " ".join(process.cmdline())
        except (OSError, psutil.NoSuchProcess):
            continue
        if mark in environment and not (TRACKER in command and process.ppid() == os.getpid()):
            found.append(process)
    return found


def above(pid: int) -> dict[str, psutil.Process]:
    """The processes above a call: its guardian, the worker, the nanny that is the job's script."""
    _template, guardian, _reaper, worker, nanny = psutil.Process(pid).parents()[:5]
    assert guardian.name() == "limits-guardian"
    assert "dask_worker" in " ".join(nanny.cmdline())
    return {"guardian": guardian, "worker": worker, "nanny": nanny}
