"""The way of results and exceptions back through Dask: no worker unpickles them."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import dask
import numpy as np
import psutil
import pytest
from clusters import SETTINGS
from distributed import Client, LocalCluster, Worker
from processes import until

from dask_limits import ExitState, Scheduler, limit
from dask_limits.dask.batch import PackedBatch, run_batch
from dask_limits.dask.packed_call import pack_call
from dask_limits.exceptions import CallPicklingError, MemoryBreach
from dask_limits.executors.dask.executor import DaskExecutor

MIB = 2**20


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    options: dict[str, Any] = {"n_workers": 1, "threads_per_worker": 2, "memory_limit": "4 GiB"}
    with LocalCluster(**options, **SETTINGS) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def executor(client: Client) -> Iterator[DaskExecutor]:
    with DaskExecutor(client) as executor:
        executor.submit(limit(abs, wall_time=30), -1).result(timeout=60)
        yield executor


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> None:
    """A cluster serves all tests here."""


class NotesWhereItIsRebuilt:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        (self.directory / str(os.getpid())).touch()


class NotesErrorWhereItIsRebuilt(Exception):
    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        (state["directory"] / str(os.getpid())).touch()


def fail(directory: Path) -> None:
    error = NotesErrorWhereItIsRebuilt("lost")
    error.directory = directory  # type: ignore[attr-defined]
    raise error


def test_a_result_is_unpickled_on_the_driver_alone(executor: DaskExecutor, tmp_path: Path) -> None:
    result = executor.submit(limit(NotesWhereItIsRebuilt, wall_time=30), tmp_path).result(
        timeout=30
    )
    assert isinstance(result, NotesWhereItIsRebuilt)
    assert [path.name for path in tmp_path.iterdir()] == [str(os.getpid())]


def test_no_worker_unpickles_an_exception(
    client: Client, executor: DaskExecutor, tmp_path: Path
) -> None:
    error = executor.submit(limit(fail, wall_time=30), tmp_path).exception(timeout=30)
    assert isinstance(error, NotesErrorWhereItIsRebuilt)
    assert error.args == ("lost",)
    pids = {path.name for path in tmp_path.iterdir()}
    assert str(os.getpid()) in pids
    assert not {str(pid) for pid in client.run(os.getpid).values()} & pids


class NotRebuilt:
    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("not a number",)


def test_a_result_that_cannot_be_rebuilt_fails_its_call_alone(executor: DaskExecutor) -> None:
    futures = [executor.submit(limit(kind, wall_time=30)) for kind in (NotRebuilt, list)]
    error = futures[0].exception(timeout=30)
    assert isinstance(error, CallPicklingError)
    assert (error.part, error.call) == ("result", "NotRebuilt")
    assert isinstance(error.__cause__, ValueError)
    assert futures[1].result(timeout=30) == []


def array_of(mib: int) -> np.ndarray[Any, Any]:
    return np.full(mib * MIB, 7, np.uint8)


@pytest.mark.parametrize("is_limited", [True, False], ids=["limited", "unlimited"])
def test_an_array_can_be_written_to_on_the_driver(executor: DaskExecutor, is_limited: bool) -> None:
    fn = limit(array_of, wall_time=30) if is_limited else array_of
    result = executor.submit(fn, 3).result(timeout=30)
    assert (result == 7).all()
    result[:] = 8


def test_small_results_are_not_fetched(
    client: Client, executor: DaskExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    handlers = client.cluster.scheduler.handlers
    gather = handlers["gather"]

    def fetch(keys: Any, **options: Any) -> Any:
        fetched.extend(keys)
        return gather(keys, **options)

    monkeypatch.setitem(handlers, "gather", fetch)
    futures = [executor.submit(limit(abs, wall_time=30), -i) for i in range(20)]
    errors = [executor.submit(limit(int, wall_time=30), "no number") for _ in range(3)]
    assert [future.result(timeout=30) for future in futures] == list(range(20))
    assert {type(error.exception(timeout=30)) for error in errors} == {ValueError}
    assert fetched == []
    large = executor.submit(limit(bytes, wall_time=30), MIB)
    assert large.result(timeout=30) == bytes(MIB)
    assert len(fetched) == 1


def restart_peak() -> int:
    """Have the peak of resident memory counted from now on; bytes resident now."""
    Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss


def peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]


def test_a_large_result_passes_through_its_worker_without_a_second_copy(
    client: Client, executor: DaskExecutor
) -> None:
    (before,) = client.run(restart_peak).values()
    result = executor.submit(limit(array_of, wall_time=60), 300).result(timeout=60)
    assert result.nbytes == 300 * MIB
    (after,) = client.run(peak).values()
    assert after - before < 1.5 * 300 * MIB


def held(dask_worker: Worker) -> dict[str, tuple[int, bool]]:
    """Of each task that the worker holds: bytes, and whether it is in memory."""
    data: Any = dask_worker.data
    return {key: (dask_worker.state.tasks[key].nbytes, key in data.fast) for key in data}


def spill(dask_worker: Worker) -> None:
    data: Any = dask_worker.data
    while data.fast:
        data.evict()


def mapped(dask_worker: Worker) -> bool:
    return "dask-limits-payload" in Path("/proc/self/maps").read_text()


def first_after(array: np.ndarray[Any, Any], value: int) -> tuple[int, int]:
    before = int(array[0])
    array[0] = value
    return before, int(array[0])


@pytest.mark.filterwarnings("ignore:Sending large graph")
def test_a_large_argument_passes_through_its_worker_without_a_second_copy(
    client: Client, executor: DaskExecutor
) -> None:
    array = np.ones(300 * MIB, np.uint8)
    (before,) = client.run(restart_peak).values()
    future = executor.submit(limit(first_after, wall_time=60), array, 3)
    array[0] = 2  # too late
    assert future.result(timeout=60) == (1, 3)
    (after,) = client.run(peak).values()
    assert after - before < 1.5 * 300 * MIB


@pytest.mark.parametrize("is_limited", [True, False], ids=["limited", "unlimited"])
def test_a_read_only_argument_stays_so(executor: DaskExecutor, is_limited: bool) -> None:
    array = np.ones(MIB, np.uint8)
    array.flags.writeable = False
    fn = limit(first_after, wall_time=30) if is_limited else first_after
    with pytest.raises(ValueError, match="read-only"):
        executor.submit(fn, array, 3).result(timeout=30)


def test_dask_knows_the_size_of_a_result_and_can_spill_it(
    client: Client, executor: DaskExecutor
) -> None:
    call, _, _ = pack_call(limit(array_of), (50,), {}, leave_out=())
    with dask.annotate(executor="limits", limits={"wall_time": 60.0}):
        task = client.submit(run_batch, PackedBatch.of([call]), [[]], pure=False)
    until(lambda: task.status == "finished")
    (sizes,) = client.run(held).values()
    nbytes, in_memory = sizes[task.key]
    assert 50 * MIB <= nbytes < 51 * MIB
    assert in_memory
    client.run(spill)
    (sizes,) = client.run(held).values()
    assert not sizes[task.key][1]
    until(lambda: not any(client.run(mapped).values()))
    assert task.result().ended[0].unpack({}).value.nbytes == 50 * MIB
    task.release()
    until(lambda: not any(client.run(mapped).values()))


def test_many_results_can_be_held_at_once(client: Client, executor: DaskExecutor) -> None:
    futures = [executor.submit(limit(bytes, wall_time=60), 200_000) for _ in range(300)]
    assert {len(future.result(timeout=60)) for future in futures} == {200_000}
    until(lambda: not any(client.run(mapped).values()))


def grow_and_return(mib: int) -> np.ndarray[Any, Any]:
    array = np.ones(mib * MIB, np.uint8)
    return array[:1]


def test_a_breach_that_is_seen_late_comes_as_one(executor: DaskExecutor) -> None:
    for _ in range(3):
        future = executor.submit(limit(grow_and_return, memory="100 MiB"), 200)
        error = future.exception(timeout=30)
        assert isinstance(error, MemoryBreach)
        assert error.call == "grow_and_return"
        assert error.usage.peak_memory > error.limits.memory == 100 * MIB
        assert future.usage == error.usage


def test_any_number_of_arrays_comes_back(executor: DaskExecutor) -> None:
    call = limit(_arrays, wall_time=60)
    for number, size in ((2_100, 65_536), (100_000, 100)):
        arrays = executor.submit(call, number, size).result(timeout=100)
        assert [array[-1] for array in arrays] == [n % 251 for n in range(number)]


def _arrays(number: int, size: int) -> list[Any]:
    return [np.full(size, n % 251, np.uint8) for n in range(number)]


class WaitsWhereItIsRebuilt:
    come, go = threading.Event(), threading.Event()

    def __init__(self, home: int) -> None:
        self.home = home

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        if os.getpid() == self.home:
            self.come.set()
            assert self.go.wait(30)


def test_a_result_that_takes_long_to_unpickle_holds_up_neither_the_client_nor_other_calls(
    client: Client, executor: DaskExecutor
) -> None:
    future = executor.submit(limit(WaitsWhereItIsRebuilt, wall_time=30), os.getpid())
    assert WaitsWhereItIsRebuilt.come.wait(30)
    assert client.submit(abs, -1).result(timeout=30) == 1
    assert executor.submit(abs, -2).result(timeout=30) == 2
    WaitsWhereItIsRebuilt.go.set()
    assert type(future.result(timeout=30)) is WaitsWhereItIsRebuilt


def test_a_done_callback_can_wait_for_other_calls(executor: DaskExecutor) -> None:
    found = Future[int]()
    executor.submit(abs, -1).add_done_callback(
        lambda _: found.set_result(executor.submit(abs, -2).result(timeout=30))
    )
    assert found.result(timeout=30) == 2


def test_a_done_callback_can_use_the_client_and_submit(client: Client) -> None:
    scheduler = Scheduler(client)
    begun, found = threading.Event(), []

    def use_both(_: object) -> None:
        begun.set()
        found.append(client.submit(abs, -1).result(timeout=30))
        scheduler.submit(abs, -2)  # waits until the callback of the run is over

    @scheduler.on_start
    def submit() -> None:
        scheduler.submit(abs, -3).add_done_callback(use_both)
        assert begun.wait(30)
        found.append(client.submit(abs, -4).result(timeout=30))

    assert scheduler.run(timeout=60).code == ExitState.Code.EXHAUSTED
    assert sorted(found) == [1, 4]
    assert scheduler.event_counts["on_future_result"] == 2
