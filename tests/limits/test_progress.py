"""`progress()` restarts the wall clock of the call that runs."""

import os
import sys
import threading
import time

import cloudpickle
import pytest
from isolations import EACH, FORKSERVER, SPAWN, on_all, on_each, on_processes

from dask_limits import exceptions
from dask_limits.limits import progress

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest


STEP_S = 3.0
"""What a step of 0.1 s may take at most, on a busy machine."""


def walk(steps):
    for _ in range(steps):
        time.sleep(0.1)
        progress()
    return "arrived"


@pytest.mark.parametrize("isolated", [*EACH, SPAWN, FORKSERVER], ids=str)
def test_a_call_that_gets_on_may_take_longer_than_its_limit(isolated):
    outcome = isolated(walk, wall_time=STEP_S).run(35)
    assert outcome.result() == "arrived"
    assert outcome.usage.wall_time > 1.1 * STEP_S


@on_each()
def test_a_call_that_gets_on_no_more_is_over_its_limit(isolated):
    def stop():
        walk(3)
        while True:
            time.sleep(0.01)

    error = isolated(stop, wall_time=STEP_S).run().exception
    assert isinstance(error, exceptions.WallTimeBreach)
    assert error.usage.wall_time > STEP_S + 0.3


@on_each()
def test_a_step_that_took_too_long_is_a_breach_even_if_others_did_not(isolated):
    def stumble():
        for _ in range(30):  # in a thread, an interrupt comes between two of these
            time.sleep(0.03)
        progress()

    error = isolated(stumble, wall_time=0.4).run().exception
    assert isinstance(error, exceptions.WallTimeBreach)


@on_each("children")
def test_threads_of_a_call_can_say_that_it_gets_on(isolated):
    def work():
        thread = threading.Thread(target=walk, args=(35,))
        thread.start()
        thread.join()
        return "arrived"

    assert isolated(work, wall_time=STEP_S)() == "arrived"


@on_each("children")
def test_forked_children_of_a_call_can_say_that_it_gets_on(isolated):
    def work():
        pid = os.fork()
        if pid == 0:
            walk(35)
            os._exit(0)
        os.waitpid(pid, 0)
        return "arrived"

    assert isolated(work, wall_time=STEP_S)() == "arrived"


@on_processes
def test_it_does_not_restart_the_clock_of_cpu_time(isolated):
    def spin():
        while True:
            progress()

    error = isolated(spin, cpu_time=0.3, wall_time=5).run().exception
    assert isinstance(error, exceptions.CpuTimeBreach)


@on_all
def test_the_next_call_has_a_clock_of_its_own(isolated):
    isolated(walk, wall_time=5)(3)

    def wait():
        while True:
            time.sleep(0.01)

    assert isinstance(isolated(wait, wall_time=0.2).run().exception, exceptions.WallTimeBreach)


def test_where_nothing_is_limited_it_does_nothing():
    assert progress() is None
