"""SIGTERM while a scheduler runs: batch systems send it before they kill a job."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from dask_limits import Scheduler

PROGRAM = """
import os, signal, sys, time
from dask_limits import Scheduler

if __name__ == "__main__":
    scheduler = Scheduler.with_processes(1)
    scheduler.on_start(lambda: scheduler.submit(time.sleep, 600))
    scheduler.on_start(lambda: scheduler.call_later(0.2, os.kill, os.getpid(), signal.SIGTERM))
    scheduler.on_future_cancelled(lambda future: print("cancelled"))

    @scheduler.on_finished
    def again():
        print("finished")
        os.kill(os.getpid(), signal.SIGTERM)  # a batch system may send it twice

    try:
        scheduler.run()
    finally:
        print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""


@pytest.fixture(autouse=True)
def default_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


def test_sigterm_ends_all_calls_as_ctrl_c_does_and_the_program_with_143():
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert said.stderr == ""
    assert said.stdout.split() == ["cancelled", "finished", "True"]
    assert said.returncode == 143


def test_a_handler_of_the_users_own_is_left_alone():
    received = []
    before = signal.signal(signal.SIGTERM, lambda *_: received.append("mine"))
    try:
        scheduler = Scheduler.with_sequential()
        scheduler.on_start(lambda: os.kill(os.getpid(), signal.SIGTERM))
        scheduler.run()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == ["mine"]


def test_a_handler_that_a_callback_sets_stays():
    def mine(*_):
        pass

    before = signal.getsignal(signal.SIGTERM)
    try:
        scheduler = Scheduler.with_sequential()
        scheduler.on_start(lambda: signal.signal(signal.SIGTERM, mine) and None)
        scheduler.run()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_in_another_thread_sets_no_handler():
    handlers = []
    scheduler = Scheduler.with_sequential()
    scheduler.on_start(lambda: handlers.append(signal.getsignal(signal.SIGTERM)))
    thread = threading.Thread(target=scheduler.run)
    thread.start()
    thread.join()
    assert handlers == [signal.SIG_DFL]


def test_a_run_in_a_callback_of_another_one_leaves_its_handler():
    outer, inner = Scheduler.with_sequential(), Scheduler.with_sequential()
    outer.on_start(lambda: inner.run() and None)
    outer.on_start(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit):
        outer.run()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # a fork of a process with threads
@pytest.mark.parametrize("in_thread", [False, True])
def test_sigterm_ends_a_fork_of_the_process_as_always(in_thread):
    scheduler = Scheduler.with_threads(1)
    codes = []

    def fork():
        if (child := os.fork()) == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    scheduler.on_start((lambda: scheduler.submit(fork) and None) if in_thread else fork)
    scheduler.run()
    assert codes == [-signal.SIGTERM]


def test_sigterm_while_a_callback_runs_ends_the_run():
    scheduler = Scheduler.with_sequential()
    scheduler.on_start(lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        scheduler.run()
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


class Swallows:
    """An object whose `__del__` gets the signal."""

    def __del__(self):
        terminate()


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


def swallow():
    with contextlib.suppress(BaseException):
        terminate()


def swallow_three():
    """Each one raises, as nothing ends the run before."""
    for _ in range(3):
        with pytest.raises(SystemExit):
            terminate()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "callback", [swallow, swallow_three, lambda: Swallows() and None, lambda: inner(swallow)]
)
@pytest.mark.parametrize("goes_on", [True, False])
def test_sigterm_ends_the_run_after_a_callback_that_swallows_it(callback, goes_on):
    scheduler = Scheduler.with_threads(1)
    ended, cancelled = threading.Event(), []
    if goes_on:
        scheduler.on_start(lambda: [scheduler.submit(ended.wait, 60) for _ in range(2)] and None)
        scheduler.on_start(lambda: scheduler.call_later(60, ended.set) and None)
    scheduler.on_start(callback)
    scheduler.on_future_cancelled(lambda _: cancelled.append(ended.set()))
    try:
        with pytest.raises(SystemExit) as error:
            scheduler.run()
    finally:
        ended.set()
    assert error.value.code == 143
    assert len(cancelled) == 2 * goes_on
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def inner(callback):
    """Run a scheduler with this callback, in a callback that swallows what it raises."""
    scheduler = Scheduler.with_sequential()
    scheduler.on_start(callback)
    with contextlib.suppress(BaseException):
        scheduler.run()


def test_further_ones_interrupt_neither_a_finally_nor_the_end_of_the_run():
    told = []

    def callback():
        try:
            terminate()
        finally:
            terminate()
            with contextlib.suppress(KeyError):
                try:
                    {}["a"]
                finally:
                    terminate()
            told.append("finally")

    scheduler = Scheduler.with_sequential()
    scheduler.on_start(callback)
    scheduler.on_finishing(terminate)
    scheduler.on_finishing(lambda: told.append("finishing"))
    scheduler.on_finished(terminate)
    scheduler.on_finished(lambda: told.append("finished"))
    with pytest.raises(SystemExit):
        scheduler.run()
    assert told == ["finally", "finishing", "finished"]


def test_sigterm_of_one_run_does_not_end_the_next():
    first, second = Scheduler.with_sequential(), Scheduler.with_sequential()
    first.on_start(swallow)
    with pytest.raises(SystemExit):
        first.run()
    ends = []
    second.on_start(lambda: second.submit(pow, 2, 3) and None)
    second.on_finished(lambda: ends.append("finished"))
    second.run()
    assert ends == ["finished"]
