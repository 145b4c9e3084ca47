"""Calls that leave notes. A task process imports this in the time of a call, so it is light."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path

import psutil
from processes import until


def run_until(go: Path, runs: Path) -> str:
    """A call that notes each of its runs, and returns when a file is there."""
    with runs.open("a") as lines:
        lines.write("ran\n")
    until(go.exists, timeout_s=50)
    return "done"


def kill_own_worker(runs: Path, _: bytes = b"") -> None:
    """A call that kills the worker above it, before that can have said that it has begun."""
    with runs.open("a") as lines:
        lines.write("ran\n")
    _template, _guardian, _reaper, worker = psutil.Process().parents()[:4]
    worker.kill()
    time.sleep(50)


def hold_the_gil_to_the_end(runs: Path) -> None:
    """A call in a thread that lets its worker say nothing until that is killed, a second later."""
    with runs.open("a") as lines:
        lines.write("ran\n")
    ctypes.PyDLL(None).alarm(1)
    ctypes.PyDLL(None).usleep(50_000_000)


def count_run(runs: Path, seconds: float = 0) -> int:
    """A call that notes each of its runs; only the first of them takes so long."""
    with runs.open("a") as lines:
        lines.write("ran\n")
    if (n_runs := len(runs.read_text().split())) == 1:
        time.sleep(seconds)
    return n_runs


def note_run(runs: Path) -> None:
    """A call that notes that it has run."""
    time.sleep(0.1)
    with runs.open("a") as lines:
        lines.write("ran\n")


def note(file: Path, what: str, seconds: float = 0.02) -> None:
    """A call that notes when it begins and ends, in one line."""
    begin = time.monotonic()
    time.sleep(seconds)
    with file.open("a") as lines:
        lines.write(f"{what} {begin} {time.monotonic()}\n")


def wait_for(go: Path, begun: Path | None = None) -> None:
    if begun is not None:
        begun.touch()
    until(go.exists, timeout_s=50)


def meet(folder: Path, name: str, number: int) -> None:
    """A call that returns when so many of them run at one time."""
    folder.mkdir(exist_ok=True)
    (folder / name).touch()
    until(lambda: len(list(folder.iterdir())) == number)


def allocate(size: int) -> int:
    return len(bytearray(b"x") * size)


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
