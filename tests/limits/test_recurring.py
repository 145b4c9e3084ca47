"""Large arguments that come again: calls get what they are at the time, of one copy."""

from __future__ import annotations

import gc
import os
import pickle
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isolations import on_all, on_processes
from processes import until

from dask_limits import limit, share
from dask_limits.limits.owner import recurring as module
from dask_limits.limits.owner.recurring import LEAST, Recurring, recurring

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

MIB = 2**20
ARRAY = np.arange(MIB // 4, dtype=np.int64)  # 2 MiB


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    recurring._known.clear()
    yield
    recurring._known.clear()


def kept() -> int:
    """How many copies this process has mapped."""
    return Path("/proc/self/maps").read_text().count("dask-limits-shared")


OBJECTS: dict[str, Callable[[], Any]] = {
    "an array": lambda: ARRAY.copy(),
    "in the order of Fortran": lambda: np.asfortranarray(ARRAY.reshape(512, -1)),
    "a part of one": lambda: ARRAY.copy()[100:],
    "of two parts": lambda: [ARRAY.copy(), ARRAY + 1],
    "a frame": lambda: pd.DataFrame({"n": ARRAY, "m": ARRAY * 0.5}),
    "a table": lambda: pa.table({"n": ARRAY}),
    "not contiguous": lambda: ARRAY.reshape(512, -1)[:, ::2],
    "bytes": lambda: os.urandom(2 * MIB),
    "more than files in a message": lambda: [ARRAY + n for n in range(40)],
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        kinds = one.dtype == other.dtype and one.flags.f_contiguous == other.flags.f_contiguous
        return kinds and np.array_equal(one, other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one.equals(other) if hasattr(one, "equals") else one == other


@on_all
@pytest.mark.parametrize("name", OBJECTS)
def test_each_call_gets_the_object(isolated, name):
    thing = OBJECTS[name]()
    call = isolated(lambda thing: thing, wall_time=60)
    for _ in range(3):
        assert same(thing, call(thing))


@on_processes
def test_a_call_sees_what_its_argument_is_when_it_is_passed(isolated):
    array = ARRAY.copy()
    call = isolated(lambda array: int(array.sum()), wall_time=60)
    for place in (0, 0, 12_345, 12_345, 100_001, 200_003, 200_003):
        array[place] += 1
        assert call(array) == array.sum()
        assert call(array) == array.sum()


@on_processes
def test_a_call_can_write_to_it_and_no_other_call_sees_that(isolated):
    def write(array):
        array += 1
        return int(array[0]), int(array[-1])

    array = ARRAY.copy()
    call = isolated(write, wall_time=60)
    assert {call(array) for _ in range(4)} == {(1, len(array))}
    assert array[0] == 0


@on_processes
def test_an_array_that_can_only_be_read_stays_so(isolated):
    array = ARRAY.copy()
    array.setflags(write=False)
    call = isolated(lambda array: array.flags.writeable, wall_time=60)
    assert [call(array) for _ in range(3)] == [False] * 3


@on_processes
def test_calls_use_one_copy_from_the_second_time_on(isolated):
    def inodes(_array):
        lines = map(str.split, Path("/proc/self/maps").read_text().splitlines())
        return [line[4] for line in lines if "dask-limits-shared" in line[-2]]

    array = ARRAY.copy()
    call = isolated(inodes, wall_time=60)
    found = [call(array) for _ in range(4)]
    assert found[0] == []
    assert len(found[1]) == 1
    assert found[1:] == found[1:2] * 3
    assert kept() == 1


@on_processes
def test_it_counts_each_time_for_the_memory_limit(isolated):
    array = np.arange(40 * MIB // 8)
    call = isolated(lambda array: int(array.max()), memory="30 MiB", wall_time=60)
    call.run(array)  # which imports
    for _ in range(4):
        outcome = call.run(array)
        assert type(outcome.exception).__name__ == "MemoryBreach", outcome


@on_processes
def test_its_memory_is_told_alike_each_time(isolated):
    array = np.arange(40 * MIB // 8)
    call = isolated(lambda array: int(array.max()), memory="300 MiB", wall_time=60)
    call.run(array)
    peaks = [call.run(array).usage.peak_memory for _ in range(4)]
    assert min(peaks) > 38 * MIB
    assert max(peaks) < 55 * MIB


@on_processes
def test_two_views_of_an_array_are_two_arrays_in_the_call(isolated):
    def write(one, other):
        one += 1
        return int(other[0])

    array = ARRAY.copy()
    call = isolated(write, wall_time=60)
    assert [call(array, array[:]) for _ in range(4)] == [0] * 4
    assert [call(array, array.view(np.uint64)) for _ in range(4)] == [0] * 4


def test_a_call_within_a_call_keeps_nothing_in_the_memory_of_the_outer_one():
    def outer(n_calls):
        array = np.zeros(40 * MIB // 8)
        array += 1
        for _ in range(n_calls):
            limit(len, wall_time=60)(array)
        return "dask-limits-shared" in Path("/proc/self/maps").read_text()

    for isolation in ("clean", "fresh"):
        call = limit(outer, wall_time=60, isolation=isolation)
        assert [call(n) for n in (1, 4)] == [False, False]


@on_processes
@pytest.mark.parametrize("capture_output", [False, True])
def test_many_arrays_of_any_size_go_in_a_message(isolated, capture_output):
    large = [np.full(2**17 + n, n, float) for n in range(14)]
    small = [np.full(33 * 1024 // 8, 1.0) for _ in range(1000)]
    count = isolated(lambda *x: [*map(len, x)], wall_time=60, capture_output=capture_output)
    for _ in range(3):
        assert count(large, small, os.urandom(200_000)) == [14, 1000, 200_000]


def test_the_copy_goes_with_the_array_and_not_before():
    arrays = [ARRAY.copy(), ARRAY + 1]
    views = [one[10:] for one in arrays]
    call = limit(len, wall_time=60)
    for view in views * 2:
        call(view)
    assert kept() == 2
    del view, views
    gc.collect()
    call(ARRAY)
    assert kept() == 2
    arrays.clear()
    gc.collect()
    until(lambda: kept() == 0)


def test_what_is_shared_already_is_not_copied():
    handle = share(ARRAY)
    call = limit(len, wall_time=60)
    there = kept()
    for _ in range(3):
        call(handle)
    assert kept() == there


def test_no_call_can_change_the_copy():
    def write(pid, number):
        fd = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR)
        for way in (lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 0)):
            try:
                way()
            except PermissionError:
                continue
            return "written"
        return "refused"

    array = ARRAY.copy()
    call = limit(lambda array: int(array[0]), wall_time=60)
    call(array)
    call(array)
    (copy,) = (one.copy for one in recurring._known.values())
    assert limit(write, wall_time=60)(os.getpid(), copy.file.fd) == "refused"
    assert call(array) == 0


def test_many_calls_leave_no_open_file():
    def open_files():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    array = ARRAY.copy()
    call = limit(len, wall_time=60)
    before = open_files()
    for _ in range(60):
        call(array)
    until(lambda: open_files() < before + 30)


def test_threads_can_pass_the_same_array_at_one_time():
    array = ARRAY.copy()
    call = limit(lambda array: int(array[-1]), wall_time=60)
    found = []
    threads = [
        threading.Thread(target=lambda: found.extend(call(array) for _ in range(10)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [len(array) - 1] * 40


# -- what is remembered ------------------------------------------------------------------------


def found(known: Recurring, thing: Any) -> bool:
    return known.find(memoryview(thing).cast("B")) is not None


def test_small_buffers_are_not_remembered():
    known, small = Recurring(), bytearray(LEAST - 1)
    assert [found(known, small) for _ in range(3)] == [False] * 3


def test_a_buffer_that_was_written_to_is_a_new_one():
    known, block = Recurring(), bytearray(2 * LEAST)
    assert [found(known, block) for _ in range(3)] == [False, True, True]
    block[777_777] = 1
    assert [found(known, block) for _ in range(3)] == [False, True, True]


def test_at_most_a_share_of_the_memory_is_kept(monkeypatch):
    monkeypatch.setattr(module, "_MOST_SHARE", 0.0)
    known, block = Recurring(), bytearray(LEAST)
    assert [found(known, block) for _ in range(3)] == [False] * 3
    monkeypatch.setattr(module, "_MOST_SHARE", 3.5 * LEAST / module.account_here().capacity.memory)
    blocks = [bytearray(LEAST) for _ in range(5)]
    copies = [known.find(memoryview(one)) for one in blocks * 2][5:]
    assert all(copies)
    before = kept()
    del copies
    gc.collect()
    assert before - kept() == 2


def test_what_is_too_large_leaves_the_others(monkeypatch):
    monkeypatch.setattr(module, "_MOST_SHARE", 2.5 * LEAST / module.account_here().capacity.memory)
    known, block, large = Recurring(), bytearray(LEAST), bytearray(3 * LEAST)
    assert [found(known, block) for _ in range(2)] == [False, True]
    before = kept()
    assert [found(known, large) for _ in range(3)] == [False] * 3
    assert kept() == before


def test_copies_have_a_share_of_the_open_files(monkeypatch):
    of_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    monkeypatch.setattr(module, "_FILES_SHARE", 3.5 / of_files)
    known, blocks = Recurring(), [bytearray(LEAST) for _ in range(6)]
    before = kept()
    assert [found(known, one) for one in blocks * 2] == [False] * 6 + [True] * 6
    assert kept() - before == 3


@pytest.mark.parametrize(
    "kind", ["an array", "a part of one", "in the order of Fortran", "a table"]
)
def test_what_is_pickled_out_of_band_is_lent(kind):
    thing, call = OBJECTS[kind](), limit(lambda _: None, wall_time=60)
    before = kept()
    for _ in range(3):
        call(thing)
    assert kept() > before


def test_an_exception_at_any_moment_leaves_it_usable():
    class StopError(Exception):
        pass

    def stop(*_):
        raise StopError

    known, block = Recurring(), bytearray(LEAST)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        for n in range(300):
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + n * 1e-6)
                while True:
                    found(known, block)
            except StopError:
                block[n] = 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert [found(known, block) for _ in range(3)][1:] == [True, True]


def test_many_buffers_are_forgotten_in_turn():
    known = Recurring()
    blocks = [bytearray(LEAST) for _ in range(40)]
    assert [found(known, one) for one in blocks * 2] == [False] * 80
    assert found(known, blocks[-1])


def test_a_fork_can_use_the_copies_and_make_its_own():
    blocks = [bytearray(LEAST) for _ in range(2)]
    assert [found(recurring, blocks[0]) for _ in range(2)] == [False, True]
    pid = os.fork()
    if pid == 0:
        os._exit([found(recurring, one) for one in (*blocks, blocks[1])] != [True, False, True])
    assert os.waitpid(pid, 0)[1] == 0
    assert found(recurring, blocks[0])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, LEAST), st.booleans()), max_size=30))
def test_what_is_lent_is_always_what_is_there(steps):
    known, blocks = Recurring(), [bytearray(LEAST + 1 + n) for n in range(3)]
    for number, place, writes in steps:
        block = blocks[number]
        if writes:
            block[place] = (block[place] + 1) % 256
        if (lent := known.find(memoryview(block))) is not None:
            assert bytes(lent.get()) == bytes(block)
        if (lent := known.find(memoryview(block), as_bytes=True)) is not None:
            assert pickle.loads(pickle.dumps(lent)) == bytes(block)
