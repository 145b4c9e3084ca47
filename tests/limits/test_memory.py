"""The memory of a call: what it has beyond what was there before it, whatever ran there before."""

import mmap
import os
import random
import sys
import time
from multiprocessing import get_context

import pytest
from isolations import FRESH, on_each, on_processes
from processes import until
from taking import SEEN_S, TAKING, fork, keep

from dask_limits import exceptions
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.templates import Preload

MIB = 2**20


def _expect_usage(isolated, name: str, mib: int) -> None:
    """Have a call take so much, and look at what its usage says.

    Pages are counted for a share of the guardian's time: on a busy machine, the second count may
    come after child processes have ended. Then these keep what they have for longer. It is never
    too much that is found.
    """
    # Another program has an interpreter of its own. Several processes are looked at one by one, and
    # on a busy machine they change meanwhile.
    most = mib + (16 if name == "another program" else 5) + mib / (2 if "child" in name else 16)
    for seconds in (SEEN_S, 4 * SEEN_S, 20 * SEEN_S):
        outcome = isolated(TAKING[name], wall_time=60).run(mib * MIB, seconds)
        assert outcome.ok, outcome.exception
        found = outcome.usage.peak_memory / MIB
        assert found <= most, f"{name}: {found:.1f} MiB instead of {mib}"
        if found >= mib - 3:
            return
    pytest.fail(f"{name}: {found:.1f} MiB instead of {mib}")


@on_processes
@pytest.mark.parametrize("name", TAKING)
def test_usage_tells_what_a_call_has_taken(isolated, name):
    _expect_usage(isolated, name, 40)


@on_processes
@pytest.mark.parametrize("seed", range(3))
def test_usage_tells_what_a_call_has_taken_after_any_other_calls(isolated, seed):
    choose = random.Random(seed)
    for _ in range(12):
        if choose.random() < 0.4:
            isolated(keep, wall_time=60)(choose.choice([0, 10, 30]) * MIB)
        _expect_usage(isolated, choose.choice(list(TAKING)), choose.randint(2, 80))


@on_processes
def test_what_a_call_has_freed_is_no_gift_to_the_next(isolated):
    def take():
        blocks = [b"x" * 100_000 for _ in range(300)]
        sys.modules["last"] = blocks.pop()  # so that the heap does not shrink by itself

    for _ in range(3):
        outcome = isolated(take, wall_time=60).run()
        assert abs(outcome.usage.peak_memory - 30e6) < 4 * MIB


@on_each("peak_memory")
def test_one_mebibyte_is_enough_for_a_function_that_takes_nothing(isolated):
    for function, argument in ((abs, -1), (time.sleep, 0.1)) * 3:
        outcome = isolated(function, memory=MIB).run(argument)
        assert outcome.ok, outcome.exception


@on_processes
def test_children_are_not_charged_for_what_was_there_before_the_call(isolated):
    def start_pool():
        with get_context("fork").Pool(4) as pool:
            pool.map(time.sleep, [SEEN_S] * 4)

    isolated(keep, wall_time=60)(50 * MIB)
    outcome = isolated(start_pool, memory="100 MiB").run()
    assert outcome.ok, outcome.exception


@on_processes
def test_children_are_charged_for_what_they_write_anew(isolated):
    def write(seconds):
        keep(40 * MIB)
        kept = sys.modules["kept"]

        def change():
            kept[:: mmap.PAGESIZE] = bytes(len(kept) // mmap.PAGESIZE)

        for pid in [fork(change, seconds) for _ in range(3)]:
            os.waitpid(pid, 0)

    error = isolated(write, memory="120 MiB").run(600).exception
    assert isinstance(error, exceptions.MemoryBreach)
    assert isolated(write, memory="200 MiB").run(SEEN_S).ok


def test_pages_of_the_process_that_a_fresh_one_is_forked_from_count_once_they_are_written():
    def write(share, more, seconds=0.1):
        kept = sys.modules["kept"]
        part = int(len(kept) * share)
        kept[: part : mmap.PAGESIZE] = bytes(-(-part // mmap.PAGESIZE))
        block = bytearray(more)
        time.sleep(seconds)
        return len(kept) + len(block)

    limits = FRESH(write, memory="90 MiB").limits
    with Guardian(preload=Preload.of((), keep, (40 * MIB,))) as guardian:
        assert guardian.run(write, (0, 60 * MIB), {}, limits).ok

        def peak():  # on a busy machine, a call may be measured before it has written all
            return guardian.run(write, (0.5, 10 * MIB), {}, limits).usage.peak_memory

        peaks = []
        until(lambda: peaks.append(peak()) or peaks[-1] > 30 * MIB)
        assert max(peaks) < 35 * MIB
        error = guardian.run(write, (1, 60 * MIB, 600), {}, limits).exception
    assert isinstance(error, exceptions.MemoryBreach)
