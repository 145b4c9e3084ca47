"""What calls share on a Dask cluster: it is sent once, or not at all on the client's machine."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from clusters import SETTINGS
from distributed import Client, LocalCluster, Worker
from processes import until

from dask_limits import limit, share
from dask_limits.executors.dask.executor import DaskExecutor
from dask_limits.limits import shared

cloudpickle.register_pickle_by_value(sys.modules[__name__])

SIZE = 2**20


@pytest.fixture
def client() -> Iterator[Client]:
    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1}
    with LocalCluster(**options, **SETTINGS) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this program were on another machine than the workers."""
    monkeypatch.setattr(shared, "machine", lambda: "another one")


def look(array: np.ndarray, number: int) -> tuple[int, int]:
    """A number of the array, and the inode of the memory that this is in."""
    inside, inode = array.__array_interface__["data"][0], 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        places, _, _, _, found, *_ = line.split()
        start, end = (int(place, 16) for place in places.split("-"))
        if start <= inside < end:
            inode = int(found)
    return int(array[number]), inode


limited_look = limit(look, wall_time=60, memory="200 MiB")


def held(client: Client) -> int:
    """How many shared objects the workers hold."""

    def count(dask_worker: Worker) -> int:
        return sum(type(value).__name__ == "Shared" for value in dask_worker.data.values())

    return sum(client.run(count).values())


def test_workers_on_this_machine_map_the_memory_of_the_program(client: Client) -> None:
    handle = share(np.arange(SIZE))
    with DaskExecutor(client) as executor:
        futures = [executor.submit(limited_look, handle, n) for n in range(40)]
        found = [future.result(timeout=60) for future in futures]
        assert [number for number, _ in found] == list(range(40))
        assert {inode for _, inode in found} == {handle.file.inode}
        assert executor.submit(look, handle, 7).result(timeout=60)[0] == 7  # without limits
        nested = limit(lambda inside: int(inside["a"][0][3]), wall_time=60)
        assert executor.submit(nested, {"a": [handle]}).result(timeout=60) == 3
        assert held(client) == 0


def test_other_workers_have_it_scattered_once(client: Client, far: None) -> None:
    client.amm.stop()  # at times Dask drops what several workers have and no task waits for
    handle = share(np.arange(SIZE))
    with DaskExecutor(client) as executor:
        for _ in range(2):
            futures = [executor.submit(limited_look, handle, n) for n in range(40)]
            found = [future.result(timeout=60) for future in futures]
            assert [number for number, _ in found] == list(range(40))
            inodes = {inode for _, inode in found}
            assert 0 not in inodes
            assert len(inodes) == held(client) <= 2  # a copy for each worker
        assert executor.submit(look, handle, 7).result(timeout=60)[0] == 7
        other = share(np.arange(SIZE) + 5)
        assert executor.submit(limited_look, other, 0).result(timeout=60)[0] == 5
        del handle, other, futures
        until(lambda: held(client) == 0)


def test_a_thread_of_a_worker_gets_the_object(client: Client, far: None) -> None:
    handle = share(np.arange(SIZE))
    in_thread = limit(look, wall_time=60, isolation="thread")
    with DaskExecutor(client) as executor:
        assert executor.submit(in_thread, handle, 9).result(timeout=60)[0] == 9


def test_it_is_scattered_again_when_the_worker_that_had_it_is_killed(
    client: Client, far: None
) -> None:
    handle = share(np.arange(SIZE))
    with DaskExecutor(client) as executor:
        assert executor.submit(limited_look, handle, 1).result(timeout=60)[0] == 1
        before = set(client.scheduler_info()["workers"])
        for pid in client.run(os.getpid).values():
            os.kill(pid, signal.SIGKILL)
        until(lambda: len(set(client.scheduler_info()["workers"]) - before) == 2)
        assert executor.submit(limited_look, handle, 2).result(timeout=60)[0] == 2


def test_arguments_that_are_futures_go_along(client: Client, far: None) -> None:
    handle = share(np.arange(SIZE))
    with DaskExecutor(client) as executor:
        number = client.submit(int, 11)
        assert executor.submit(limited_look, handle, number).result(timeout=60)[0] == 11


def test_a_handle_that_dask_pickles_itself_arrives_as_the_object(client: Client) -> None:
    handle = share(np.arange(1000))
    assert client.submit(len, handle).result(timeout=60) == 1000
