"""Programs that were written for pynisher before its version 1 run with one import changed."""

from __future__ import annotations

import copy
import errno
import inspect
import logging
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import pytest
from processes import alive, start_sleeping, until, written_pid

from dask_limits.old_pynisher import enforce_limits as pynisher
from dask_limits.old_pynisher.enforce_limits import enforce_limits

# Importing this module takes time, in a task process too, and that counts as time of the call.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def nap(t):
    print(f"Sleeping for {t} seconds", flush=True)
    time.sleep(t)
    return t


@enforce_limits(wall_time_in_s=20)
def decorated(x: int = 3) -> int:
    """Says what it was given."""
    return x


class Holder:
    factor = 3

    @enforce_limits(wall_time_in_s=20)
    def method(self, x):
        return self.factor * x


def raise_(error):
    raise error


def kill_self(signum):
    signal.signal(signum, signal.SIG_DFL)  # shells have their background jobs ignore some
    os.kill(os.getpid(), signum)
    time.sleep(60)


def burn():
    while True:
        pass


def hog():
    hoard = []
    while True:
        hoard.append(bytearray(b"x") * 2**24)


def breed(n):
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(n)]
    time.sleep(60 if n > 1 else 0.1)
    for child in children:
        child.kill()
        child.wait()
    return n


# -- the programs of the document ------------------------------------------------------------


def test_a_decorated_function_returns_or_gives_none():
    @enforce_limits(wall_time_in_s=2)
    def my_function(t):
        time.sleep(t)
        return t

    assert [my_function(t) for t in (0, 0.1, 600)] == [0, 0.1, None]


def test_what_was_made_of_a_function_tells_how_its_call_ended():
    obj = enforce_limits(wall_time_in_s=2, capture_output=True)(nap)
    assert obj(0.1) == obj.result == 0.1
    assert (obj.exit_status, obj.exitcode, obj.stderr) == (0, 0, "")
    assert obj.stdout == "Sleeping for 0.1 seconds\n"
    assert obj.wall_clock_time >= 0.1

    assert obj(600) is None
    assert obj.result is None
    assert obj.exit_status is pynisher.TimeoutException
    assert obj.stdout == "Sleeping for 600 seconds\n"
    assert obj.wall_clock_time >= 2
    assert obj.exitcode == -signal.SIGKILL


def test_a_script_runs_with_one_import_changed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("""
import time
import dask_limits as pynisher

scale = 0.1

@pynisher.enforce_limits(wall_time_in_s=2)
def my_function(t):
    time.sleep(scale * t)
    return t

print([my_function(t) for t in (0, 1, 300)])
print(my_function.exit_status is pynisher.TimeoutException)

def fail(t):
    print("failing")
    raise ValueError(t)

obj = pynisher.enforce_limits(
    mem_in_mb=500, cpu_time_in_s=20, wall_time_in_s=20, num_processes=4,
    grace_period_in_s=1, logger=None, capture_output=True, context=None)(fail)
print(obj(3), obj.exit_status is pynisher.AnythingException, obj.exitcode, obj.stdout.strip())
print(obj.stderr.splitlines()[-1])
for name in ("CpuTimeoutException", "MemorylimitException", "SubprocessException",
             "PynisherError", "SignalException"):
    assert issubclass(getattr(pynisher, name), Exception)
""")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [
        "[0, 1, None]",
        "True",
        "None True 1 failing",
        "ValueError: 3",
    ]
    assert done.stderr == ""


# -- exit statuses ---------------------------------------------------------------------------


def test_cpu_time_has_its_exit_status():
    obj = enforce_limits(cpu_time_in_s=1, wall_time_in_s=50)(burn)
    assert obj() is None
    assert obj.exit_status is pynisher.CpuTimeoutException
    assert obj.resources_function.ru_utime >= 1


@pytest.mark.parametrize("function", [hog, lambda: raise_(MemoryError())])
def test_memory_has_its_exit_status(function):
    obj = enforce_limits(mem_in_mb=200)(function)
    assert obj() is None
    assert obj.exit_status is pynisher.MemorylimitException


def test_processes_have_their_exit_status():
    obj = enforce_limits(num_processes=2)(breed)
    assert (obj(1), obj.exit_status, obj.os_errno) == (1, 0, None)
    assert obj(2) is None
    assert obj.exit_status is pynisher.SubprocessException
    assert obj.os_errno == errno.EAGAIN  # as fork(2) says it
    for number in (0, 1):
        obj = enforce_limits(num_processes=number)(breed)
        obj(2)
        assert obj.exit_status is pynisher.SubprocessException


def test_an_os_error_of_the_function_has_its_number():
    obj = enforce_limits(wall_time_in_s=20)(open)
    assert obj("/nowhere") is None
    assert obj.exit_status is pynisher.SubprocessException
    assert (obj.os_errno, obj.exitcode) == (errno.ENOENT, 0)
    obj(os.devnull, "no mode")
    assert (obj.exit_status, obj.os_errno) == (pynisher.AnythingException, None)


