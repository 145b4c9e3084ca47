"""What tests of real Dask clusters share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from processes import alive, until

SETTINGS = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}


@contextmanager
def dask_program(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A `dask scheduler` or `dask worker` in a process of its own."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "dask", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        below: list[psutil.Process] = []
        try:
            yield process
        finally:
            if process.poll() is None:
                below = psutil.Process(process.pid).children(recursive=True)
                process.kill()
            for one in below:
                if one.is_running():
                    one.kill()


def stubborn(pids_file: Path) -> None:
    """A call that ignores signals, has a grandchild that has detached itself, and takes long."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(writer, str(os.getpid()).encode())
            time.sleep(60)
        os._exit(0)
    os.wait()
    grandchild = os.read(reader, 100).decode()
    pids_file.write_text(f"{os.getpid()} {grandchild}\n")
    time.sleep(60)


def pids_of_stubborn(pids_file: Path) -> set[int]:
    """Of the call and its grandchild, as soon as they run."""
    until(lambda: pids_file.exists() and pids_file.read_text().endswith("\n"))
    return set(map(int, pids_file.read_text().split()))


def all_gone(pids: set[int], timeout_s: float = 15) -> None:
    """Wait until none of these runs any more."""
    until(lambda: not any(map(alive, pids)), timeout_s)


def below(pid: int) -> set[int]:
    """All processes below this one."""
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}
