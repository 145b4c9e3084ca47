"""Many commands on this machine, as programs run them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.row import Peer, Row, at_least

LIMITS = ["--memory", "200MiB", "--wall-time", "1m"]


def per_second(command: list[str], size: int) -> float:
    """How many commands a program runs in a second that reads them from a file, its start too."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "commands")
        file.write_text("true\n" * size)
        start = time.perf_counter()
        with file.open() as stdin:
            subprocess.run(command, stdin=stdin, check=True, cwd=folder, capture_output=True)
        return size / (time.perf_counter() - start)


def batch(*options: str) -> list[str]:
    return [sys.executable, "-m", "dask_limits", "batch", "-", "--workers", "2", *options]


def limited(size: int) -> float:
    return per_second(batch(*LIMITS), size)


def limited_with_results(size: int) -> float:
    return per_second([*batch(*LIMITS), "--out", "results"], size)


def gnu_parallel(size: int) -> float:
    """GNU parallel, by its own name in PATH: `apt install parallel`. Others are called so too."""
    program = shutil.which("parallel")
    if program is None or b"GNU" not in subprocess.check_output([program, "--version"]):
        raise ModuleNotFoundError("No program 'parallel' of GNU here", name="parallel")
    return per_second([program, "-j2"], size)


def xargs(size: int) -> float:
    return per_second(["xargs", "-d", "\n", "-n", "1", "-P", "2", "sh", "-c"], size)


def hyperqueue(size: int) -> float:
    """HyperQueue, its server and its worker in a process, from Python."""
    from hyperqueue import Job, LocalCluster
    from hyperqueue.cluster import WorkerConfig

    with TemporaryDirectory() as folder, LocalCluster() as cluster:
        os.chdir(folder)
        cluster.start_worker(WorkerConfig(cores=2))
        client = cluster.client()
        job = Job()
        for _ in range(size):
            job.program(["sh", "-c", "true"])
        start = time.perf_counter()
        client.wait_for_jobs([client.submit(job)])
        return size / (time.perf_counter() - start)


ROWS = (
    Row(
        "batch",
        "{size:,} `true`, two at a time: `dask-limits batch`, limited",
        "commands/s",
        limited,
        full=2000,
        quick=1000,
        peers=(
            Peer("parallel", "GNU parallel", gnu_parallel, at_least(1)),
            Peer("hyperqueue", "HyperQueue, without its start", hyperqueue),
            Peer("xargs", "xargs -P 2", xargs),
            Peer("out", "itself with --out: files and a journal", limited_with_results),
        ),
        rounds=3,
    ),
)
