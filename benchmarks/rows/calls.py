"""One call at a time."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

from benchmarks import ways
from benchmarks.functions import echo, spin
from benchmarks.row import Measure, Peer, Row, at_least, at_most
from benchmarks.timing import LIMITS, each_us
from dask_limits import Scheduler, command, limit, progress


def us(way: ways.Way, function: Callable[[int], Any] = echo, every: int = 1) -> Measure:
    """Measures one of `every` so many calls, where these take long."""

    def measure(size: int) -> float:
        with way() as caller:
            call = caller(function)
            return each_us(lambda: call(1), -(-size // every))

    return measure


def ms_of_50(way: ways.Way) -> Measure:
    def measure(size: int) -> float:
        with way() as caller:
            call = caller(spin)
            return each_us(lambda: call(0.05), size) / 1000

    return measure


def bare_round_trip(size: int) -> float:
    """The floor: a function and its argument, pickled, to a process on another core and back."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    cores = sorted(os.sched_getaffinity(0))
    if os.fork() == 0:
        ours.close()
        os.sched_setaffinity(0, cores[-1:])
        while body := theirs.recv(1000):
            function, *args = pickle.loads(body)
            theirs.send(pickle.dumps(function(*args)))
        os._exit(0)
    os.sched_setaffinity(0, cores[:1])

    def call() -> None:
        ours.send(pickle.dumps((echo, 1)))
        pickle.loads(ours.recv(1000))

    return each_us(call, size)


def reports(n: int, *value: Any) -> float:
    """Seconds that so many reports take."""
    began = time.perf_counter()
    for _ in range(n):
        progress(*value)
    return time.perf_counter() - began


def us_of_a_report(*value: Any) -> Measure:
    """Measures `progress(...)` in a call, of which the driver is told."""

    def measure(size: int) -> float:
        scheduler, seconds = Scheduler.with_processes(1), list[float]()
        task = scheduler.task(limit(reports, **LIMITS))
        task.on_progress(lambda *_: None)
        task.on_result(lambda _, result: seconds.append(result))
        scheduler.on_start(lambda: bool(task.submit(size, *value)))
        scheduler.run()
        return seconds[0] / size * 1e6

    return measure


def run_true(_: object = None) -> None:
    """What `command("true")` does, as one would write it."""
    subprocess.run("true", shell=True, check=True, capture_output=True, stdin=subprocess.DEVNULL)


def us_of_run(size: int) -> float:
    return each_us(run_true, size)


def us_of_run_and_call(size: int) -> float:
    call = limit(echo, **LIMITS)

    def both() -> None:
        run_true()
        call(1)

    return each_us(both, size)


def us_of_command(size: int) -> float:
    return each_us(limit(command("true"), **LIMITS), size)


ROWS = (
    Row(
        "call",
        "a limited call (wall time, memory)",
        "us",
        us(ways.limited()),
        full=3000,
        quick=1000,
        peers=(
            Peer("floor", "a bare socket round trip, two cores", bare_round_trip, at_most(2)),
            Peer("pebble", "pebble's pool, a time limit only", us(ways.pebble), at_most(0.6)),
            Peer("pynisher", "pynisher, fork", us(ways.pynisher, every=100), at_least(40)),
            Peer("warm", "itself in a warm process", us(ways.limited("warm")), at_most(1.1)),
            Peer("stdlib", "ProcessPoolExecutor, no limits", us(ways.stdlib)),
            Peer("ray", "Ray, no limits", us(ways.ray, every=2)),
            Peer("dask", "Dask's client.submit, no limits", us(ways.dask, every=40)),
        ),
    ),
    Row(
        "lambda",
        "a limited call of a lambda, which goes by value",
        "us",
        us(ways.limited(), lambda x: x),
        full=3000,
        peers=(Peer("loky", "loky, no limits", us(ways.loky, lambda x: x)),),
        rounds=3,
    ),
    Row(
        "command",
        'a limited call of command("true")',
        "us",
        us_of_command,
        full=600,
        quick=300,
        peers=(
            Peer("run", "subprocess.run of the same, no limits", us_of_run),
            Peer("run-call", "the same and a limited call", us_of_run_and_call, at_most(1.3)),
            Peer("limited-run", "subprocess.run in a limited call", us(ways.limited(), run_true)),
        ),
    ),
    Row(
        "fresh",
        'a limited call, isolation="fresh"',
        "us",
        us(ways.limited("fresh")),
        full=100,
        peers=(Peer("pynisher", "pynisher, fork", us(ways.pynisher)),),
        rounds=3,
    ),
    Row(
        "thread",
        'a limited call, isolation="thread"',
        "us",
        us(ways.limited("thread")),
        full=3000,
        rounds=3,
    ),
    Row(
        "progress",
        "progress(value) of two figures, told to a callback",
        "us",
        us_of_a_report((3, 0.125)),
        full=300_000,
        quick=30_000,
        peers=(Peer("nothing", "progress() without a value", us_of_a_report()),),
        goal=at_most(10),
        rounds=3,
    ),
    Row(
        "50ms",
        "a call of 50 ms in a clean process",
        "ms",
        ms_of_50(ways.limited()),
        full=60,
        quick=20,
        peers=(Peer("warm", "in a warm one", ms_of_50(ways.limited("warm")), at_most(1.04)),),
    ),
)
