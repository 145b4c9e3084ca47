"""The latest value of a call, in memory that it shares with its owner."""

from __future__ import annotations

import mmap
import os
import pickle
import random

import pytest

from dask_limits.limits.ipc import progress_values
from dask_limits.limits.ipc.progress_values import LatestValue
from dask_limits.limits.linux import files


@pytest.fixture
def fd():
    fds = []
    progress_values.make(fds)
    yield fds[0]
    files.close(fds)


def test_the_latest_value_is_taken_once(fd):
    call, owner = LatestValue(fd), LatestValue(fd)
    assert owner.take() is None
    call.put(1)
    call.put({"loss": 2})
    assert pickle.loads(owner.take()) == {"loss": 2}
    assert owner.take() is None
    call.put({"loss": 2})
    assert owner.take() is not None  # it is a new one: a heartbeat may be always the same


def test_of_many_processes_that_write_at_once_each_value_is_whole(fd):
    owner, pids = LatestValue(fd), []
    for n in range(4):
        if not (pid := os.fork()):
            call = LatestValue(fd)
            for _ in range(3000):
                call.put([n] * random.randrange(1, 2000))
            os._exit(0)
        pids.append(pid)
    n_taken = 0
    while pids:
        if os.waitpid(pids[-1], os.WNOHANG)[0]:
            pids.pop()
        if (data := owner.take()) is not None:
            assert len(set(pickle.loads(data))) == 1
            n_taken += 1
    assert n_taken or owner.take() is not None


def test_what_is_nonsense_there_is_no_value(fd):
    owner = LatestValue(fd)
    size = os.fstat(fd).st_size
    chance = random.Random(0)
    with mmap.mmap(fd, size) as memory:
        for length in (1, 8, 16, 100, size):
            for _ in range(100):
                memory[:length] = chance.randbytes(length)
                assert owner.take() is None


def test_a_call_cannot_cut_the_file_short(fd):
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
