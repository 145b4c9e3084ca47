"""Calls have what a new child of their owner would have, whatever the owner has changed."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import for_everyone
import psutil
import pytest
from isolations import on_processes
from processes import until
from required import need_root

from dask_limits.limits import limit
from dask_limits.limits.owner.guardian import Guardian, default_guardian
from dask_limits.limits.owner.inherited import Inherited

CHANGES = {
    "change_ids": [0, 1, 2, 3, 4],
    "drop_a_capability": [0, 21],
    "enter_a_namespace": [0, 1, 2, 3, 4, 5],
    "change_root": [0],
    "prctls": [0, 3, 6, 9, 11, 12, 13],
    "lower_a_limit": [0, 4, 33, 38, 39],
    "umask": [7],
    "affinity": [0],
    "nice": [1],
    "change_scheduling": [0, 1, 2, 3, 4, 5],
    "change_scheduling_in_c": [0, 1],
    "change_io_priority": [0],
    "change_memory_policy": [0],
    "change_personality": [0, 1],
    "write_about_itself": [0, 1, 3, 5],
    "change_a_handler": [69, 71, 73],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_call_inherits_what_its_owner_has_changed_as_a_child_does(change, run_for_everyone):
    program = Path(for_everyone.__file__).with_name("changed_owner.py")
    assert run_for_everyone(program, change, str(CHANGES[change]), "{}") == ""


@on_processes
def test_calls_of_an_owner_that_is_no_longer_root_are_not_root(isolated, run_for_everyone):
    program = f"""
        import os, psutil, time
        from dask_limits.limits import limit
        from dask_limits.limits.owner.guardian import default_guardian
        def attempt():
            try:
                os.setuid(0)
            except PermissionError:
                pass
            return os.getresuid(), os.getresgid(), os.getgroups()
        who = limit(attempt, wall_time=60, **{isolated.options})
        assert who() == ((0, 0, 0), (0, 0, 0), os.getgroups())
        before = psutil.Process(default_guardian()._connection.pid)
        processes = [before, *before.children(recursive=True)]
        os.setgroups([])
        os.setresgid(65534, 65534, 65534)
        os.setresuid(65534, 65534, 65534)
        assert who() == ((65534,) * 3, (65534,) * 3, [])
        assert not before.is_running() or before.status() == "zombie"
        psutil.wait_procs(processes, timeout=60)
        assert not any(process.is_running() for process in processes)
        assert "went over" in str(limit(time.sleep, wall_time=0.1).run(60).exception)
        default_guardian().close()
        print("done")
    """
    assert run_for_everyone("-c", textwrap.dedent(program)) == "done\n"


def test_an_owner_whose_new_user_may_not_run_its_interpreter_is_told_so(tmp_path):
    need_root()
    interpreter = tmp_path / "closed" / "python"
    interpreter.parent.mkdir(mode=0o700)
    interpreter.symlink_to(sys.executable)
    program = f"""
        import os, sys
        from dask_limits.limits import limit
        assert limit(abs, wall_time=60)(-1) == 1
        sys.executable = {str(interpreter)!r}
        os.setresuid(65534, 65534, 65534)
        print(limit(abs, wall_time=60).run(-1).exception)
    """
    told = subprocess.check_output([sys.executable, "-c", textwrap.dedent(program)], text=True)
    assert "abs() could not be started" in told
    assert "Permission denied" in told


def test_a_call_that_runs_is_ended_by_no_change_and_the_old_guardian_goes_with_it(tmp_path):
    program = """
        import os, sys, time, threading
        from pathlib import Path
        from dask_limits.limits import limit
        from dask_limits.limits.owner.guardian import default_guardian
        def run(folder):
            (folder / "begun").touch()
            while not (folder / "go_on").exists():
                time.sleep(0.01)
            return os.getpriority(os.PRIO_PROCESS, 0)
        folder, found = Path(sys.argv[1]), []
        long = limit(run, wall_time=60)
        thread = threading.Thread(target=lambda: found.append(long(folder)))
        thread.start()
        while not (folder / "begun").exists():
            time.sleep(0.01)
        old = default_guardian()._connection
        before = os.nice(0)
        os.nice(2)
        assert limit(os.getpriority, wall_time=60)(os.PRIO_PROCESS, 0) == before + 2
        assert default_guardian()._connection is not old and not old.closed
        (folder / "go_on").touch()
        thread.join()
        assert found == [before]
        assert old.closed and not os.path.exists(f"/proc/{old.pid}")
        assert default_guardian()._retired == []
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path)]
    subprocess.run(command, check=True, timeout=100)


