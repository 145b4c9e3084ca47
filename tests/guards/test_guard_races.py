"""A guard that ended interrupts nothing, however close its interrupt came to its end."""

from __future__ import annotations

import functools
import math
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from processes import until

from dask_limits.guards import ExecutionTimeout, InterruptType, time_guard
from dask_limits.guards.async_exception import Interrupt, set_async_exc
from dask_limits.guards.entry import here, inside
from dask_limits.guards.watcher import watcher

LONG = 100.0


class Foreign(Exception):
    """Of somebody else, who also uses PyThreadState_SetAsyncExc."""


class Sender:
    """Reading an attribute of it makes an exception pending, which nothing raises at once.

    Python looks for what is pending after calls and in loops; an attribute read is neither.
    """

    _as_parameter_ = 0  # ctypes is handed the instance too, as one argument too many

    foreign = property(functools.partial(set_async_exc, threading.main_thread().ident, Foreign))


def sender_of_its_own_interrupt() -> type[Sender]:
    """Sends what the watcher would, for the innermost guard of this thread."""
    entry = here.innermost
    interrupt = Interrupt(ExecutionTimeout("own"), time.monotonic())
    entry.interrupt = interrupt
    own = property(functools.partial(set_async_exc, entry.address, interrupt.kind))
    return type("OwnSender", (Sender,), {"own": own})()


@pytest.fixture
def watched(monkeypatch) -> Iterator[None]:
    """The watcher runs already, and stays.

    In Python 3.11 a thread that has not run yet gets what is sent to the one that starts it.
    """
    monkeypatch.setattr("dask_limits.guards.watcher._LINGER_S", LONG)
    with time_guard(LONG):
        until(lambda: watcher.wakes_at < math.inf)
    yield
    monkeypatch.undo()
    watcher._bell.put(None)  # it would sleep for as long


def run_on() -> None:
    """Whatever is pending is raised in here."""
    for _ in range(1000):
        time.monotonic()


def test_an_exception_that_is_pending_when_the_block_ends_is_dropped(watched):
    with time_guard(LONG):
        sender = sender_of_its_own_interrupt()
        sender.own  # noqa: B018
    run_on()
    assert not inside


def test_an_exception_that_is_pending_is_raised_if_the_block_goes_on(watched):
    """The one above would pass if nothing were ever sent."""
    with pytest.raises(ExecutionTimeout, match="own"), time_guard(LONG):
        sender = sender_of_its_own_interrupt()
        sender.own  # noqa: B018
        run_on()


def test_an_exception_that_is_pending_when_the_block_raises_is_dropped(watched):
    own_error = KeyError("own")
    with pytest.raises(KeyError) as caught, time_guard(LONG):
        sender = sender_of_its_own_interrupt()
        sender.own  # noqa: B018
        raise own_error
    run_on()
    assert caught.value.__context__ is None


def test_an_exception_that_is_pending_when_a_function_returns_is_dropped(watched):
    @time_guard(LONG)
    def function():
        sender = sender_of_its_own_interrupt()
        sender.own  # noqa: B018
        return "value"

    try:
        value = function()
    except ExecutionTimeout:  # raised by the call itself, after the function: allowed too
        value = "value"
    run_on()
    assert value == "value"
    assert not inside


def test_an_exception_sent_after_the_end_goes_nowhere():
    with time_guard(LONG):
        entry = here.innermost
    entry.send(ExecutionTimeout("late"), time.monotonic())
    assert entry.interrupt.settled
    run_on()


def test_a_signal_sent_after_the_end_goes_nowhere():
    with time_guard(LONG, interrupt_type=InterruptType.signal):
        entry = here.innermost
    entry.send(ExecutionTimeout("late"), time.monotonic())
    run_on()


def test_an_exception_of_somebody_else_does_not_keep_a_guard_from_ending(watched):
    """It is raised, from the with statement or soon after it; and the guard is gone."""
    sender = Sender()
    with pytest.raises(Foreign):
        with time_guard(LONG):
            sender.foreign  # noqa: B018
        run_on()
    assert not inside
    assert here.innermost is None


def test_an_outer_guards_exception_is_not_lost_when_an_inner_block_ends(watched):
    with pytest.raises(ExecutionTimeout, match="own"), time_guard(LONG):
        sender = sender_of_its_own_interrupt()
        with time_guard(LONG):
            sender.own  # noqa: B018
        run_on()
    assert not inside