@pytest.mark.parametrize(
    ("function", "args", "status", "exitcode"),
    [
        (kill_self, (signal.SIGQUIT,), pynisher.SignalException, -signal.SIGQUIT),
        (kill_self, (signal.SIGSEGV,), pynisher.AnythingException, -signal.SIGSEGV),
        (os._exit, (7,), pynisher.AnythingException, 7),
        (sys.exit, (7,), pynisher.AnythingException, 7),
        (raise_, (LookupError("lost"),), pynisher.AnythingException, 1),
        (lambda: threading.Lock(), (), pynisher.AnythingException, 1),
        (abs, (threading.Lock(),), pynisher.AnythingException, 1),
    ],
)
@pytest.mark.parametrize("limits", [{}, {"wall_time_in_s": 20}], ids=["unlimited", "limited"])
def test_any_other_end_has_a_status_and_an_exit_code(
    limits, function, args, status, exitcode, capsys
):
    obj = enforce_limits(**limits)(function)
    assert obj(*args) is None
    assert (obj.exit_status, obj.exitcode) == (status, exitcode)
    assert obj.exception is not None


def test_an_exception_of_the_function_is_printed_as_any_that_is_not_caught(capfd):
    obj = enforce_limits(wall_time_in_s=20)(raise_)
    obj(LookupError("lost"))
    printed = capfd.readouterr().err
    assert "in raise_" in printed
    assert printed.endswith("LookupError: lost\n")
    assert obj.stderr is obj.stdout is None
    assert obj.exception.args == ("lost",)


def test_without_limits_the_function_still_runs_in_a_process_of_its_own():
    obj = enforce_limits()(os.getpid)
    assert obj() not in (None, os.getpid())


def test_a_guardian_that_is_killed_is_an_internal_error(tmp_path):
    import psutil

    def run():
        obj(tmp_path / "pid")

    obj = enforce_limits(wall_time_in_s=50)(start_sleeping)
    thread = threading.Thread(target=run)
    thread.start()
    process = psutil.Process(written_pid(tmp_path / "pid"))
    _template, guardian = process.parents()[:2]
    guardian.kill()
    thread.join()
    assert obj.exit_status is pynisher.PynisherError
    until(lambda: not alive(process.pid))


def test_what_it_tells_is_of_the_last_call_alone():
    obj = enforce_limits(wall_time_in_s=20)(raise_or_not)
    names = ["result", "exit_status", "exitcode", "os_errno", "stdout", "stderr", "exception"]
    names += ["wall_clock_time", "resources_function", "resources_pynisher"]
    assert {getattr(obj, name) for name in names} == {None}
    obj(OSError(5, "five"))
    assert obj.os_errno == 5
    assert obj("fine") == "fine"
    assert (obj.exit_status, obj.os_errno, obj.exception) == (0, None, None)
    assert obj.resources_pynisher.ru_maxrss > 0


def raise_or_not(what):
    return raise_(what) if isinstance(what, Exception) else what


# -- the grace period ------------------------------------------------------------------------


def ends_properly(log, call):
    try:
        call()
    except Exception as error:
        Path(log).write_text(type(error).__name__)
        return "in order"


@pytest.mark.parametrize(
    ("limits", "call"),
    [({"wall_time_in_s": 1}, lambda: time.sleep(60)), ({"cpu_time_in_s": 1}, burn)],
)
def test_in_its_grace_period_a_function_can_end_properly(tmp_path, limits, call):
    obj = enforce_limits(**limits, grace_period_in_s=20)(ends_properly)
    assert obj(str(tmp_path / "log"), call) == "in order"
    assert (obj.exit_status, obj.exitcode) == (0, 0)
    assert "Time" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("limits", "call", "status"),
    [
        ({"wall_time_in_s": 1}, lambda: time.sleep(60), pynisher.TimeoutException),
        ({"cpu_time_in_s": 1}, burn, pynisher.CpuTimeoutException),
    ],
)
def test_a_function_that_does_not_mind_the_warning_has_the_status_of_its_limit(
    limits, call, status
):
    obj = enforce_limits(**limits, grace_period_in_s=20)(call)
    assert obj() is None
    assert (obj.exit_status, obj.exitcode) == (status, 0)


def ignores(signum):
    signal.signal(signum, signal.SIG_IGN)
    burn()


@pytest.mark.parametrize(
    ("limits", "signum", "status"),
    [
        ({"wall_time_in_s": 1}, signal.SIGALRM, pynisher.TimeoutException),
        ({"cpu_time_in_s": 1}, signal.SIGXCPU, pynisher.CpuTimeoutException),
    ],
)
def test_a_function_that_ignores_the_signal_is_killed_after_its_grace_period(
    limits, signum, status
):
    obj = enforce_limits(**limits, grace_period_in_s=1)(ignores)
    assert obj(signum) is None
    assert (obj.exit_status, obj.exitcode) == (status, -signal.SIGKILL)
    assert obj.wall_clock_time >= 1.9


# -- output ----------------------------------------------------------------------------------


def prints_and_fails():
    print("out")
    print("err", file=sys.stderr)
    subprocess.run(["sh", "-c", "echo child out; echo child err >&2"], check=True)
    raise RuntimeError("in vain")


