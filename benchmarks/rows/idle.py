"""What is left of a program that has run 100 calls at one time, after a while."""

from __future__ import annotations

import threading
import time

import psutil

from benchmarks.row import Peer, Row
from benchmarks.timing import LIMITS, Isolation
from dask_limits import limit

CALLS = 100


def below(idle_s: int, isolation: Isolation = "clean") -> list[psutil.Process]:
    nap = limit(time.sleep, **LIMITS, isolation=isolation)
    threads = [threading.Thread(target=nap, args=[1]) for _ in range(CALLS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(idle_s)
    return psutil.Process().children(recursive=True)


def processes(idle_s: int, isolation: Isolation = "clean") -> float:
    return len(below(idle_s, isolation))


def memory(idle_s: int, isolation: Isolation = "clean") -> float:
    """In MiB; pages that several share count once."""
    return sum(map(proportional, below(idle_s, isolation))) / 2**20


def proportional(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.NoSuchProcess:  # it was about to end
        return 0


ROWS = (
    Row(
        "idle-processes",
        "processes below a program, {size} s after 100 calls at one time",
        "processes",
        processes,
        full=20,
        tiny=0,
        peers=(Peer("warm", "warm processes", lambda n: processes(n, "warm")),),
        rounds=1,
    ),
    Row(
        "idle-memory",
        "their memory",
        "MiB",
        memory,
        full=20,
        tiny=0,
        peers=(Peer("warm", "warm processes", lambda n: memory(n, "warm")),),
        rounds=1,
    ),
)
