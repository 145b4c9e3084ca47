"""Large arguments and results on this machine."""

from __future__ import annotations

import numpy as np

from benchmarks import ways
from benchmarks.functions import ignore
from benchmarks.row import Measure, Peer, Row
from benchmarks.timing import seconds


def argument(way: ways.Way) -> Measure:
    """Seconds for an array to go there; the second time, as the first starts what there is."""

    def measure(megabytes: int) -> float:
        array = np.ones(megabytes * 125_000)
        with way() as caller:
            call = caller(ignore)
            call(array)
            return seconds(lambda: call(array))

    return measure


def result(way: ways.Way) -> Measure:
    """Seconds for an array to be made there and to come back."""

    def measure(megabytes: int) -> float:
        with way() as caller:
            call = caller(np.ones)
            call(1)
            return seconds(lambda: call(megabytes * 125_000))

    return measure


ROWS = tuple(
    Row(
        of.__name__,
        what,
        "s",
        of(ways.limited()),
        full=300,
        peers=(
            Peer("stdlib", "ProcessPoolExecutor, no limits", of(ways.stdlib)),
            Peer("pebble", "pebble", of(ways.pebble)),
            Peer("pynisher", "pynisher, fork", of(ways.pynisher)),
        ),
        rounds=3,
    )
    for of, what in (
        (argument, "an array of {size} MB as argument, limited"),
        (result, "an array of {size} MB as result, with making it, limited"),
    )
)
