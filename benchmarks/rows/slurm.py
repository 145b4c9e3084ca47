"""From run() to the first result on SLURM: a SLURM of its own on this machine."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from dask_jobqueue import SLURMCluster
from distributed import Client

from benchmarks.row import Measure, Peer, Row
from dask_limits import PynisherPlugin, Scheduler

JOBS: Final = 2
JOB: Final[Any] = {"cores": 1, "memory": "800MiB", "walltime": "00:10:00"}
CALLS: Final = 1000
PROGRAMS: Final = Path(__file__).parents[2] / "ci" / "slurm"


@contextlib.contextmanager
def slurm() -> Iterator[Path]:
    """A SLURM, and a folder for what jobs need."""
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # closing early logs errors
    with TemporaryDirectory() as directory:
        folder = Path(directory)
        folder.chmod(0o711)  # munge runs as a user of its own
        own = folder / "slurm"
        started = subprocess.run(
            [PROGRAMS / "start", "--with", str(os.getpid()), own],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        os.environ["SLURM_CONF"] = started.stdout.strip().removeprefix("export SLURM_CONF=")
        try:
            yield folder
        finally:
            subprocess.run([PROGRAMS / "stop", own], check=True)


def ours(folder: Path, **options: Any) -> float:
    """Seconds with `Scheduler.with_slurm`; the call has limits."""
    scheduler = Scheduler.with_slurm(
        n_workers=JOBS, shared_temp_directory=str(folder), **JOB, **options
    )
    task = scheduler.task(pow, plugins=PynisherPlugin(memory_limit="100 MiB"))
    taken: list[float] = []
    scheduler.on_start(lambda: task.submit(2, 10) and None)
    task.on_result(lambda *_: taken.append(time.perf_counter() - start))
    start = time.perf_counter()
    scheduler.run()
    return taken[0]


def to_all_workers(folder: Path, **options: Any) -> float:
    """Seconds from `run()` to the last of the workers."""
    scheduler = Scheduler.with_slurm(
        n_workers=JOBS, shared_temp_directory=str(folder), **JOB, **options
    )
    came: list[float] = []

    @scheduler.on_worker_added
    def note(_: object) -> None:
        came.append(time.perf_counter() - start)
        if len(came) == JOBS:
            scheduler.stop()

    start = time.perf_counter()
    scheduler.run(end_on_empty=False, timeout=60)
    return came[JOBS - 1]


def calls_per_second(folder: Path, **options: Any) -> float:
    """The rate of short limited calls when all workers are there, and warm."""
    scheduler = Scheduler.with_slurm(
        n_workers=JOBS, shared_temp_directory=str(folder), **JOB, **options
    )
    task = scheduler.task(abs, plugins=PynisherPlugin(memory_limit="100 MiB"))
    came: list[object] = []
    ends: list[float] = []

    @scheduler.on_worker_added
    def begin(worker: object) -> None:
        came.append(worker)
        if len(came) == JOBS:
            scheduler.map(task, range(3 * CALLS))

    @task.on_result
    def note(*_: object) -> None:
        ends.append(time.perf_counter())
        if len(ends) == 3 * CALLS:
            scheduler.stop()

    scheduler.run(end_on_empty=False, timeout=120)
    return CALLS / (ends[-1] - ends[-1 - CALLS])


def plain(folder: Path, **options: Any) -> float:
    """Seconds with dask-jobqueue; the call has no limits."""
    gc.collect()  # earlier clusters remove files in the folder
    start = time.perf_counter()
    with (
        SLURMCluster(
            n_workers=JOBS,
            processes=1,
            log_directory=str(folder),
            shared_temp_directory=str(folder),
            scheduler_options={"dashboard_address": "127.0.0.1:0"},
            **JOB,
            **options,
        ) as cluster,
        Client(cluster) as client,
    ):
        assert client.submit(pow, 2, 10).result() == 1024
        return time.perf_counter() - start


def median(run: Callable[..., float], **options: Any) -> Measure:
    def measure(times: int) -> float:
        found = []
        with slurm() as folder:
            for _ in range(times):
                while subprocess.run(["squeue", "-h"], capture_output=True, check=True).stdout:
                    time.sleep(0.2)
                found.append(run(folder, **options))
            gc.collect()
        return statistics.median(found)

    return measure


ROWS = (
    Row(
        "slurm",
        "to the first result on SLURM, with_slurm (TLS), limited",
        "s",
        median(ours),
        full=3,
        tiny=1,
        peers=(
            Peer("plain-tls", "dask-jobqueue, TLS", median(plain, security=True)),
            Peer("plain", "dask-jobqueue", median(plain)),
            Peer("no-tls", "itself, security=False", median(ours, security=False)),
        ),
        rounds=3,
    ),
    Row(
        "slurm-nodes",
        "to both workers, one job of two nodes, with_slurm(nodes_per_job=2)",
        "s",
        median(to_all_workers, nodes_per_job=2),
        full=3,
        tiny=1,
        peers=(Peer("jobs", "two jobs of one node", median(to_all_workers)),),
        rounds=3,
    ),
    Row(
        "slurm-nodes-rate",
        "short calls on both workers of one job of two nodes, limited",
        "calls/s",
        median(calls_per_second, nodes_per_job=2),
        full=3,
        tiny=1,
        peers=(Peer("jobs", "two jobs of one node", median(calls_per_second)),),
        rounds=3,
    ),
)
