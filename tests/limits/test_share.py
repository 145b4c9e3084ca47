"""What calls share: it arrives as the object, wherever the handle is, and is there once."""

from __future__ import annotations

import copy
import dataclasses
import fcntl
import functools
import gc
import mmap
import os
import pickle
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest
from isolations import on_all, on_processes
from processes import all_gone, until

from dask_limits import limit, share
from dask_limits.limits.ipc.payload import MOST_SHARED
from dask_limits.limits.linux import proctree
from dask_limits.limits.shared import Shared

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

MIB = 2**20


def numbers(mib: float = 1) -> np.ndarray:
    return np.arange(int(mib * MIB) // 8, dtype=np.int64)


@dataclasses.dataclass
class Holder:
    """A class of the user's script."""

    inside: Any


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        kinds = one.dtype == other.dtype and one.shape == other.shape
        return kinds and np.array_equal(one, other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one.equals(other) if hasattr(one, "equals") else one == other


OBJECTS = {
    "an array": numbers(),
    "in the order of Fortran": np.asfortranarray(numbers().reshape(256, -1)),
    "not contiguous": numbers().reshape(256, -1)[:, ::2],
    "of objects": np.array([1, "two", None, [3]] * 20_000, dtype=object),
    "an empty array": np.empty((0, 3)),
    "a frame": pd.DataFrame({"n": numbers(), "text": ["a", "bb"] * (MIB // 16)}),
    "a table": pa.table({"n": numbers(), "text": ["a", "bb"] * (MIB // 16)}),
    "bytes": os.urandom(MIB),
    "without buffers": {"a": [1, 2, {3}], "b": None},
    "nothing": None,
    "much in one": [numbers(0.25) + n for n in range(50)],
    "of a class of the script": [Holder(Holder(3))],
}


@on_all
@pytest.mark.parametrize("name", OBJECTS)
def test_a_call_gets_the_object(isolated, name):
    handle = share(OBJECTS[name])
    assert same(OBJECTS[name], isolated(lambda thing: thing, wall_time=60)(handle))
    assert same(OBJECTS[name], handle.get())


@on_all
def test_a_handle_can_be_anywhere_among_the_arguments(isolated):
    handle = share(numbers())
    last = len(numbers()) - 1

    def look(one, *, two):
        return [int(found[-1]) for found in (one[0], one[1]["x"][0], two)]

    assert isolated(look, wall_time=60)((handle, {"x": [handle]}), two=handle) == [last] * 3


@on_processes
def test_a_handle_can_be_in_anything_that_is_pickled(isolated):
    handle = share(numbers())
    last = len(numbers()) - 1

    def look(by_partial, held):
        return [int(found[-1]) for found in (by_partial, held.inside, handle)]  # and by a closure

    call = isolated(functools.partial(look, handle), wall_time=60)
    assert call(Holder(handle)) == [last] * 3


@on_all
def test_what_is_shared_can_only_be_read(isolated):
    def try_to_write(array):
        problems = []
        for write in (lambda: array.fill(5), lambda: array.setflags(write=True)):
            try:
                write()
            except ValueError as error:
                problems.append(str(error))
        return len(problems), int(array[0])

    handle = share(numbers())
    assert isolated(try_to_write, wall_time=60)(handle) == (2, 0)


@on_all
def test_a_call_gets_the_object_as_it_was_when_it_was_shared(isolated):
    array = numbers()
    handle = share([array])
    array[:] = -1
    assert isolated(lambda shared: int(shared[0].max()), wall_time=60)(handle) == len(array) - 1


def mapped(array: np.ndarray) -> list[int]:
    """The inodes of the files in memory that hold shared objects here, as the kernel tells."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    found = [line.split() for line in lines if "dask-limits-shared" in line]
    inside = array.__array_interface__["data"][0]
    for words in found:
        start, end = (int(word, 16) for word in words[0].split("-"))
        assert not start <= inside < end or words[1] == "r--p"
    return [int(words[4]) for words in found]


@on_processes
def test_all_calls_map_the_memory_of_the_handle(isolated):
    handle = share(numbers(4))
    look = isolated(mapped, wall_time=60)
    assert [look(handle) for _ in range(3)] == [[handle.file.inode]] * 3


def test_more_handles_than_files_in_a_message_arrive_as_well():
    handles = [share(numbers() + n) for n in range(MOST_SHARED + 5)]
    first = limit(lambda arrays: [int(array[0]) for array in arrays], wall_time=60)
    assert first(handles) == list(range(len(handles)))


def test_a_handle_within_what_is_shared_is_an_object_there_too():
    inner = share(numbers())
    outer = share({"inner": inner, "more": numbers(2)})
    assert share(outer) is outer
    expected = {"inner": numbers(), "more": numbers(2)}
    got = limit(lambda got: got, wall_time=60)(outer)
    assert all(same(expected[name], got[name]) for name in expected)


def test_what_cannot_be_pickled_cannot_be_shared():
    with pytest.raises(TypeError, match=r"generator cannot be shared: .* pickle"):
        share(n for n in range(3))


@pytest.mark.parametrize("protocol", range(2, 6))
def test_any_pickler_takes_the_data_with_it(protocol):
    handle = share([numbers(), "text"])
    assert same([numbers(), "text"], pickle.loads(pickle.dumps(handle, protocol)))


def test_a_pool_that_knows_nothing_of_it_gets_the_object():
    with ProcessPoolExecutor(1) as pool:
        assert pool.submit(len, share(numbers())).result() == len(numbers())


def test_several_gigabytes_can_be_shared():
    size = 3 * 2**30
    block = mmap.mmap(-1, size)  # of zeros, which take no memory here
    block[size - 1] = 7
    handle = share(np.frombuffer(block, np.uint8))
    outcome = limit(lambda array: (len(array), int(array[-1])), memory="200 MiB").run(handle)
    assert outcome.result() == (size, 7)


# -- memory ----------------------------------------------------------------------------------


@on_processes
def test_what_is_shared_does_not_count(isolated):
    handle = share(numbers(60))

    limited = isolated(lambda array: int(array.max()), memory="30 MiB")
    limited(share(numbers()))  # which learns what is imported
    outcome = limited.run(handle)
    assert outcome.ok, outcome.exception
    assert outcome.usage.peak_memory < 25 * MIB


@on_processes
def test_a_child_of_the_call_can_read_it_too(isolated):
    handle = share(numbers(60))

    def read(array):
        for _ in range(3):
            if os.fork() == 0:
                array.max()
                threading.Event().wait(0.3)  # until it is seen
                os._exit(0)
        return [os.wait()[1] for _ in range(3)]

    outcome = isolated(read, memory="40 MiB").run(handle)
    assert outcome.ok, outcome.exception
    assert outcome.result() == [0] * 3


def copied(array: np.ndarray) -> Any:
    return array.copy()


def by_a_file_of_its_own(array: np.ndarray) -> Any:
    fd = os.memfd_create("dask-limits-shared")
    os.ftruncate(fd, array.nbytes)
    block = mmap.mmap(fd, array.nbytes)
    block[:] = bytes(array.nbytes)
    return block


def by_a_file_with_a_name_like_a_line(array: np.ndarray) -> Any:
    (inode,) = mapped(array)
    fd = os.memfd_create(f"x\n7f00-7f10 r--p 00000000 00:01 {inode} y 00:01 {inode} z")
    os.ftruncate(fd, array.nbytes)
    block = mmap.mmap(fd, array.nbytes)
    block[:] = bytes(array.nbytes)
    return block


def by_a_copy_in_its_place(array: np.ndarray) -> Any:
    import ctypes

    at, size = array.__array_interface__["data"][0], array.nbytes
    libc = ctypes.CDLL(None)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert libc.mprotect(at, size, mmap.PROT_READ | mmap.PROT_WRITE) == 0
    ctypes.memset(at, 1, size)
    return array


@on_processes
@pytest.mark.parametrize(
    "take",
    [
        copied,
        by_a_file_of_its_own,
        by_a_file_with_a_name_like_a_line,
        by_a_copy_in_its_place,
    ],
)
def test_what_a_call_takes_beside_it_counts(isolated, take):
    def call(array):
        kept = take(array)
        threading.Event().wait()  # until it is ended
        return kept

    outcome = isolated(call, memory="40 MiB", wall_time=60).run(share(numbers(60)))
    assert type(outcome.exception).__name__ == "MemoryBreach", outcome


def test_it_counts_apart_also_while_it_is_mapped_and_unmapped():
    handle = share(numbers(40))
    stop = threading.Event()

    def read():
        while not stop.is_set():
            handle.get().max()

    before = proctree.pages_of(os.getpid())
    thread = threading.Thread(target=read)
    thread.start()
    try:
        seen: list[proctree.Pages] = []

        def look():
            seen.append(proctree.pages_of(os.getpid(), [handle.file.inode]))
            return len(seen) >= 40 and max(pages.shared for pages in seen) > 20 * MIB

        until(look)
    finally:
        stop.set()
        thread.join()
    assert max(pages.private + pages.share for pages in seen) < (
        before.private + before.share + 20 * MIB
    )


@pytest.mark.parametrize("first", ["at once", "when it was counted"])
def test_what_an_earlier_call_has_kept_of_it_is_no_gift_to_the_next(first):
    handle = share(numbers(60))

    def keep(array):
        sys.modules["kept"] = array
        return int(array.max())

    def take(array, size):
        if not size:
            return "kept" in sys.modules
        if first != "at once":
            threading.Event().wait(0.3)
        del sys.modules["kept"]
        block = bytearray(size)
        threading.Event().wait()  # until it is ended
        return block

    warm: dict[str, Any] = {"isolation": "warm", "memory": "40 MiB", "wall_time": 60}
    limit(keep, **warm)(handle)
    assert limit(take, **warm)(handle, 0)
    outcome = limit(take, **warm).run(handle, 60 * MIB)
    assert type(outcome.exception).__name__ == "MemoryBreach", outcome


# -- that nobody can change it, and that it goes ---------------------------------------------


def test_no_call_can_change_it_not_even_by_its_owners_file():
    handle = share(numbers())

    def attack(pid, number):
        fd = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR)
        ways = (
            lambda: os.write(fd, b"x"),
            lambda: os.ftruncate(fd, 0),
            lambda: os.ftruncate(fd, 2**30),
            lambda: os.posix_fallocate(fd, 0, 2**30),
            lambda: mmap.mmap(fd, 4096)[:1],
        )
        refused = 0
        for way in ways:
            try:
                way()
            except OSError:
                refused += 1
        return refused, len(ways)

    refused, ways = limit(attack, wall_time=60)(os.getpid(), handle.file.fd)
    assert refused == ways
    assert same(numbers(), handle.get())


def test_calls_cannot_seal_it_against_its_owner():
    handle = share(numbers())
    with pytest.raises(PermissionError):
        fcntl.fcntl(handle.file.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL)


def maps_of(pid: int, inode: int) -> bool:
    return bool(proctree.pages_of(pid, [inode]).shared)


def test_its_memory_goes_with_the_last_handle_and_the_last_object():
    handle = share(numbers(4))
    inode = handle.file.inode
    array = handle.get()
    assert array.sum() > 0
    assert maps_of(os.getpid(), inode)
    del handle
    gc.collect()
    assert same(numbers(4), array)
    del array
    gc.collect()
    assert not maps_of(os.getpid(), inode)


@on_processes
def test_a_handle_may_go_while_a_call_runs(isolated, tmp_path):
    def wait(array, ready, go):
        ready.touch()
        while not go.exists():
            pass
        return int(array.max())

    ready, go = tmp_path / "ready", tmp_path / "go"
    handles = [share(numbers(4))]
    found = []
    call = isolated(wait, wall_time=60)
    thread = threading.Thread(target=lambda: found.append(call(handles.pop(), ready, go)))
    thread.start()
    until(ready.exists)
    gc.collect()
    go.touch()
    thread.join()
    assert found == [len(numbers(4)) - 1]


def test_many_calls_leave_no_open_file_here_or_there():
    handle = share(numbers())

    def count(array):
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    def files():
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    call = limit(count, wall_time=60, isolation="warm")
    there, here = call(handle), files()
    assert [call(handle) for _ in range(50)] == [there] * 50
    assert files() <= here  # idle task processes of other tests may go
    for _ in range(50):
        share(numbers(0.1))
    gc.collect()
    assert files() <= here


def test_threads_share_and_call_at_the_same_time():
    add = limit(lambda one, other: int(one[0] + other[0]), wall_time=60)
    found = []

    def work(n):
        handle = share(numbers() + n)
        found.append([add(handle, handle) for _ in range(3)] == [2 * n] * 3)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6


PROGRAM = """
import os, sys, time
import numpy as np
from dask_limits import limit, share

handle = share(np.arange(2**20))

def wait(array):
    array.max()
    open("ready", "x").close()
    time.sleep(600)
"""


def program(tmp_path, more: str) -> psutil.Popen:
    code = PROGRAM + textwrap.dedent(more)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return psutil.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    )


def test_nothing_is_left_of_it_when_its_owner_is_killed(tmp_path):
    with program(
        tmp_path, "print(handle.file.inode, flush=True); limit(wait, wall_time=600)(handle)"
    ) as owner:
        inode = int(owner.stdout.readline())
        until((tmp_path / "ready").exists)
        below = {process.pid for process in owner.children(recursive=True)}
        assert any(maps_of(pid, inode) for pid in below)
        owner.kill()
        all_gone(below)


def test_it_is_as_before_when_a_task_process_is_killed():
    handle = share(numbers())

    def die(array):
        array.max()
        os.kill(os.getpid(), 9)

    assert limit(die, wall_time=60).run(handle).exception is not None
    assert limit(lambda array: int(array[-1]), wall_time=60)(handle) == len(numbers()) - 1


def test_a_fork_of_its_owner_can_pass_it_on(tmp_path):
    code = """
    last = limit(lambda array: int(array[-1]), wall_time=60)
    assert last(handle) == 2**20 - 1
    pid = os.fork()
    if pid == 0:
        os._exit(last(handle) != 2**20 - 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert last(handle) == 2**20 - 1
    """
    with program(tmp_path, code) as owner:
        assert owner.wait(timeout=60) == 0


def test_a_handle_says_what_it_is():
    handle = share(numbers())
    assert isinstance(handle, Shared)
    assert MIB <= handle.nbytes < MIB + 4096
    assert repr(handle) == "Shared(1.0 MiB)"


def test_a_copy_of_a_handle_is_the_handle_and_it_says_how_to_get_the_object():
    handle = share(numbers())
    assert copy.copy(handle) is copy.deepcopy([handle])[0] is handle
    with pytest.raises(AttributeError, match=r"no attribute 'mean'.*get\(\) returns it"):
        handle.mean()
