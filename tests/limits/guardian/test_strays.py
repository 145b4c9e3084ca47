"""Calls that put processes beside their own, where they are not below it."""

import ctypes
import os
import platform
import random
import sys
import threading
import time
from importlib import import_module

import cloudpickle
import psutil
import pytest
from isolations import nothing_goes_on, on_processes
from kinds import KINDS
from our_processes import templates
from overdoing import grow, spin, wait_on
from processes import alive, all_gone, until, written_pid
from required import needs

from dask_limits import exceptions
from dask_limits.limits import Limits
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.templates import Preload

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

CLONE_PARENT = 0x8000
SIGCHLD = 17
SYS_CLONE = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
PR_SET_CHILD_SUBREAPER = 36


def sibling():
    """As os.fork(), but the new process has the same parent as this one."""
    return ctypes.CDLL(None).syscall(SYS_CLONE, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0)


def twice_removed():
    """As os.fork(), but the new process has lost its parent, and this one adopts none."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    child = os.fork()
    if child == 0:
        if os.fork():
            os._exit(0)
        return 0
    os.waitpid(child, 0)
    return child


def below_a_sibling():
    """As os.fork(), but the new process is below one that has the same parent as this one."""
    child = sibling()
    if child == 0:
        if os.fork():
            time.sleep(600)
        return 0
    return child


def in_a_session_of_its_own():
    """As os.fork(), but the new process leads a session; it takes its time."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    child = os.fork()
    if child == 0:
        os.setsid()
        time.sleep(0.15)
        if os.fork():
            time.sleep(0.15)
            os._exit(0)
        time.sleep(0.3)
        return 0
    os.waitpid(child, 0)
    return child


needs_clone = needs(SYS_CLONE, "the number of clone(2), which is not known here")
WAYS = [
    twice_removed,
    in_a_session_of_its_own,
    *(pytest.param(away, marks=needs_clone) for away in (sibling, below_a_sibling)),
]
each_way = pytest.mark.parametrize("away", WAYS, ids=lambda away: away.__name__)


def over_elsewhere(away, kind):
    """Go over a limit in processes elsewhere."""
    over = {"wall_time": wait_on, "cpu_time": spin, "memory": grow, "num_processes": wait_on}[kind]
    while True:  # where no look came in time on a busy machine, nothing told whose they were
        ended, held = os.pipe()
        for _ in range(3 if kind == "num_processes" else 1):
            if away() == 0:
                over()
        os.close(held)
        os.read(ended, 1)  # until all are gone


@on_processes
@each_way
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_what_is_beside_a_call_counts_and_ends_with_it(isolated, kind, away):
    error = isolated(over_elsewhere, **kind.limits).run(away, kind.name).exception
    assert isinstance(error, kind.breach)
    assert isolated(abs, wall_time=30)(-1) == 1
    nothing_goes_on()


@needs_clone
def test_what_is_beside_a_call_ends_with_it_when_it_returns(tmp_path):
    """Even if the same process runs another call at once."""

    def leave(number):
        if sibling() == 0:
            (tmp_path / str(number)).write_text(f"{os.getpid()}\n")
            time.sleep(600)
        return os.getpid()

    limits = Limits(num_processes=2)
    with Guardian() as guardian:
        for n in range(20):
            outcome = guardian.run(leave, (n,), {}, limits)
            assert outcome.ok or isinstance(outcome.exception, exceptions.ProcessBreach)
        found = [path.read_text() for path in tmp_path.iterdir()]  # some had no time to write
        all_gone({int(text) for text in found if text})
        assert guardian.run(abs, (-1,), {}, limits).result() == 1


def detach_for_good(pid_file):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            pid_file.write_text(f"{os.getpid()}\n")
            time.sleep(600)
        os._exit(0)
    written_pid(pid_file)
    time.sleep(600)


def test_the_answer_comes_when_what_the_call_has_detached_is_gone(tmp_path):
    """At whatever moment that was found: before its process was known to have ended, or later."""
    with Guardian() as guardian:
        for n in range(60):
            path = tmp_path / str(n)
            outcome = guardian.run(detach_for_good, (path,), {}, Limits(wall_time=0.1))
            assert not outcome.ok
            assert not path.exists() or not alive(int(path.read_text() or 0))


def move_on(away, sessions):
    """Leave processes of which each lives for a moment only, and has another one go on."""
    for _ in range(8):
        if away() == 0:
            for _ in range(100):
                if sessions:
                    os.setsid()
                if away():
                    os._exit(0)
            time.sleep(600)
    time.sleep(0.05)