def test_entering_may_be_interrupted_at_any_time(watched, monkeypatch):
    from dask_limits.guards import guard as guard_module

    sender = Sender()
    attend = guard_module.watcher.attend

    def interrupted(due):
        attend(due)
        sender.foreign  # noqa: B018

    monkeypatch.setattr(guard_module.watcher, "attend", interrupted)
    with pytest.raises(Foreign):
        with time_guard(LONG):
            run_on()
        run_on()
    assert not inside
    assert here.innermost is None


def test_nothing_is_raised_at_the_start_of_what_must_not_be_torn():
    from dask_limits.guards.entry import Entry
    from dask_limits.guards.guard import Guard

    resume = __import__("opcode").opmap["RESUME"]
    for function in (Entry.close, Guard.__exit__):
        assert function.__code__.co_code[:2] == bytes((resume, 2))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="only Python 3.11 mixes them up")
def test_a_thread_that_is_just_starting_gets_no_exception_of_its_parent(watched, monkeypatch):
    with time_guard(LONG):
        entry = here.innermost
        now = entry.next_at
        monkeypatch.setitem(threading._limbo, "starting", None)
        entry.send(ExecutionTimeout("early"), now)
        assert entry.level == 0
        run_on()
        monkeypatch.undo()
        with pytest.raises(ExecutionTimeout, match="now"):
            entry.send(ExecutionTimeout("now"), now)
            run_on()


# Blocks whose timeouts race with their ends, in some shapes; then code outside that would be hit.
RACE = """
import collections, random, sys, zlib
from dask_limits.guards.entry import here, inside

sys.setswitchinterval(1e-6)
mode, seconds = sys.argv[1], float(sys.argv[2])
kind = InterruptType[mode]
Hit = KeyboardInterrupt if kind is InterruptType.signal else ExecutionTimeout
counts = collections.Counter()
big = bytes(1 << 16)
end = time.monotonic() + seconds

def spin(d):
    until = time.perf_counter() + d
    while time.perf_counter() < until: pass

def compute(d):
    until = time.perf_counter() + d
    while time.perf_counter() < until: zlib.crc32(big)

def plain(guard, body, d):
    with guard: body(d)

def returning(guard, body, d):
    with guard: return body(d)

def breaking(guard, body, d):
    while True:
        with guard:
            body(d)
            break

def failing(guard, body, d):
    try:
        with guard:
            body(d)
            raise KeyError
    except KeyError: pass

def decorated(guard, body, d):
    guard(body)(d)

def handling(guard, body, d):
    with guard:
        try: body(d)
        except Hit: pass

def nested(guard, body, d):
    with time_guard(d * random.uniform(1, 2) + 1e-5, 0, kind) as outer:
        try: plain(guard, body, d)
        except ExecutionTimeout as error:
            raise
        else:
            try: outside()
            except ExecutionTimeout as error:
                counts["late"] += error.timeout != outer.timeout_s
                raise

shapes = (plain, returning, breaking, failing, decorated, handling, nested)

def outside():
    for _ in range(10): time.perf_counter()

def race():
    while time.monotonic() < end:
        try:
            timeout = random.choice((1e-5, 5e-5, 2e-4, 1e-3))
            d = timeout * random.choice((random.uniform(0, 2), random.uniform(0.9, 1.1)))
            guard = time_guard(timeout, 0, kind)
            shape = random.choice(shapes)
            body = random.choice((spin, time.sleep, compute))
            try: shape(guard, body, d)
            except Hit: counts["hit"] += 1
            else: counts["ended"] += 1
            outside()
            if here.innermost is not None:
                counts["left active"] += 1
                here.innermost = None
        except Hit:
            counts["late"] += 1

others = [threading.Thread(target=race) for _ in range(2 if kind is InterruptType.exception else 0)]
for other in others: other.start()
race()
for other in others: other.join()
assert counts["hit"] and counts["ended"], counts
assert not counts["late"] and not counts["left active"] and not inside, counts
print("fine")
"""


@pytest.mark.parametrize("mode", ["exception", "signal"])
def test_no_interrupt_comes_late_when_timeouts_race_with_ends(run_program, mode):
    ended = run_program(RACE, mode, "4")
    assert (ended.stdout, ended.stderr) == ("fine\n", "")
