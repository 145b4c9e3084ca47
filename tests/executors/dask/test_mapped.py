"""`Scheduler.map` where calls go together and where they do not, with retries and without."""

from __future__ import annotations

import concurrent.futures
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import SETTINGS, nothing_is_left_behind  # noqa: F401
from distributed import Client, LocalCluster
from numbered import n_runs, numbered_as
from processes import until

from dask_limits import ExitState, PynisherPlugin, Retry, Scheduler
from dask_limits.exceptions import WallTimeBreach
from dask_limits.executors.dask import batching
from dask_limits.executors.dask.executor import DaskExecutor

N = 60
IN_FLIGHT = 8


@pytest.fixture(autouse=True)
def all_calls_count_as_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also on a busy machine."""
    monkeypatch.setattr(batching, "_BATCH_S", 1000)


@pytest.fixture(scope="module", params=["batches", "one by one", "processes"])
def executor(request: pytest.FixtureRequest) -> Iterator[DaskExecutor | int]:
    if request.param == "processes":
        yield 2
        return
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, **SETTINGS) as cluster,
        Client(cluster, set_as_default=False) as client,
        DaskExecutor(client, batch=request.param == "batches") as executor,
    ):
        yield executor


class Mapped:
    """Numbers that are mapped, and what is told of each.

    Attributes:
        told: The events of the call of each number, in order.
        ahead: How many items were taken and not told of, whenever one was taken.
        in_flight: How many calls were not done, whenever one was submitted.
    """

    def __init__(
        self, executor: DaskExecutor | int, folder: Path, does: dict[int, str], n: int = N
    ) -> None:
        on_processes = isinstance(executor, int)
        make = Scheduler.with_processes if on_processes else Scheduler
        self.scheduler = scheduler = make(executor)
        self.task = scheduler.task(
            numbered_as,
            plugins=[PynisherPlugin(walltime_limit=5), Retry(max_retries=1, on=LookupError)],
        )
        self._folder, self._does, self._n = folder, does, n
        self.numbers: dict[Any, int] = {}
        self.told: dict[int, list[Any]] = defaultdict(list)
        self.ahead: list[int] = []
        self.in_flight: list[int] = []
        self.task.on_submitted(self._submitted)
        self.task.on("retry")(lambda future, *_: self._tell(future, "retry"))
        self.task.on_result(self._tell)
        self.task.on_exception(lambda future, error: self._tell(future, type(error)))
        self.task.on_cancelled(lambda future: self._tell(future, "cancelled"))
        options: dict[str, Any] = {"max_in_flight": IN_FLIGHT}
        scheduler.on_start(lambda: scheduler.map(self.task, self._items(), **options))

    def _items(self) -> Iterator[tuple[Path, int, str]]:
        for number in range(self._n):
            done = sum(told[-1] != "retry" for told in self.told.values() if told)
            self.ahead.append(number - done)
            yield self._folder, number, self._does.get(number, "")

    def _submitted(self, future: Any, item: tuple[Path, int, str]) -> None:
        self.numbers[future] = item[1]
        self.in_flight.append(len(self.scheduler.queue))

    def _tell(self, future: Any, what: Any) -> None:
        self.told[self.numbers[future]].append(what)

    def run(self) -> ExitState:
        return self.scheduler.run(timeout=100, on_exception="continue", on_cancelled="continue")

    def was_within_its_room(self) -> bool:
        return max(self.in_flight) <= IN_FLIGHT and max(self.ahead) < IN_FLIGHT


def test_each_call_is_told_once_after_its_retries(
    executor: DaskExecutor | int, tmp_path: Path
) -> None:
    again = range(0, N, 3)
    mapped = Mapped(executor, tmp_path, dict.fromkeys(again, "fail at first"))
    assert mapped.run().code == ExitState.Code.EXHAUSTED
    assert mapped.told == {n: ["retry", n] if n in again else [n] for n in range(N)}
    assert [n_runs(tmp_path, n) for n in range(N)] == [1 + (n in again) for n in range(N)]
    assert {f: f.attempts for f in mapped.numbers} == {
        f: 1 + (n in again) for f, n in mapped.numbers.items()
    }
    assert mapped.was_within_its_room()


def test_what_goes_wrong_in_the_middle_ends_one_call(
    executor: DaskExecutor | int, tmp_path: Path
) -> None:
    mapped = Mapped(executor, tmp_path, {20: "sleep", 30: "raise"})
    assert mapped.run().code == ExitState.Code.EXHAUSTED
    wrong: dict[int, list[Any]] = {20: [WallTimeBreach], 30: ["retry", LookupError]}
    assert mapped.told == {n: wrong.get(n, [n]) for n in range(N)}
    assert [n_runs(tmp_path, n) for n in range(N)] == [1 + (n == 30) for n in range(N)]
    assert mapped.was_within_its_room()


def test_others_take_the_room_of_calls_that_are_cancelled(
    executor: DaskExecutor | int, tmp_path: Path
) -> None:
    mapped = Mapped(executor, tmp_path, {})
    cancelled = set()

    @mapped.task.on_result
    def cancel(_: Any, number: int) -> None:
        if number % 10 == 5:
            for future in list(mapped.scheduler.queue):
                if future.cancel():
                    cancelled.add(mapped.numbers[future])

    assert mapped.run().code == ExitState.Code.EXHAUSTED
    assert cancelled
    assert mapped.told == {n: ["cancelled"] if n in cancelled else [n] for n in range(N)}
    assert all(n_runs(tmp_path, n) <= 1 for n in range(N))
    assert mapped.was_within_its_room()


@pytest.mark.parametrize("waits", [True, False], ids=["wait", "cancel"])
def test_a_run_that_is_stopped_takes_no_more_items(
    waits: bool, executor: DaskExecutor | int, tmp_path: Path
) -> None:
    mapped = Mapped(executor, tmp_path, {}, n=10_000)
    mapped.task.on_result(lambda _, number: number == 20 and mapped.scheduler.stop())
    state = mapped.scheduler.run(timeout=100, wait=waits)
    assert state.code == ExitState.Code.STOPPED
    taken = len(mapped.ahead)
    assert taken <= 20 + 2 * IN_FLIGHT
    ended: list[list[Any]] = [[n] if waits or n <= 20 else ["cancelled"] for n in range(taken)]
    found = [mapped.told[n] for n in range(taken)]
    assert all(one in (["cancelled"], [n]) for n, one in enumerate(found))
    assert [20] in found
    assert not waits or found == ended
    concurrent.futures.wait(mapped.numbers, timeout=30)
    until(lambda: all(n_runs(tmp_path, n) <= 1 for n in range(taken)))
    assert mapped.was_within_its_room()
