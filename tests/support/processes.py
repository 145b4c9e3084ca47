"""What tests of real processes share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def until(condition: Callable[[], object], timeout_s: float = 20) -> None:
    """Wait for a condition; fail if it does not come true."""
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def children() -> set[int]:
    """Everything below this process, but for what multiprocessing keeps until the end."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            if "resource_tracker" not in " ".join(child.cmdline()):
                found.add(child.pid)
        except psutil.NoSuchProcess:
            pass
    return found


def start_sleeping(pid_file: Path, seconds: float = 60) -> None:
    """A call that says who it is, and then takes its time."""
    pid_file.write_text(f"{os.getpid()}\n")
    time.sleep(seconds)


def written_pid(pid_file: Path) -> int:
    """Who it was, as soon as it has said so."""
    until(lambda: pid_file.exists() and pid_file.read_text().endswith("\n"))
    return int(pid_file.read_text())
