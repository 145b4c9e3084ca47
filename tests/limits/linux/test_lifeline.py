"""A process of a pool ends with the program that has started it, also if that is killed."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import psutil
import pytest
from processes import all_gone, until, written_pid

from dask_limits.executors.wrapped import WrappedExecutor

METHODS = ["fork", "spawn", "forkserver"]


@contextmanager
def program(tmp_path, method, text):
    """Run a program with an executor over a pool; it calls `start_sleeping`."""
    path = tmp_path / "program.py"
    before = textwrap.dedent(
        f"""
        import sys, time
        sys.path[:] = {sys.path!r}
        if __name__ == "__main__":
            import os
            from concurrent.futures import ProcessPoolExecutor
            from multiprocessing import get_context
            from pathlib import Path
            from dask_limits import Scheduler, limit
            from dask_limits.executors.wrapped import WrappedExecutor
            from processes import start_sleeping
            pool = ProcessPoolExecutor(1, mp_context=get_context({method!r}))
            executor, note = WrappedExecutor(pool), Path({str(tmp_path / "note")!r})
        """
    )
    path.write_text(before + textwrap.indent(textwrap.dedent(text), "    "))
    with psutil.Popen([sys.executable, path]) as running:
        try:
            yield running
        finally:
            running.kill()


@pytest.mark.parametrize("method", METHODS)
def test_a_call_without_limits_ends_when_its_program_is_killed(tmp_path, method):
    with program(tmp_path, method, "executor.submit(start_sleeping, note, 600)") as driver:
        below = {written_pid(tmp_path / "note")} | {p.pid for p in driver.children(recursive=True)}
        driver.kill()
    all_gone(below)


def test_a_call_ends_when_its_program_is_killed_though_a_fork_of_that_goes_on(tmp_path):
    text = """
    executor.submit(start_sleeping, note, 600)
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
    """
    with program(tmp_path, "spawn", text) as driver:
        pid = written_pid(tmp_path / "note")
        until(lambda: len(driver.children()) > 1)
        forks = [p for p in driver.children() if p.cmdline() == driver.cmdline()]
        driver.kill()
    all_gone({pid})
    for fork in forks:
        fork.kill()


def test_a_process_whose_program_has_ended_before_ends_too(tmp_path):
    text = """
    import multiprocessing
    from dask_limits.limits.linux import lifeline
    from processes import until
    program, pid = lifeline.of_this_process(), os.getpid()
    def begin_late():
        note.write_text(f"{os.getpid()}\\n")
        until(lambda: os.getppid() != pid)
        lifeline.end_with(program)
        note.unlink()
    multiprocessing.get_context("fork").Process(target=begin_late).start()
    """
    with program(tmp_path, "fork", text) as driver:
        pid = written_pid(tmp_path / "note")
        driver.kill()
    all_gone({pid})
    assert (tmp_path / "note").exists()


def test_a_pool_outlives_the_thread_that_has_started_it():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        executor = WrappedExecutor(pool)
        thread = threading.Thread(target=lambda: executor.submit(abs, -1).result())
        thread.start()
        thread.join()
        time.sleep(0.1)
        assert executor.submit(abs, -2).result() == 2


def test_a_process_that_others_have_started_goes_on(tmp_path):
    code = textwrap.dedent(
        """
        import sys
        from dask_limits.limits.linux.lifeline import Lifeline, end_with
        for line in sys.stdin:
            pid, fd, pipe = line.split()
            end_with(Lifeline(int(pid), int(fd), pipe))
            print("tied", flush=True)
        """
    )
    program = "from dask_limits.limits.linux import lifeline; print(*lifeline.of_this_process())"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
        for _ in range(2):
            other.stdin.write(done.stdout.decode())
            other.stdin.flush()
            assert other.stdout.readline() == "tied\n"
        other.stdin.close()
        assert other.wait() == 0
