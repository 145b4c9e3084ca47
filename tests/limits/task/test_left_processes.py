"""What a call has left is gone when its outcome is there, so the next one has its room."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

from isolations import on_processes
from processes import alive

from dask_limits.limits import limit


def leave_a_child():
    pid = os.fork()
    if pid == 0:
        held = b"x" * 2**28
        time.sleep(600 + len(held))
        os._exit(0)
    return [pid]


def leave_a_grandchild():
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if (pid := os.fork()) == 0:
            time.sleep(600)
        os.write(write_end, str(pid).encode())
        os._exit(0)
    return [int(os.read(read_end, 100))]


def leave_a_child_and_mind_its_end():
    def raises(*_):
        raise RuntimeError("this handler is the call's")

    signal.signal(signal.SIGCHLD, raises)
    return leave_a_child()


@on_processes
def test_what_a_call_has_left_is_gone_when_it_is_done(isolated):
    for leave in (leave_a_child, leave_a_grandchild, leave_a_child_and_mind_its_end):
        for _ in range(3):
            pids = isolated(leave, wall_time=60)()
            assert not any(map(alive, pids))
    assert isolated(abs, wall_time=60)(-1) == 1


@on_processes
def test_pools_that_are_left_are_ended_without_a_word(isolated):
    program = textwrap.dedent(
        f"""
        from dask_limits.limits import limit

        def leave():
            import joblib, multiprocessing
            from concurrent.futures import ProcessPoolExecutor
            joblib.Parallel(n_jobs=2)(joblib.delayed(abs)(n) for n in range(3))
            left.append(multiprocessing.Pool(2))
            left.append(ProcessPoolExecutor(2))
            left[1].submit(abs, 1).result()
            return 3

        left = []
        assert limit(leave, wall_time=60, isolation={isolated.name!r})() == 3
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_a_call_that_leaves_nothing_keeps_its_process():
    def run_a_program():
        subprocess.run(["true"], check=True)
        return os.getpid()

    call = limit(run_a_program, wall_time=60, isolation="warm")
    assert call() == call()
