"""The cost of one limited call, beside a bare round trip and other libraries."""

from __future__ import annotations

import concurrent.futures
import os
import socket
import time
from collections.abc import Callable

import pebble
import pynisher
from measure import compare

from dask_limits.executors.processes import ProcessExecutor
from dask_limits.limits import limit


def echo(x: int) -> int:
    return x


def milliseconds(call: Callable[[], object], times: int) -> Callable[[], float]:
    def measure() -> float:
        call()
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times * 1000

    return measure


def main() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        while body := theirs.recv(1000):
            theirs.send(body)
        os._exit(0)

    def round_trip() -> None:
        ours.send(b"x" * 100)
        ours.recv(1000)

    limited = limit(echo, wall_time=60, memory="1 GiB")
    fresh = limit(echo, wall_time=60, memory="1 GiB", isolation="fresh")
    in_thread = limit(echo, wall_time=60, memory="1 GiB", isolation="thread")
    under_pynisher = pynisher.limit(echo, wall_time=60, memory=(4, "GB"))
    with (
        ProcessExecutor(1) as own,
        concurrent.futures.ProcessPoolExecutor(1) as stdlib,
        pebble.ProcessPool(1) as pool,
    ):
        compare(
            "One call, submitted and waited for",
            "ms",
            {
                "socket round trip": milliseconds(round_trip, 2000),
                "dask_limits.limit": milliseconds(lambda: limited(1), 2000),
                "limit, fresh (fork)": milliseconds(lambda: fresh(1), 20),
                "limit, thread": milliseconds(lambda: in_thread(1), 2000),
                "ProcessExecutor": milliseconds(lambda: own.submit(echo, 1).result(), 1000),
                "stdlib pool (no limits)": milliseconds(
                    lambda: stdlib.submit(echo, 1).result(), 1000
                ),
                "pebble (timeout)": milliseconds(
                    lambda: pool.schedule(echo, args=[1], timeout=60).result(), 500
                ),
                "pynisher (fork)": milliseconds(lambda: under_pynisher(1), 20),
            },
        )


if __name__ == "__main__":
    main()
