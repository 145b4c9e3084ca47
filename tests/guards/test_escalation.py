"""A guard that is not heeded interrupts again, in the documented order, and then no more."""

from __future__ import annotations

import ast
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from signal import SIGINT, SIGKILL, SIGTERM

import pytest

from dask_limits.guards import ExecutionTimeout, InterruptType, progress, time_guard
from dask_limits.guards.entry import here, inside
from dask_limits.guards.escalation import steps

# Notes what interrupts it, and goes on until some time after the third interrupt.
STUBBORN = """
import signal, sys
kind, kill, guard, thread = sys.argv[1:]
seen = []
end = time.monotonic() + 30

def note(name):
    global end
    seen.append(name)
    print(repr((name, time.monotonic() - begun)), flush=True)
    if len(seen) == 3:
        end = time.monotonic() + 1.5

for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, frame: note(signal.Signals(number).name))

make = {
    "time": lambda **more: time_guard(0.5, grace_period=0, **more),
    "memory": lambda **more: mem_guard(1, True, 0.5, 1, check_interval=20, **more),
}[guard]

def block():
    global begun
    begun = time.monotonic()
    with make(interrupt_type=InterruptType[kind], send_kill=kill == "kill"):
        while time.monotonic() < end:
            try:
                while time.monotonic() < end:
                    time.sleep(0.001)
            except GuardException as error:
                note(type(error).__name__)

if thread == "main":
    block()
else:
    other = threading.Thread(target=block)
    other.start()
    other.join()
print("left", flush=True)
"""
E, S, B = "exception", "signal", "exception_then_signal"
T = "ExecutionTimeout"


ORDERS = [
    (E, "", "time", "main", [T, T, T]),
    (S, "", "time", "main", ["SIGINT", "SIGTERM", "SIGTERM"]),
    (B, "", "time", "main", [T, "SIGINT", "SIGTERM"]),
    (S, "kill", "time", "main", ["SIGINT", "SIGTERM"]),
    (B, "kill", "time", "main", [T, "SIGINT"]),
    (B, "", "time", "another", [T, T, T]),
    (B, "kill", "time", "another", [T, T]),
    (B, "", "memory", "main", ["MemoryLimitExceeded", "SIGINT", "SIGTERM"]),
]


def test_a_guard_that_is_not_heeded_interrupts_in_the_documented_order(run_program):
    with ThreadPoolExecutor(4) as pool:  # they sleep most of the time
        ended = list(pool.map(lambda order: run_program(STUBBORN, *order[:4]), ORDERS))
    for (_, kill, _, _, expected), program in zip(ORDERS, ended, strict=True):
        assert program.stderr == ""
        lines = program.stdout.splitlines()
        if kill:
            assert program.returncode == -SIGKILL
        else:
            assert program.returncode == 0
            assert lines.pop() == "left"
        seen = [ast.literal_eval(line) for line in lines]
        assert [name for name, _ in seen] == expected
        # A second lies between sending two; each may arrive late when the machine is busy.
        assert all(after > 0.45 + n for n, (_, after) in enumerate(seen)), seen


def test_a_sigint_is_a_keyboard_interrupt_of_the_block(run_program):
    ended = run_program("""
try:
    with time_guard(0.05, interrupt_type=InterruptType.signal):
        time.sleep(30)
except KeyboardInterrupt:
    print("interrupted")
""")
    assert (ended.stdout, ended.stderr, ended.returncode) == ("interrupted\n", "", 0)


def test_a_sigterm_that_nothing_handles_ends_the_process(run_program):
    ended = run_program("""
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
with time_guard(0.05, 0, interrupt_type=InterruptType.signal):
    time.sleep(30)
""")
    assert ended.returncode == -SIGTERM


def test_a_signal_interrupts_only_the_main_thread_that_is_inside(run_program):
    """A guard in another thread, whose exceptions are not heeded, leaves the main thread alone."""
    ended = run_program("""
def stubborn():
    end, n = time.monotonic() + 30, 0
    with time_guard(0.5, grace_period=0):
        while time.monotonic() < end:
            try:
                time.sleep(0.01)
            except ExecutionTimeout:
                print("exception", flush=True)
                n += 1
                if n == 3:
                    end = time.monotonic() + 1.5

thread = threading.Thread(target=stubborn)
thread.start()
thread.join()
print("main thread: nothing")
""")
    assert ended.stdout == "exception\n" * 3 + "main thread: nothing\n"
    assert (ended.stderr, ended.returncode) == ("", 0)


def test_signals_alone_are_refused_outside_the_main_thread():
    errors = []

    def enter():
        try:
            with time_guard(100, interrupt_type=InterruptType.signal):
                pass
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert ["Use InterruptType.exception" in error for error in errors] == [True]
    assert not inside


def test_progress_after_an_interrupt_starts_from_the_beginning():
    """The next interrupt is the first again, and comes a timeout later, not a grace period."""
    told = []
    with time_guard(0.3, grace_period=1000, check_interval=20):
        for _ in range(3):
            try:
                assert progress()
                while True:
                    time.sleep(0.001)
            except ExecutionTimeout as error:
                told.append(str(error))
    assert ["interrupt 1 of 3" in message for message in told] == [True] * 3


def test_progress_after_the_last_interrupt_starts_from_the_beginning():
    entry = time_guard(10)._entry("it")
    now = entry.began + 10
    for _ in range(3):
        assert entry.look(now) is not None
        entry.escalate(now)
        now += 15
    assert entry.look(now) is None
    entry.began = now
    assert entry.look(now + 9.9) is None
    assert entry.due == entry.next_at == now + 10
    assert "interrupt 1 of 3" in str(entry.look(now + 10))


def test_progress_between_interrupts_is_looked_for_in_time():
    entry = time_guard(2, grace_period=15)._entry("it")
    assert entry.due == entry.began + 2
    fired = entry.began + 2
    assert entry.look(fired) is not None
    entry.escalate(fired)
    assert entry.next_at == fired + 15
    assert entry.due == fired + 2  # what is reported now would be over 2 s later


def test_a_handled_interrupt_leaves_the_block_running():
    with time_guard(0.5):
        try:
            while True:
                time.sleep(0.001)
        except ExecutionTimeout:
            pass
        assert here.innermost.level == 1
    assert not inside


@pytest.mark.parametrize("main_thread", [True, False])
@pytest.mark.parametrize("send_kill", [True, False])
@pytest.mark.parametrize("kind", InterruptType)
def test_every_order_has_three_steps_and_no_signal_for_the_wrong_thread(
    kind, send_kill, main_thread
):
    if kind is InterruptType.signal and not main_thread:
        with pytest.raises(RuntimeError):
            steps(kind, send_kill, main_thread)
        return
    order = steps(kind, send_kill, main_thread)
    assert len(order) == 3
    if not main_thread:
        assert not {SIGINT, SIGTERM} & set(order)
    if kind is not InterruptType.exception:
        assert (order[-1] == SIGKILL) == send_kill


def test_the_handlers_of_the_program_stay_as_they_are():
    before = signal.getsignal(SIGINT), signal.getsignal(SIGTERM)
    with time_guard(100):
        assert (signal.getsignal(SIGINT), signal.getsignal(SIGTERM)) == before