def test_what_is_printed_is_captured_with_the_traceback(capfd):
    obj = enforce_limits(wall_time_in_s=20, capture_output=True)(prints_and_fails)
    obj()
    assert obj.stdout.splitlines() == ["out", "child out"]
    assert obj.stderr.splitlines()[:2] == ["err", "child err"]
    assert obj.stderr.endswith("RuntimeError: in vain\n")
    assert capfd.readouterr() == ("", "")


# -- as a function ---------------------------------------------------------------------------


def test_a_decorated_function_keeps_what_is_known_of_it():
    assert decorated.__name__ == "decorated"
    assert decorated.__doc__ == "Says what it was given."
    assert decorated.__wrapped__ is decorated.func
    assert str(inspect.signature(decorated)) == "(x: 'int' = 3) -> 'int'"
    assert decorated() == 3
    assert decorated(x=5) == 5


@pytest.mark.parametrize("how", [pickle, cloudpickle])
def test_it_can_be_pickled(how):
    assert how.loads(how.dumps(decorated)) is decorated
    obj = enforce_limits(wall_time_in_s=20, capture_output=True)(nap)
    obj(0)
    other = how.loads(how.dumps(obj))
    assert other.exit_status is None
    assert other(0) == 0
    assert (other.stdout, other.limits) == (obj.stdout, obj.limits)


def test_it_can_be_copied_to_tell_of_another_call():
    obj = enforce_limits(wall_time_in_s=20)(raise_or_not)
    other = copy.copy(obj)
    obj(OSError(5, "five"))
    assert other("fine") == "fine"
    assert obj.os_errno == 5


def test_it_runs_in_the_workers_of_a_pool():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(decorated, [1, 2]) == [1, 2]


def test_methods_get_their_instance():
    holder = Holder()
    assert holder.method(4) == 12
    assert Holder.method.exit_status == holder.method.exit_status == 0


@enforce_limits(wall_time_in_s=20)
def countdown(n):
    return [n, *countdown(n - 1)] if n else [os.getpid()]


def test_it_can_be_nested_and_call_itself():
    assert countdown(2)[:2] == [2, 1]
    twice = enforce_limits(wall_time_in_s=500)(enforce_limits(wall_time_in_s=0.2)(time.sleep))
    assert twice(0.01) is None
    assert twice.exit_status == 0
    assert twice(600) is None  # it returned what the inner one did
    assert twice.exit_status == 0


def test_several_threads_each_have_their_own():
    objs = [enforce_limits(wall_time_in_s=30)(raise_or_not) for _ in range(8)]
    threads = [threading.Thread(target=obj, args=(n,)) for n, obj in enumerate(objs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [obj.result for obj in objs] == list(range(8))


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("as_name", [True, False])
def test_a_context_says_how_the_process_is_started(method, as_name):
    context = method if as_name else multiprocessing.get_context(method)
    obj = enforce_limits(wall_time_in_s=20, capture_output=True, context=context)(nap)
    assert obj(0.01) == 0.01
    assert obj.exit_status == 0
    assert "Sleeping" in obj.stdout
    obj = enforce_limits(wall_time_in_s=0.5, context=context)(nap)
    obj(60)
    assert obj.exit_status is pynisher.TimeoutException


# -- what it is given ------------------------------------------------------------------------


def test_the_logger_hears_of_limits_calls_and_ends(caplog):
    logger = logging.getLogger("of a script")
    with caplog.at_level(logging.DEBUG, "of a script"):
        enforce_limits(wall_time_in_s=20, logger=logger)(nap)(0)
    limits, call, end = [record.getMessage() for record in caplog.records]
    assert "wall_time=20" in limits
    assert "nap() with (0,), {}" in call
    assert "nap() ended" in end
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("mem_in_mb", 0, ValueError),
        ("mem_in_mb", "2 GB", TypeError),
        ("cpu_time_in_s", -1, ValueError),
        ("wall_time_in_s", float("nan"), ValueError),
        ("wall_time_in_s", True, TypeError),
        ("num_processes", -1, ValueError),
        ("num_processes", 1.5, TypeError),
        ("grace_period_in_s", -1, ValueError),
        ("context", "thread", ValueError),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(name, value, kind):
    with pytest.raises(kind, match=name):
        enforce_limits(**{name: value})


def test_arguments_come_in_the_order_that_they_always_had():
    by_place = enforce_limits(100, 1, 2, 3, 4, None, True, None).limits
    assert (
        by_place
        == enforce_limits(
            mem_in_mb=100,
            cpu_time_in_s=1,
            wall_time_in_s=2,
            num_processes=3,
            grace_period_in_s=4,
            capture_output=True,
        ).limits
    )
    assert (by_place.memory, by_place.wall_time) == (100 * 2**20, 2)


def test_more_memory_than_can_be_counted_is_as_good_as_no_limit():
    assert enforce_limits(mem_in_mb=10e24)(abs)(-3) == 3
    assert enforce_limits(grace_period_in_s=0).limits == enforce_limits().limits
