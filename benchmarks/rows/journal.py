"""Runs with a journal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.functions import echo
from benchmarks.row import Peer, Row, at_least, at_most
from benchmarks.rows.processes import IN_FLIGHT
from benchmarks.timing import Pace, limits, seconds
from dask_limits import Scheduler


def with_file(measure: Callable[[Path, int], float]) -> Callable[[int], float]:
    def measure_with_file(size: int) -> float:
        with TemporaryDirectory() as folder:
            return measure(Path(folder) / "run.sqlite", size)

    return measure_with_file


def mapped(journal: Path | None, size: int) -> float:
    scheduler = Scheduler.with_processes(2)
    task = scheduler.task(echo, plugins=limits())
    pace = Pace(size, IN_FLIGHT)
    scheduler.on_start(lambda: scheduler.map(task, pace.numbers()))
    task.on_result(lambda *_: pace.note_result())
    scheduler.run(journal=journal)
    return pace.per_second


def one_by_one(journal: Path | None, size: int) -> float:
    scheduler = Scheduler.with_processes(1)
    task = scheduler.task(echo, plugins=limits())
    pace = Pace(size, 1)
    numbers = pace.numbers()

    def submit_next(*_: object) -> None:
        if (number := next(numbers, None)) is not None:
            task.submit(number)

    scheduler.on_start(submit_next)
    task.on_result(lambda *_: pace.note_result())
    task.on_result(submit_next)
    scheduler.run(journal=journal)
    return 1e6 / pace.per_second


def resume(journal: Path, size: int) -> float:
    """Seconds of a run all of whose calls have ended in an earlier one."""

    def run() -> None:
        scheduler = Scheduler.with_sequential()
        task = scheduler.task(echo)
        told: list[int] = []
        scheduler.on_start(lambda: scheduler.map(task, range(size)))
        task.on_result(lambda future, result: told.append(result))
        scheduler.run(journal=journal)
        assert sorted(told) == [*range(size)]

    run()
    return seconds(run)


ROWS = (
    Row(
        "journal",
        "Scheduler.map of {size:,} limited calls with a journal, two processes",
        "calls/s",
        with_file(mapped),
        full=20_000,
        quick=5000,
        peers=(Peer("without", "without", lambda size: mapped(None, size), at_least(0.95)),),
    ),
    Row(
        "journal-one",
        "a limited call through a Scheduler with a journal, one at a time",
        "us",
        with_file(one_by_one),
        full=1000,
        quick=300,
        peers=(Peer("without", "without", lambda size: one_by_one(None, size)),),
    ),
    Row(
        "journal-resume",
        "a run of {size:,} calls that are in its journal",
        "s",
        with_file(resume),
        full=100_000,
        goal=at_most(3),
        rounds=3,
    ),
)
