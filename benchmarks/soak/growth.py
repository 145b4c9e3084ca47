"""Whether something grows."""

from __future__ import annotations

import csv
import itertools
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.soak.census import NOT_COUNTED, Seen
from dask_limits.report.recorder import MOST_ROWS
from dask_limits.report.rows import ROW

MARGINS: Final = {"memory": 6 * 2**20, "files": 4, "threads": 3, "processes": 4}
"""What may be added: what is there at one time varies."""
FACTOR: Final = 1.1
LEAST_SAMPLES: Final = 30
"""Fewer show nothing."""


class Sample(NamedTuple):
    """What there was at one time."""

    at: float  # seconds since the start
    told: int  # calls
    seen: list[Seen]
    is_calm: bool  # whether nothing is killed any more that lives long


COLUMNS: Final = ("at", "told", "calm", *Seen._fields)


class Samples:
    """Samples, kept in a file: those of an hour would grow as much as what they are to show."""

    def __init__(self, file: Path) -> None:
        self._file = file
        file.write_text(f"{','.join(COLUMNS)}\n")

    def add(self, sample: Sample) -> None:
        about = f"{sample.at:.2f},{sample.told},{sample.is_calm:d}"
        with self._file.open("a") as file:
            file.writelines(f"{about},{','.join(map(str, seen))}\n" for seen in sample.seen)

    def read(self) -> list[Sample]:
        with self._file.open() as file:
            lines = [line for line in csv.reader(file) if line][1:]
        found = []
        for (at, told, calm), group in itertools.groupby(lines, key=lambda line: tuple(line[:3])):
            seen = [
                Seen(role, *map(int, numbers)) for role, *numbers in (line[3:] for line in group)
            ]
            found.append(Sample(float(at), int(told), seen, calm == "1"))
        return found


class Trend(NamedTuple):
    """A measure of the processes of a role, in the first and the last third of the time."""

    role: str
    measure: str
    first: float
    last: float

    @property
    def grows(self) -> bool:
        return self.last > self.first * FACTOR + MARGINS[self.measure]


def trends(samples: Sequence[Sample]) -> Iterator[Trend]:
    """Of each measure of each role: of several processes, the largest figure counts.

    What is killed now and then would never have grown much. So only what is there afterwards is
    looked at, except for the driver, which is never killed. Its memory is without the rows that its
    report keeps of the last million calls.
    """
    warm = samples[len(samples) // 10 :]
    calm = [sample for sample in samples if sample.is_calm]
    calm = calm[len(calm) // 10 :]
    roles = {seen.role for sample in samples for seen in sample.seen} - NOT_COUNTED
    for role in sorted(roles):
        for measure in MARGINS:
            series = list(values(warm if role == "driver" else calm, role, measure))
            if (third := len(series) // 3) * 3 >= LEAST_SAMPLES:
                first, last = series[:third], series[-third:]
                yield Trend(role, measure, statistics.median(first), statistics.median(last))


def values(samples: Iterable[Sample], role: str, measure: str) -> Iterator[float]:
    for sample in samples:
        there = [seen for seen in sample.seen if seen.role == role]
        if measure == "processes":
            yield len(there)
        elif there:
            largest = max(getattr(seen, measure) for seen in there)
            is_report = (role, measure) == ("driver", "memory")
            yield largest - ROW.size * min(sample.told, MOST_ROWS) if is_report else largest
