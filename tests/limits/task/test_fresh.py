"""Calls in a process of their own."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing import shared_memory
from pathlib import Path

import cloudpickle
import pytest
from isolations import FRESH, WARM, nothing_goes_on, on_fresh
from processes import start_sleeping, until, written_pid

from dask_limits import exceptions
from dask_limits.limits import Limits, limit

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest


@on_fresh
def test_each_call_has_a_new_process(isolated):
    call = isolated(os.getpid)
    assert len({call() for _ in range(3)} | {os.getpid()}) == 4


@on_fresh
def test_arguments_and_values_of_any_size_come_through(isolated):
    block = os.urandom(1000) * 1000
    assert isolated(lambda b: b[::-1])(block) == block[::-1]
    assert isolated(lambda **kw: kw)(a=1) == {"a": 1}


@on_fresh
@pytest.mark.parametrize(
    ("end", "kind", "code"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), exceptions.CrashError, -9),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), exceptions.CrashError, -15),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), exceptions.CrashError, -11),
        (lambda: os._exit(7), exceptions.ExitError, 7),
        (lambda: os._exit(0), exceptions.ExitError, 0),
    ],
    ids=["SIGKILL", "SIGTERM", "SIGSEGV", "exit 7", "exit 0"],
)
def test_how_its_process_ended_is_told_as_anywhere_else(isolated, end, kind, code):
    outcome = isolated(end, wall_time=50).run()
    assert type(outcome.exception) is kind
    assert outcome.usage.exit_code == code


def test_an_exception_has_the_functions_own_traceback_and_nothing_of_ours():
    def fail():
        raise KeyError("no")

    error = FRESH(fail).run().exception
    assert type(error) is KeyError
    assert 'raise KeyError("no")' in str(error.__cause__)
    assert "pynisher" not in str(error.__cause__)


def test_a_context_can_be_one_of_multiprocessing():
    context = multiprocessing.get_context("spawn")
    assert limit(abs, isolation="fresh", context=context)(-1) == 1
    assert Limits(isolation="fresh", context=context).context == "spawn"


def test_when_its_process_is_killed_the_call_is_told_so(tmp_path):
    outcomes = []
    call = FRESH(start_sleeping, wall_time=50)
    for _ in range(3):
        (tmp_path / "pid").unlink(missing_ok=True)
        thread = threading.Thread(target=lambda: outcomes.append(call.run(tmp_path / "pid")))
        thread.start()
        os.kill(written_pid(tmp_path / "pid"), signal.SIGKILL)
        thread.join()
        assert type(outcomes[-1].exception) is exceptions.CrashError
        assert "did not send" in str(outcomes[-1].exception)
    assert FRESH(abs)(-1) == 1


def test_when_its_process_is_killed_at_any_moment_there_is_an_answer_or_an_error():
    def die_soon(delay):
        pid = os.getpid()
        if os.fork() == 0:
            time.sleep(delay)
            os.kill(pid, signal.SIGKILL)
            os._exit(0)
        time.sleep(0.01)
        return "done"

    call = FRESH(die_soon, wall_time=20)
    for n in range(60):
        outcome = call.run(0.008 + n % 20 * 0.0003)
        if not outcome.ok:
            assert isinstance(outcome.exception, exceptions.CrashError)
        assert FRESH(abs, wall_time=20)(-1) == 1
    nothing_goes_on()


def test_memory_that_a_call_shares_by_name_works_and_goes():
    def share():
        block = shared_memory.SharedMemory(create=True, size=1000)
        block.buf[0] = 1
        name = block.name
        block.close()
        block.unlink()
        return name

    name = FRESH(share, wall_time=20)()
    assert not Path("/dev/shm", name).exists()
    assert FRESH(abs)(-1) == 1


def test_many_calls_in_one_task_process_leave_no_file_open_there():
    def state():
        return os.getpid(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    FRESH(abs)(-1)
    before = WARM(state, wall_time=20)()
    for n in range(50):
        assert FRESH(len, wall_time=20, grace_period=n % 2)(bytes(100_000)) == 100_000
        FRESH(print, capture_output=True)("x")
    after = WARM(state, wall_time=20)()
    assert after == before


def test_a_fresh_process_is_gone_when_its_call_is_over(tmp_path):
    pid = FRESH(os.getpid)()
    until(lambda: not Path("/proc", str(pid)).exists())