@on_processes
@each_way
@pytest.mark.parametrize("sessions", [False, True], ids=["one session", "many sessions"])
def test_what_moves_on_all_the_time_beside_a_call_ends_with_it(isolated, away, sessions):
    assert isolated(move_on, wall_time=60).run(away, sessions).ok
    assert isolated(abs, wall_time=30)(-1) == 1
    nothing_goes_on()


def burn_in_siblings():
    """Use CPU time in processes that end before anybody has seen them, or long before."""
    while True:
        if sibling() == 0:
            end = time.process_time() + random.choice([0.001, 0.03])
            while time.process_time() < end:
                pass
            os._exit(0)
        time.sleep(0.001)


@needs_clone
def test_cpu_time_of_siblings_counts_in_whatever_moment_they_end():
    with Guardian() as guardian:
        outcome = guardian.run(burn_in_siblings, (), {}, Limits(cpu_time=0.3, wall_time=60))
    assert isinstance(outcome.exception, exceptions.CpuTimeBreach)


def leave_no_trace(pid_file):
    """Detach a process so fast that hardly a look sees where it comes from."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            pid_file.write_text(f"{os.getpid()}\n")
            time.sleep(600)
        os._exit(0)
    os.waitpid(child, 0)
    time.sleep(0.1)


def test_what_nobody_can_be_charged_for_is_ended_and_harms_no_other_call(tmp_path):
    outcomes = []
    with Guardian() as guardian:
        bystander = threading.Thread(
            target=lambda: outcomes.append(guardian.run(time.sleep, (1,), {}, Limits(memory=2**30)))
        )
        bystander.start()
        for n in range(5):
            assert guardian.run(leave_no_trace, (tmp_path / str(n),), {}).ok
        found = [path.read_text() for path in tmp_path.iterdir()]  # some had no time to write
        all_gone({int(text) for text in found if text})
        bystander.join()
    assert outcomes[0].ok


# -- what is not a stray ---------------------------------------------------------------------


def children_here():
    return [child.pid for child in psutil.Process().children()]


def test_what_imports_have_started_is_each_process_s_own_and_ends_with_the_guardian(
    tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(tmp_path))
    started = tmp_path / "started"
    (tmp_path / "starts_programs.py").write_text(
        "import subprocess\n"
        "for apart in (False, True):\n"
        "    sleep = subprocess.Popen(['sleep', '600'], start_new_session=apart)\n"
        f"    with open({str(started)!r}, 'a') as file: print(sleep.pid, file=file)\n"
        "import time; time.sleep(0.1)\n"  # while the guardian looks around
    )
    with Guardian(preload=Preload.of(["starts_programs"]), max_calls_per_process=1) as guardian:
        seen = [set(guardian.run(children_here, (), {}).result()) for _ in range(3)]
        assert [len(pids) for pids in seen] == [2, 2, 2]
        assert len(set.union(*seen)) == 6
    all_gone(set(map(int, started.read_text().split())))


def put_many_beside():
    for _ in range(20):
        if sibling() == 0:
            os.setsid()
            time.sleep(0.05)
            os._exit(0)
        time.sleep(0.002)


@needs_clone
def test_spares_are_made_while_calls_put_processes_beside_theirs():
    """None is taken for a call's, at whatever moment a look finds it."""

    def another(n):
        def function():
            return n

        function.__qualname__ += str(n)  # so it has a process of its own
        return function

    errors = []

    def call_many():
        for n in range(100):
            errors.append(guardian.run(another(n), (), {}).exception)

    with Guardian() as guardian:
        threads = [threading.Thread(target=call_many) for _ in range(2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert guardian.run(put_many_beside, (), {}).ok
        for thread in threads:
            thread.join()
    assert errors == [None] * 200


@needs_clone
def test_a_template_that_is_replaced_ends_with_its_last_call_and_what_that_put_beside(tmp_path):
    def leave(path):
        if sibling() == 0:
            path.write_text(f"{os.getpid()}\n")
            time.sleep(600)
        written_pid(path)
        import_module("xmlrpc.client")  # which has a template made that imports it
        time.sleep(0.2)

    with Guardian() as guardian:
        for n in range(3):
            assert guardian.run(leave, (tmp_path / str(n),), {}).ok
        all_gone({written_pid(path) for path in tmp_path.iterdir()})
        until(lambda: len(templates(guardian)) <= 2)
        assert guardian.run(abs, (-1,), {}).ok
