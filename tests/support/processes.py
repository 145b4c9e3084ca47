"""What tests of real processes share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def until(
    condition: Callable[[], object],
    timeout_s: float = 60,
    instead: Callable[[], object] = lambda: "it never came true",
) -> None:
    """Wait for a condition; if it does not come true, fail and say what is there instead.

    A condition that takes long, such as one that asks SLURM, is looked at less often: others need
    the CPU.
    """
    give_up = time.monotonic() + timeout_s
    while True:
        began = time.monotonic()
        if condition():
            return
        assert time.monotonic() < give_up, instead()
        time.sleep(min(max(0.005, 3 * (time.monotonic() - began)), 0.2))


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def all_gone(pids: set[int]) -> None:
    """Wait until none of these runs any more."""
    until(lambda: not any(map(alive, pids)))


def command(pid: int) -> str:
    """The command line of a process; empty for a zombie and for one that is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""


def kept_by_multiprocessing(pid: int) -> bool:
    """Whether it is a process that multiprocessing or loky keeps as long as its parent lives."""
    if "forkserver" not in command(pid):
        return "resource_tracker" in command(pid)
    try:
        parent = psutil.Process(pid).ppid()
    except psutil.NoSuchProcess:
        return False
    return "forkserver" not in command(parent)  # what it has forked has its command line


def below(pid: int) -> set[int]:
    """All processes below this one."""
    return {child.pid for child in psutil.Process(pid).children(recursive=True)}


def children() -> set[int]:
    """All processes below this process, but for what multiprocessing keeps until the end."""
    return {pid for pid in below(os.getpid()) if not kept_by_multiprocessing(pid)}


def wait_for(path: Path | str, result: object = None) -> object:
    """A call that runs until a file is there, however long the test takes until then."""
    until(Path(path).exists, 600)
    return result


def start_sleeping(pid_file: Path, seconds: float = 60) -> None:
    """A call that says who it is, and then takes its time."""
    pid_file.write_text(f"{os.getpid()}\n")
    time.sleep(seconds)


def written_pid(pid_file: Path) -> int:
    """Who it was, as soon as it has said so."""
    until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    return int(pid_file.read_text())
