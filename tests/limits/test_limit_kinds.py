"""The contract of each kind of limit."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import psutil
import pynisher
import pytest

from dask_limits import exceptions
from dask_limits.limits import Limits, limit
from dask_limits.limits.guardian import default_guardian


def sleep_on():
    time.sleep(600)


def spin():
    while True:
        pass


def grow():
    blocks = []
    while True:
        blocks.append(bytearray(4_000_000))
        time.sleep(0.001)


def sprout():
    children = [subprocess.Popen(["sleep", "600"]) for _ in range(4)]
    children[0].wait()


def detach(argv):
    """Start a program that has nothing to do with its starter any more: double fork, setsid."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(argv[0], argv)
        os._exit(0)
    os.wait()


SPIN = [sys.executable, "-c", "while True: pass"]
GROW = [
    sys.executable,
    "-c",
    "import time\nb = []\nwhile True: b.append(bytearray(4_000_000)); time.sleep(0.001)",
]


@dataclass
class Kind:
    limits: dict[str, Any]
    breach: type[exceptions.Breach]
    pynishers: type[Exception]
    over: Any
    over_detached: Any
    enough: dict[str, Any]


KINDS = {
    "wall_time": Kind(
        {"wall_time": 0.3},
        exceptions.WallTimeBreach,
        pynisher.WallTimeoutException,
        sleep_on,
        lambda: (detach(["/bin/sleep", "600"]), time.sleep(600)),
        {"wall_time": "1 m"},
    ),
    "cpu_time": Kind(
        {"cpu_time": 0.3},
        exceptions.CpuTimeBreach,
        pynisher.CpuTimeoutException,
        spin,
        lambda: (detach(SPIN), time.sleep(600)),
        {"cpu_time": (1, "m")},
    ),
    "memory": Kind(
        {"memory": "100 MiB"},
        exceptions.MemoryBreach,
        pynisher.MemoryLimitException,
        grow,
        lambda: (detach(GROW), time.sleep(600)),
        {"memory": "2 GiB"},
    ),
    "num_processes": Kind(
        {"num_processes": 2},
        exceptions.ProcessBreach,
        exceptions.ProcessLimitException,
        sprout,
        lambda: ([detach(["/bin/sleep", "600"]) for _ in range(3)], time.sleep(600)),
        {"num_processes": 8},
    ),
}


@pytest.fixture(params=KINDS, ids=str)
def kind(request):
    return KINDS[request.param]


def ours():
    """Every process below this one."""
    return psutil.Process().children(recursive=True)


def is_stray(process):
    try:
        return process.name() == "sleep" or "while True" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # gone by now, or a zombie
        return False


def strays():
    """Processes that a call has started and that still are there."""
    return [p for p in ours() if is_stray(p)]


def test_a_call_within_its_limit_returns(kind):
    assert limit(divmod, **kind.enough)(7, 2) == (3, 1)


def test_a_call_over_its_limit_ends_with_pynishers_exception(kind):
    call = limit(kind.over, **kind.limits)
    with pytest.raises(kind.pynishers) as caught:
        call()
    error = caught.value
    assert type(error) is kind.breach
    assert error.limits == Limits(**kind.limits)
    assert error.call in str(error)
    assert error.usage.wall_time > 0


def test_a_breach_says_in_which_line_the_call_was(kind):
    error = limit(kind.over, **kind.limits).run().exception
    assert isinstance(error, kind.breach)
    assert "test_limit_kinds.py" in error.stacks
    assert f"in {kind.over.__name__}" in str(error)


def test_what_a_call_detached_counts_and_goes_with_it(kind):
    error = limit(kind.over_detached, **kind.limits).run().exception
    assert isinstance(error, kind.breach)
    assert strays() == []


def test_after_a_breach_the_next_call_works_and_starts_with_a_clean_account(kind):
    assert isinstance(limit(kind.over, **kind.limits).run().exception, kind.breach)
    again = limit(abs, **kind.limits).run(-1)
    assert again.result() == 1
    assert again.usage.cpu_time < 0.2


def test_all_limits_hold_together(kind):
    every = {name: value for other in KINDS.values() for name, value in other.enough.items()}
    error = limit(kind.over, **(every | kind.limits)).run().exception
    assert isinstance(error, kind.breach)


def test_an_uncaught_breach_leaves_no_process_behind(kind):
    before = {p.pid for p in ours()}
    guardian = default_guardian()
    limit(kind.over, **kind.limits).run()
    guardian.close()
    assert {p.pid for p in ours()} - before == set()


@pytest.mark.parametrize(
    "greedy",
    [
        lambda: bytes(200_000_000),
        lambda: len(b"x" * 200_000_000),
        lambda: setattr(__import__("builtins"), "_kept", b"x" * 200_000_000),
    ],
    ids=["a large result", "large while it ran", "a cache that stays"],
)
def test_memory_of_one_call_does_not_count_against_the_next(greedy):
    assert limit(greedy, memory="1 GiB").run().ok
    after = limit(time.sleep, memory="100 MiB").run(0.05)
    assert after.ok
    assert after.usage.peak_memory < 100 * 2**20


def test_a_large_argument_does_not_count_against_the_next_call():
    assert limit(len, wall_time=30)(bytes(200_000_000)) == 200_000_000
    assert limit(time.sleep, memory="100 MiB").run(0.05).ok


def test_reserving_address_space_is_free():
    def reserve():
        import mmap

        return len(mmap.mmap(-1, 8 * 2**30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))

    assert limit(reserve, memory="100 MiB")() == 8 * 2**30


def test_sleeping_costs_no_cpu_time():
    assert limit(time.sleep, cpu_time=0.2).run(0.5).ok


def test_threads_are_not_processes():
    def threads():
        import threading

        pool = [threading.Thread(target=time.sleep, args=(0.2,)) for _ in range(8)]
        for thread in pool:
            thread.start()
        for thread in pool:
            thread.join()

    assert limit(threads, num_processes=1).run().ok


def test_memory_that_processes_share_counts_once():
    def share():
        block = bytearray(os.urandom(1000)) * 60_000
        children = []
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                time.sleep(0.5)
                os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)
        return len(block)

    assert limit(share, memory="150 MiB").run().ok


def test_a_spike_between_two_looks_is_a_breach_all_the_same():
    def spike():
        bytearray(300_000_000)

    assert isinstance(limit(spike, memory="200 MiB").run().exception, exceptions.MemoryBreach)


def test_children_of_threads_count():
    def fork_in_thread():
        import threading

        starter = threading.Thread(target=sprout)
        starter.start()
        starter.join()

    error = limit(fork_in_thread, num_processes=2).run().exception
    assert isinstance(error, exceptions.ProcessBreach)


def test_what_a_call_leaves_behind_on_return_is_ended():
    call = limit(lambda: detach(["/bin/sleep", "600"]), wall_time=30)
    assert call.run().ok
    deadline = time.monotonic() + 5
    while strays():
        assert time.monotonic() < deadline
        time.sleep(0.01)
