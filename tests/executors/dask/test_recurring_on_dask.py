"""Large arguments that come again on a Dask cluster: they are sent once, and then shared."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pytest
from clusters import SETTINGS
from distributed import Client, LocalCluster
from processes import until
from test_shares import far, held

from dask_limits import limit
from dask_limits.dask.packed_call import pack_call
from dask_limits.executors.dask.executor import DaskExecutor
from dask_limits.limits.owner.recurring import recurring

cloudpickle.register_pickle_by_value(sys.modules[__name__])

__all__ = ["far"]
SIZE = 2**18  # 2 MiB


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    options: dict[str, Any] = {"n_workers": 2, "threads_per_worker": 1}
    with LocalCluster(**options, **SETTINGS) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    recurring._known.clear()
    yield
    recurring._known.clear()


def write(array: np.ndarray) -> tuple[int, bool]:
    """What an array is, after which it is another; and whether this process maps a shared one."""
    total = int(array.sum())
    array += 1
    return total, "dask-limits-shared" in Path("/proc/self/maps").read_text()


limited_write = limit(write, wall_time=60, memory="200 MiB")


@pytest.mark.parametrize("call", [limited_write, write, limit(write, isolation="thread")])
def test_calls_get_what_is_there_when_they_are_submitted(client: Client, call: Any) -> None:
    array = np.arange(SIZE)
    with DaskExecutor(client) as executor:
        expected, futures = [], []
        for place in (0, 0, 0, 100_003, 100_003, 200_001, 200_001):
            array[place] += 1
            expected.append(array.sum())
            futures.append(executor.submit(call, array))
            expected.append(array.sum())
            futures.append(executor.submit(call, array))
        assert [future.result(timeout=60)[0] for future in futures] == expected


def test_from_the_second_time_on_it_is_not_sent(client: Client) -> None:
    things: list[Any] = [np.arange(SIZE), pd.DataFrame({"a": np.arange(SIZE)}), bytes(2**21)]
    for thing in things:
        sizes = [pack_call(limited_write, (thing,), {}, ())[0].data.nbytes for _ in range(3)]
        assert sizes[0] > 2**21
        assert max(sizes[1:]) < 5_000
    with DaskExecutor(client) as executor:
        futures = [executor.submit(limited_write, things[0]) for _ in range(10)]
        found = {future.result(timeout=60) for future in futures}
        assert found == {(int(things[0].sum()), True)}
        assert executor.submit(limit(len), things[2]).result(timeout=60) == 2**21
        assert executor.submit(limit(type), things[2]).result(timeout=60) is bytes
        assert held(client) == 0


def read(thing: Any) -> int:
    return int(np.frombuffer(thing, np.uint8).max())


@pytest.mark.filterwarnings("ignore:Sending large graph")
def test_it_counts_each_time_for_the_memory_limit(client: Client) -> None:
    array = np.arange(40 * 2**20 // 8)
    array.setflags(write=False)
    call = limit(read, wall_time=60, memory="30 MiB")
    with DaskExecutor(client) as executor:
        for thing in (array, array.copy(), bytes(array)):
            for _ in range(3):
                error = executor.submit(call, thing).exception(timeout=60)
                assert type(error).__name__ == "MemoryBreach"


def test_other_workers_have_it_scattered_once(client: Client, far: None) -> None:
    array = np.arange(SIZE)
    expected = int(array.sum())
    with DaskExecutor(client) as executor:
        for _ in range(2):
            futures = [executor.submit(limited_write, array) for _ in range(20)]
            assert {future.result(timeout=60)[0] for future in futures} == {expected}
            assert 1 <= held(client) <= 2  # a copy for each worker
        del array, futures
        gc.collect()
        until(lambda: held(client) == 0)
