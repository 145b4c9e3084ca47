"""Calls that fit a small forest of scikit-learn."""

from __future__ import annotations

import time
from typing import Any

from benchmarks.functions import fit
from benchmarks.row import Measure, Peer, Row
from benchmarks.timing import Isolation
from dask_limits import limit, preload

FIRST, LATER, AFTER_A_BREACH = range(3)


def fits(
    pause_s: int, isolation: Isolation = "clean", preloaded: bool = False
) -> list[tuple[float, float]]:
    """Of the first fit of a program, of one after a pause and of one after a breach: ms and MiB."""
    if preloaded:
        preload(["sklearn.ensemble"])
    forest = limit(fit, wall_time=60, isolation=isolation)

    def one() -> tuple[float, float]:
        start = time.perf_counter()
        usage = forest.run().usage
        return (time.perf_counter() - start) * 1000, usage.peak_memory / 2**20

    first = one()
    time.sleep(pause_s)  # a template is made meanwhile
    later = one()
    limit(time.sleep, wall_time=0.1, isolation=isolation).run(9)
    return [first, later, one()]


def ms(which: int, *how: Any) -> Measure:
    return lambda pause_s: fits(pause_s, *how)[which][0]


def mib_of_the_first(*how: Any) -> Measure:
    return lambda pause_s: fits(pause_s, *how)[FIRST][1]


PRELOADED = ("clean", True)

ROWS = (
    Row(
        "sklearn-first",
        "the first call that uses scikit-learn, which waits for the imports, preloaded",
        "ms",
        ms(FIRST, *PRELOADED),
        full=3,
        tiny=0,
        peers=(Peer("without", "without preload", ms(FIRST)),),
        rounds=3,
    ),
    Row(
        "sklearn-memory",
        "its memory",
        "MiB",
        mib_of_the_first(*PRELOADED),
        full=3,
        tiny=0,
        peers=(Peer("without", "without preload", mib_of_the_first()),),
        rounds=1,
    ),
    Row(
        "sklearn-later",
        "a later one, in a clean process",
        "ms",
        ms(LATER),
        full=3,
        tiny=0,
        peers=(Peer("warm", "in a warm one", ms(LATER, "warm")),),
        rounds=3,
    ),
    Row(
        "sklearn-breach",
        "one after a breach, in a clean process",
        "ms",
        ms(AFTER_A_BREACH),
        full=3,
        tiny=0,
        peers=(Peer("warm", "in a warm one", ms(AFTER_A_BREACH, "warm")),),
        rounds=3,
    ),
)
