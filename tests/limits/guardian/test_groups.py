"""Where this user may make control groups, what no look at processes finds is counted, and ends."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import cloudpickle
import pytest
from our_processes import guardian_process
from processes import start_sleeping, until, written_pid
from required import needs

from dask_limits import exceptions
from dask_limits.limits import CancelToken, Limits
from dask_limits.limits.linux import cgroup

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

OWN = cgroup.own_folder()
pytestmark = needs(OWN and cgroup.is_writable(OWN), "a cgroup v2 that can be written to")


def group_of(pid):
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return Path(OWN, next(line[3:] for line in lines if line.startswith("0::")).lstrip("/"))


def groups_of(guardian):
    return Path(OWN).glob(f"dask-limits-{guardian._connection.pid}-*")


def use_cpu_time_in_processes_that_nobody_waits_for():
    """Each takes 3 ms, and its parent is not the call's process. Ends after 60 s."""
    if os.fork():
        os.wait()
        return
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while time.process_time() < 60:
        if os.fork() == 0:
            end = time.process_time() + 0.003
            while time.process_time() < end:
                pass
            os._exit(0)
        try:
            os.wait()  # until there is none
        except ChildProcessError:
            pass


def sleep_beside_a_child(pid_file):
    with subprocess.Popen(["sleep", "600"]):
        start_sleeping(pid_file, 600)


@pytest.fixture
def long_call(guardian, tmp_path):
    """A call that runs until its token is cancelled: the pid of its process, and the token."""
    token, pid_file = CancelToken(), tmp_path / "pid"
    run = partial(guardian.run, sleep_beside_a_child, (pid_file,), {}, cancel=token)
    thread = threading.Thread(target=run)
    thread.start()
    pid = written_pid(pid_file)
    until(lambda: group_of(pid).name == str(pid))
    yield pid, token
    token.cancel()
    thread.join()


def test_cpu_time_of_processes_that_nobody_waits_for_counts(guardian):
    fn = use_cpu_time_in_processes_that_nobody_waits_for
    outcome = guardian.run(fn, (), {}, Limits(cpu_time=3, wall_time=80))
    assert isinstance(outcome.exception, exceptions.CpuTimeBreach)
    assert outcome.usage.cpu_time >= 3


@pytest.mark.parametrize("isolation", ["warm", "fresh"])
def test_cpu_time_that_is_seen_does_not_count_twice(guardian, isolation):
    def spin(seconds):
        if os.fork() == 0:
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass
            os._exit(0)
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass
        os.wait()
        subprocess.run(["sleep", "4"], check=True)  # it gets a group, if it has none

    for _ in range(2):
        outcome = guardian.run(spin, (0.5,), {}, Limits(cpu_time=60, isolation=isolation))
        assert outcome.ok
        assert 0.9 < outcome.usage.cpu_time < 1.5


def test_what_is_in_the_group_of_a_call_ends_with_it(long_call):
    """Whatever has put it there: this one is not below any process of ours."""
    pid, token = long_call
    hidden = subprocess.Popen(["sleep", "600"])
    try:
        (group_of(pid) / "cgroup.procs").write_text(str(hidden.pid))
        token.cancel()
        assert hidden.wait(60) == -signal.SIGKILL
    finally:
        hidden.kill()
        hidden.wait()


def test_groups_go_with_their_processes_and_with_the_guardian(guardian, long_call):
    pid, token = long_call
    group = group_of(pid)
    assert list(groups_of(guardian)) == [group.parent]
    (group / "of its own" / "below").mkdir(parents=True)
    token.cancel()
    until(lambda: not group.exists())
    guardian.close()
    assert not group.parent.exists()


@pytest.mark.parametrize("which", ["guardian", "reaper"])
def test_groups_go_whichever_process_is_killed(guardian, long_call, which):
    pid, _ = long_call
    group = group_of(pid)
    watching = guardian_process(guardian)
    os.kill(watching.pid if which == "guardian" else guardian._connection.pid, signal.SIGKILL)
    until(lambda: not group.parent.exists())


def test_groups_that_both_have_left_go_with_the_next_guardian(guardian):
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = Path(OWN, f"dask-limits-{ended.pid}-abcdef")
    (left / "1" / f"dask-limits-{ended.pid}-fedcba" / "2").mkdir(parents=True)
    guardian.run(os.getpid, (), {}).result()
    assert not left.exists()
