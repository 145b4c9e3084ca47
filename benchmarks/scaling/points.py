"""What was measured, and the model of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

COSTS: Final = ("driver", "scheduler", "plugin", "simulation")
BATCH_S: Final = 0.075
"""How long a batch takes at most."""


@dataclass(frozen=True)
class Point:
    """So many workers, and what a call costs, in microseconds of CPU time.

    Attributes:
        in_flight: Calls that are submitted and not done.
        call_s: How long a call takes, in seconds.
        driver: Of the process with the `Scheduler`.
        scheduler: Of Dask's.
        plugin: Of it, what our plugin takes.
        simulation: Of the process that holds all workers.
        load: Bytes of the argument of each call.
    """

    workers: int
    in_flight: int
    batch: bool
    call_s: float
    per_second: float
    driver: float
    scheduler: float
    plugin: float
    simulation: float
    load: int = 0


@dataclass(frozen=True)
class Curve:
    """All points, and where they were measured."""

    machine: dict[str, str]
    points: list[Point]

    def write(self, file: Path) -> None:
        points = ",\n".join(json.dumps(asdict(point)) for point in self.points)
        file.write_text(f'{{"machine": {json.dumps(self.machine)},\n"points": [\n{points}\n]}}\n')

    @classmethod
    def read(cls, file: Path) -> Self:
        found = json.loads(file.read_text())
        return cls(found["machine"], [Point(**point) for point in found["points"]])

    @property
    def short(self) -> list[Point]:
        """Those with the shortest calls, without a load."""
        least = min(point.call_s for point in self.points)
        return [point for point in self.points if point.call_s == least and not point.load]

    @property
    def ns_a_byte(self) -> dict[str, float]:
        """What each byte of an argument costs the processes; empty if that was not measured."""
        loaded = next((point for point in self.points if point.load), None)
        plain = next((p for p in self.short if p.workers == 10 and not p.batch), None)
        if loaded is None or plain is None:
            return {}
        names = ("driver", "scheduler", "simulation")
        return {
            name: max(getattr(loaded, name) - getattr(plain, name), 0) * 1000 / loaded.load
            for name in names
        }


@dataclass(frozen=True)
class Cost:
    """CPU seconds of one process: for each task of Dask, and for each call in it."""

    task: float
    call: float = 0.0

    @property
    def in_us(self) -> Cost:
        """In microseconds."""
        return Cost(self.task * 1e6, self.call * 1e6)

    def of(self, batch: float) -> float:
        """For a call that goes with others, so many in all."""
        return self.task / batch + self.call


@dataclass(frozen=True)
class Model:
    """How many calls a second to expect.

    Attributes:
        driver: What the driver spends.
        scheduler: What Dask's scheduler spends, our plugin included.
        workers: What a worker spends.
        cores: That all share, the workers in one process; None if each has a core.
    """

    driver: Cost
    scheduler: Cost
    workers: Cost
    cores: int | None = None

    @classmethod
    def of(cls, curve: Curve) -> Self:
        """The model whose constants a curve has: those of ten workers and few calls."""
        few = [point for point in curve.short if point.workers == 10] or curve.short
        alone = next(point for point in few if not point.batch)
        many = [point for point in few if point.batch][-1]
        size = batch_size(many.workers, many.call_s, many.in_flight)

        def cost(name: str) -> Cost:
            task, call = getattr(alone, name) / 1e6, getattr(many, name) / 1e6
            return Cost(task, max(call - task / size, 0.0))

        cores = int(curve.machine["cores"])
        return cls(cost("driver"), cost("scheduler"), cost("simulation"), cores)

    def rate(self, workers: int, call_s: float, batch: float = 1) -> float:
        """Calls a second, of so many workers, for calls of that length in batches of that size."""
        driver, scheduler = self.driver.of(batch), self.scheduler.of(batch)
        simulation = self.workers.of(batch)
        most = [workers / (call_s + simulation), 1 / driver, 1 / scheduler]
        if self.cores is not None:  # all workers share a process
            most += [1 / simulation, self.cores / (driver + scheduler + simulation)]
        return min(most)


def batch_size(workers: int, call_s: float, in_flight: int) -> float:
    """How many calls go together: as many as take 75 ms, and no more than a worker's share."""
    return max(1.0, min(BATCH_S / call_s, in_flight / (1.5 * workers)))
