"""A memory guard interrupts while the process has too much memory."""

from __future__ import annotations

import mmap
import pickle
import time

import pytest

from dask_limits.guards import InterruptType, MemoryLimitExceeded, mem_guard, memory
from dask_limits.guards.entry import inside
from dask_limits.guards.memory import resident_kib

MIB = 1024  # KiB
WITH_EXCEPTIONS = {"interrupt_type": InterruptType.exception, "check_interval": 5}


def hoard(mib: float) -> bytearray:
    """So much memory, resident and not shared."""
    return bytearray(b"x") * round(mib * 1024 * 1024)


def spin(seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def test_a_block_that_takes_too_much_is_interrupted(in_a_thread):
    def block():
        taken = []
        with mem_guard(100 * MIB, absolute=False, **WITH_EXCEPTIONS):
            try:
                while True:
                    taken.append(hoard(1))
            finally:
                taken.clear()

    with pytest.raises(MemoryLimitExceeded) as caught:
        in_a_thread(block)
    assert caught.value.max_memory == 100 * MIB
    assert caught.value.memory > 100 * MIB
    assert "102400 KiB" in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert not inside


def test_a_block_that_stays_below_is_not():
    with mem_guard(500 * MIB, absolute=False, **WITH_EXCEPTIONS):
        taken = hoard(20)
        spin(0.05)
    assert taken


def test_an_absolute_limit_counts_all_memory_of_the_process():
    with pytest.raises(MemoryLimitExceeded), mem_guard(resident_kib() - MIB, **WITH_EXCEPTIONS):
        spin(30)
    with mem_guard(resident_kib() + 500 * MIB, **WITH_EXCEPTIONS):
        spin(0.05)


def test_a_guarded_function_is_interrupted():
    @mem_guard(max_memory=10, **WITH_EXCEPTIONS)
    def parse():
        spin(30)

    with pytest.raises(MemoryLimitExceeded, match=r"parse\(\) went over its memory limit of 10 "):
        parse()


def test_the_first_look_does_not_wait_for_the_interval():
    with (
        pytest.raises(MemoryLimitExceeded),
        mem_guard(1, interrupt_type=InterruptType.exception, check_interval=1e6),
    ):
        spin(30)


def test_what_the_grace_period_allows_is_not_interrupted():
    guard = mem_guard(50 * MIB, absolute=False, grace_period=20, **WITH_EXCEPTIONS)
    with guard:
        taken = hoard(100)
        spin(0.1)
        taken.clear()
        spin(0.1)


def test_each_fall_below_the_limit_starts_the_grace_period_anew():
    guard = mem_guard(10, grace_period=0.5, **WITH_EXCEPTIONS)
    entry = guard._entry("it")

    def look(now: float, kib: float) -> MemoryLimitExceeded | None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memory, "resident_kib", lambda: kib)
            return entry.look(now)

    assert look(100.0, 11) is None
    assert look(100.4, 11) is None
    assert look(100.45, 9) is None
    assert look(100.5, 11) is None
    assert look(100.9, 11) is None
    assert look(101.0, 11) is not None
    entry.escalate(101.0)
    assert look(105.9, 11) is None
    assert "interrupt 2 of 3" in str(look(106.0, 11))
    entry.escalate(106.0)
    assert look(107.0, 9) is None
    assert look(108.0, 11) is None
    assert "interrupt 1 of 3" in str(look(108.5, 11))


def test_after_the_last_interrupt_there_is_none():
    entry = mem_guard(1, **WITH_EXCEPTIONS)._entry("it")
    for now in (0.0, 5.0, 10.0):
        assert entry.look(now) is not None
        entry.escalate(now)
    assert entry.look(1000.0) is None


def test_memory_that_cannot_be_seen_is_said_on_entry(monkeypatch):
    def no_proc():
        raise FileNotFoundError

    monkeypatch.setattr(memory, "resident_kib", no_proc)
    guarded = mem_guard(10)(print)
    with pytest.raises(RuntimeError, match="only Linux"):
        guarded()
    assert not inside


def test_resident_memory_is_what_the_kernel_says():
    before = resident_kib()
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # and not what this process has free by now
    with mmap.mmap(-1, 64 * 2**20, private) as taken:
        taken.write(b"x" * len(taken))
        assert resident_kib() - before > 60 * MIB
    assert abs(resident_kib() - before) < 20 * MIB


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        ({"max_memory": 0}, ValueError, "max_memory=0 must be more than 0 and finite, in KiB"),
        ({"max_memory": "50 MiB"}, TypeError, "is not a number of KiB"),
        ({"max_memory": print}, TypeError, r"write @mem_guard\(max_memory="),
        ({"secondary_grace_period": 0.9}, ValueError, "must be 1 or more and finite"),
        ({"grace_period": -0.1}, ValueError, "grace_period=-0.1"),
        ({"check_interval": -5}, ValueError, "check_interval=-5"),
        ({"interrupt_type": None}, TypeError, "is not one of"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(wrong, error, says):
    with pytest.raises(error, match=says):
        mem_guard(**{"max_memory": 10, **wrong})