@on_processes
def test_umask_and_affinity_go_along_without_a_new_guardian(isolated):
    def look():
        os.umask(before := os.umask(0))
        return before, os.sched_getaffinity(0)

    processors, umask = os.sched_getaffinity(0), os.umask(0o123)
    call = isolated(look, wall_time=60)
    try:
        assert call() == (0o123, processors)
        connection = default_guardian()._connection
        os.umask(0o77)
        os.sched_setaffinity(0, [min(processors)])
        assert call() == (0o77, {min(processors)})
        assert default_guardian()._connection is connection
    finally:
        os.umask(umask)
        os.sched_setaffinity(0, processors)


def test_each_thread_has_its_own_calls_with_its_own_affinity():
    processors = sorted(os.sched_getaffinity(0))
    found = {}

    def run(processor):
        os.sched_setaffinity(0, [processor])
        found[processor] = [limit(os.sched_getaffinity, wall_time=60)(0) for _ in range(20)]

    threads = [threading.Thread(target=run, args=(processor,)) for processor in processors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {processor: [{processor}] * 20 for processor in processors}


@on_processes
def test_what_calls_print_goes_where_their_owner_prints_now(isolated, tmp_path):
    program = f"""
        import os, sys
        from dask_limits.limits import limit
        call = limit(os.write, wall_time=60, **{isolated.options})
        call(1, b"first ")
        os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), 1)
        call(1, b"then")
    """
    command = [sys.executable, "-c", textwrap.dedent(program), str(tmp_path / "then")]
    assert subprocess.check_output(command, timeout=100) == b"first "
    assert (tmp_path / "then").read_text() == "then"


def test_an_owner_that_changes_nothing_keeps_its_guardian():
    with Guardian() as guardian:
        assert guardian.run(abs, (-1,), {}).ok
        connection = guardian._connection
        for _ in range(100):
            guardian.run(abs, (-1,), {})
        threading.Thread(target=time.sleep, args=(0.01,)).start()
        subprocess.run(["true"], check=True)
        assert guardian.run(abs, (-1,), {}).ok
        assert guardian._connection is connection


def test_a_program_that_runs_by_system_changes_nothing(tmp_path):
    """system(3) ignores SIGINT and SIGQUIT meanwhile."""
    begun, go_on = tmp_path / "begun", tmp_path / "go_on"
    program = f"touch {begun}; while [ ! -e {go_on} ]; do sleep 0.01; done"
    with Guardian() as guardian, ThreadPoolExecutor(1) as threads, contextlib.ExitStack() as last:
        last.callback(go_on.touch)
        assert guardian.run(abs, (-1,), {}).ok
        before = guardian._connection
        ended = threads.submit(os.system, program)
        until(begun.exists)
        assert guardian.run(signal.getsignal, (signal.SIGQUIT,), {}).value == signal.SIG_DFL
        assert guardian._connection is before
        guardian.close()
        assert guardian.run(signal.getsignal, (signal.SIGQUIT,), {}).value == signal.SIG_DFL
        meanwhile = guardian._connection
        go_on.touch()
        assert ended.result() == 0
        assert guardian.run(abs, (-1,), {}).ok
        assert guardian._connection is meanwhile


def test_nothing_has_changed_for_another_thread():
    inherited, found = Inherited(), []
    thread = threading.Thread(target=lambda: found.append(inherited.has_changed()))
    thread.start()
    thread.join()
    inherited.close()
    assert found == [False]
    assert inherited.has_changed()


def test_what_has_changed_is_seen_by_each_look_until_it_is_as_before():
    inherited = Inherited()
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    assert [inherited.has_changed() for _ in range(3)] == [True] * 3
    signal.signal(signal.SIGUSR1, before)
    assert [inherited.has_changed() for _ in range(3)] == [False] * 3
    inherited.close()


def test_threads_that_differ_refuse_each_other_no_calls():
    def call_niced(nice):
        os.nice(nice)  # of this thread alone
        return [guardian.run(os.nice, (0,), {}).exception for _ in range(4)]

    with Guardian() as guardian, ThreadPoolExecutor(3) as pool:
        for exceptions in pool.map(call_niced, range(3)):
            assert exceptions == [None] * 4


def test_threads_that_come_and_go_look_by_one_file():
    inherited = Inherited()
    seen = []

    def look():
        seen.extend(inherited.has_changed() for _ in range(3))

    def look_in_turn():
        for _ in range(20):
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()

    look_in_turn()
    before = psutil.Process().num_fds()
    look_in_turn()
    assert psutil.Process().num_fds() == before
    assert not any(seen)
    inherited.close()
