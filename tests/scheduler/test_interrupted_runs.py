"""Runs that are interrupted: by Ctrl-C, by handlers of signals, and by forks."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
from lines import at_line

from dask_limits import ExitState, Scheduler

Code = ExitState.Code


def interrupt():
    raise KeyboardInterrupt


def test_ctrl_c_at_any_line_of_a_run_ends_it_and_leaves_nothing():
    for n in itertools.count(1):
        scheduler = Scheduler.with_threads(1)
        task = scheduler.task(abs)

        @scheduler.on_start
        def begin(task=task, scheduler=scheduler):
            task.submit(-1)
            scheduler.call_later(0, print, end="")

        try:
            reached = at_line(n, interrupt, scheduler.run, "scheduler", "executors", "future.py")
            assert not reached, f"Ctrl-C at line {n} was lost"
            break
        except KeyboardInterrupt:
            pass
        if (executor := scheduler.executor) is not None:
            with pytest.raises(RuntimeError, match="shut down"):
                executor.submit(abs, -1)
        if n % 10 == 0:
            assert scheduler.run().code == Code.EXHAUSTED
    assert n > 200


@pytest.mark.parametrize("what", ["cancel", "stop", "submit"])
@pytest.mark.parametrize("executor", ["sequential", "threads"])  # processes take long for each line
def test_the_handler_of_a_signal_can_do_anything_at_any_line_of_a_run(executor, what):
    scheduler = getattr(Scheduler, f"with_{executor}")()
    futures = []

    def handle():
        if what == "cancel":
            for future in list(futures):
                future.cancel()
        elif what == "stop":
            scheduler.stop()
        elif scheduler.running():
            futures.append(scheduler.submit(abs, -1))

    @scheduler.on_start
    def begin():
        if scheduler.running():
            futures.append(scheduler.submit(abs, -1))
            futures[-1].cancel()

    @scheduler.on_empty(max_calls=1)
    def more():
        if scheduler.running():
            futures.append(scheduler.submit(abs, -1))

    options = {"on_cancelled": "continue", "on_exception": "continue", "timeout": 60}
    for n in itertools.count(1):
        futures.clear()
        states = []

        def run(states=states):
            states.append(scheduler.run(**options))

        if not at_line(n, handle, run, "scheduler", "executors", "future.py"):
            break
        assert states[0].code in (Code.EXHAUSTED, Code.STOPPED)
        assert all(future.done() for future in futures)
    assert n > 200


FORKS = """
import os, sys, threading, time
from dask_limits import Scheduler
from dask_limits.exceptions import SchedulerNotRunningError

program = os.getpid()
scheduler = Scheduler.with_threads(1)
children, forked = [], threading.Event()

def in_a_thread():
    try:
        scheduler.submit(abs, -1)
    except SchedulerNotRunningError:
        os._exit(3)

def submit():
    threading.Thread(target=in_a_thread).start()
    time.sleep(60)

def run():
    inner = Scheduler.with_processes(1)
    inner.on_start(lambda: inner.submit(abs, -1) and None)
    inner.run()
    os._exit(inner.event_counts["on_future_result"])

@scheduler.on_start
def begin():
    future = scheduler.submit(forked.wait, 60)
    for do in [sys.exit, lambda: None, submit, run]:
        children.append(os.fork())
        if children[-1] == 0:
            assert not scheduler.running()
            do()
            return
    assert not future.done()
    forked.set()

try:
    scheduler.run()
except RuntimeError as error:
    if "fork" in str(error):
        os._exit(5)
    raise
assert os.getpid() == program
print(scheduler.event_counts["on_future_result"])
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


def test_a_run_does_not_go_on_in_a_fork_of_its_process():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (said.stdout, said.stderr) == ("1\n[0, 5, 3, 1]\n", "")
