"""One thread watches over all guards; forks, and the end of the interpreter, do no harm."""

from __future__ import annotations

import threading
import time

import pytest
from processes import until

from dask_limits.guards import ExecutionTimeout, InterruptType, time_guard
from dask_limits.guards.entry import here, inside
from dask_limits.guards.watcher import watcher

COUNTING = """
import _thread
from dask_limits.guards.entry import inside
from dask_limits.guards.watcher import watcher

def until(condition):
    give_up = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.01)

def started(enter):
    threads = [threading.Thread(target=enter, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    return threads

threads_before = _thread._count()

def one_watcher_until_all_go(threads, go):
    until(lambda: _thread._count() == threads_before + len(threads) + 1)  # each counts itself
    assert watcher.running
    go.set()
    for thread in threads:
        thread.join()
"""

FORKING = """
import os, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded")  # since Python 3.12
"""


def test_one_thread_watches_over_all_guards_and_ends_with_the_last(run_program):
    code = """
ready, go = threading.Barrier(9), threading.Event()

def enter():
    with time_guard(100):
        ready.wait()
        go.wait()

with time_guard(100), mem_guard(1e12), time_guard(50):
    threads = started(enter)
    ready.wait()
    assert len(inside) == 11
    one_watcher_until_all_go(threads, go)
until(lambda: not watcher.running and _thread._count() == threads_before)
"""
    assert run_program(COUNTING + code).stderr == ""


def test_threads_that_enter_in_the_same_moment_start_one_watcher(run_program):
    code = """
for _ in range(20):
    together, go = threading.Barrier(9), threading.Event()

    def enter():
        together.wait()
        with time_guard(100):
            go.wait()

    threads = started(enter)
    together.wait()
    until(lambda: len(inside) == 8)
    one_watcher_until_all_go(threads, go)
    until(lambda: not watcher.running and _thread._count() == threads_before)
"""
    assert run_program(COUNTING + code).stderr == ""


def test_it_sleeps_while_only_time_guards_are_there():
    with time_guard(1000):
        until(lambda: watcher.wakes_at == here.innermost.due)
        assert watcher.wakes_at > time.monotonic() + 900


def test_a_shorter_timeout_wakes_it():
    with time_guard(1000):
        until(lambda: watcher.wakes_at == here.innermost.due)
        with pytest.raises(ExecutionTimeout), time_guard(0.02):
            while True:
                pass


def test_short_blocks_that_come_and_go_do_not_keep_it_busy(monkeypatch):
    looks = []
    see_to_all = watcher._see_to_all
    monkeypatch.setattr(watcher, "_see_to_all", lambda: looks.append(1) or see_to_all())
    for _ in range(20_000):
        with time_guard(100):
            pass
    assert len(looks) < 2_000


def test_it_starts_again_when_the_next_guard_comes():
    for _ in range(3):
        with pytest.raises(ExecutionTimeout), time_guard(0.01):
            while True:
                pass
        until(lambda: not watcher.running)


def test_a_guard_that_comes_while_it_is_ending_is_watched_over():
    """Blocks that begin about when the thread would end."""
    for n in range(40):
        with pytest.raises(ExecutionTimeout), time_guard(0.005):
            while True:
                pass
        time.sleep(0.09 + n * 0.0005)


def test_a_thread_that_ends_inside_a_guard_is_forgotten():
    def suspended():
        with time_guard(0.5, interrupt_type=InterruptType.exception):
            yield

    generators = [suspended()]
    thread = threading.Thread(target=lambda: next(generators[0]))
    thread.start()
    thread.join()
    until(lambda: not inside)
    until(lambda: not watcher.running)
    generators[0].close()


def test_a_child_of_a_fork_is_not_inside_the_guards_of_its_parent(run_program):
    ended = run_program(
        FORKING
        + """
from dask_limits.guards.entry import inside
with time_guard(1):
    child = os.fork()
    if not child:
        end = time.monotonic() + 2
        while time.monotonic() < end:
            pass
        assert not inside and progress()  # it is still within the block
    else:
        try:
            os.waitpid(child, 0)
        except ExecutionTimeout:
            pass
if not child:
    try:
        with time_guard(0.05):
            while True:
                pass
    except ExecutionTimeout:
        print("child: its own", flush=True)
    os._exit(0)
print("parent", flush=True)
"""
    )
    assert (ended.stderr, ended.returncode) == ("", 0)
    assert ended.stdout == "child: its own\nparent\n"


def test_a_fork_while_others_enter_and_leave_does_no_harm(run_program):
    ended = run_program(
        FORKING
        + """
stop = False

def busy():
    while not stop:
        with time_guard(100), mem_guard(1e12, check_interval=1):
            pass

threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(30):
    child = os.fork()
    if not child:
        try:
            with time_guard(0.01):
                while True:
                    pass
        except ExecutionTimeout:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
stop = True
for thread in threads:
    thread.join()
print("fine")
"""
    )
    assert (ended.stdout, ended.stderr) == ("fine\n", "")


def test_the_interpreter_ends_with_guards_active(run_program):
    ended = run_program("""
def forever():
    with time_guard(1000), mem_guard(1e12, check_interval=1):
        while True:
            time.sleep(0.001)

for _ in range(3):
    threading.Thread(target=forever, daemon=True).start()
guard = time_guard(1000)
guard.__enter__()
print("fine")
""")
    assert (ended.stdout, ended.stderr, ended.returncode) == ("fine\n", "", 0)


def test_a_thread_that_is_waited_for_at_the_end_is_still_guarded(run_program):
    ended = run_program("""
def slow():
    try:
        with time_guard(0.3):
            while True:
                time.sleep(0.001)
    except ExecutionTimeout:
        print("interrupted")

threading.Thread(target=slow).start()
""")
    assert (ended.stdout, ended.stderr, ended.returncode) == ("interrupted\n", "", 0)


def test_importing_guards_starts_no_thread_and_brings_nothing_slow(run_program):
    ended = run_program("""
import sys
print(threading.active_count(), {"dask", "numpy", "asyncio", "rich"} & set(sys.modules))
""")
    assert ended.stdout == "1 set()\n"
