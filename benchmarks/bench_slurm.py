"""From run() to the first result on SLURM, beside plain dask-jobqueue, with and without TLS.

It starts a SLURM of its own on this machine. If that is impossible, it measures nothing.
"""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from dask_jobqueue import SLURMCluster
from distributed import Client
from measure import compare

from dask_limits import PynisherPlugin, Scheduler

JOBS: Final = 2
JOB: Final = {"cores": 1, "memory": "800MiB", "walltime": "00:10:00"}
SLURM: Final = Path(__file__).parent.parent / "ci" / "slurm"


def ours(**options: Any) -> Callable[[], float]:
    """Seconds with `Scheduler.with_slurm`; the call has limits."""

    def measure() -> float:
        wait_for_an_empty_queue()
        scheduler = Scheduler.with_slurm(n_workers=JOBS, **JOB, **options)
        task = scheduler.task(pow, plugins=PynisherPlugin(memory_limit="100 MiB"))
        taken: list[float] = []
        scheduler.on_start(lambda: task.submit(2, 10) and None)
        task.on_result(lambda *_: taken.append(time.perf_counter() - start))
        start = time.perf_counter()
        scheduler.run()
        return taken[0]

    return measure


def plain(directory: str, **options: Any) -> Callable[[], float]:
    """Seconds with dask-jobqueue; the call has no limits."""

    def measure() -> float:
        wait_for_an_empty_queue()
        gc.collect()  # earlier clusters remove files in the directory
        start = time.perf_counter()
        with (
            SLURMCluster(
                n_workers=JOBS,
                processes=1,
                log_directory=directory,
                shared_temp_directory=directory,
                scheduler_options={"dashboard_address": "127.0.0.1:0"},
                **JOB,
                **options,
            ) as cluster,
            Client(cluster) as client,
        ):
            assert client.submit(pow, 2, 10).result() == 1024
            return time.perf_counter() - start

    return measure


def wait_for_an_empty_queue() -> None:
    while subprocess.run(["squeue", "-h"], capture_output=True, check=True).stdout:
        time.sleep(0.2)


def start_slurm(folder: str) -> bool:
    """Start a SLURM that ends with this program; False if that is impossible."""
    started = subprocess.run(
        [SLURM / "start", "--with", str(os.getpid()), folder],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.environ["SLURM_CONF"] = started.stdout.strip().removeprefix("export SLURM_CONF=")
    return started.returncode == 0


def main() -> None:
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # closing early logs errors
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o711)  # munge runs as a user of its own
        folder = f"{directory}/slurm"
        if not start_slurm(folder):
            print("No SLURM can be started on this machine: nothing was measured.")
            return
        try:
            compare(
                f"To the first result on SLURM, {JOBS} jobs of one core",
                "s",
                {
                    "dask-jobqueue": plain(directory),
                    "dask-jobqueue, TLS": plain(directory, security=True),
                    "with_slurm, security=False": ours(security=False),
                    "with_slurm (TLS)": ours(),
                },
                rounds=7,
            )
            gc.collect()
        finally:
            subprocess.run([SLURM / "stop", folder], check=True)


if __name__ == "__main__":
    main()
