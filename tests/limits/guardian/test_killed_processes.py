"""Whichever of our processes is killed while calls run: nothing is left of these."""

from __future__ import annotations

import random
import subprocess
import sys
import textwrap
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest
from processes import until

SHARED = Path("/dev/shm")
N_CALLS = 3


@contextmanager
def owner(tmp_path, isolation, size=0):
    """A program whose calls have children of each kind; it, and what marks all that is its own."""
    mark = f"dask-limits-{uuid.uuid4().hex}"
    program = textwrap.dedent(
        f"""
        import os, subprocess, sys, threading, time
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context
        from multiprocessing.shared_memory import SharedMemory
        from dask_limits import limit

        def have_children(n):
            kept = bytearray({size})
            subprocess.Popen(["sleep", "600"])
            subprocess.Popen(["sleep", "600"], start_new_session=True)
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    time.sleep(600)
                os._exit(0)
            os.wait()
            memory = SharedMemory(f"{mark}-{{n}}", create=True, size=2**20)
            pool = ProcessPoolExecutor(2, get_context("spawn"))
            assert pool.submit(abs, -1).result() == 1
            open(f"ready-{{n}}", "x").close()
            time.sleep(600)

        call = limit(have_children, wall_time=600, isolation={isolation!r})
        for n in range({N_CALLS}):
            threading.Thread(target=call.run, args=(n,), daemon=True).start()
        sys.stdin.read()
        while not limit(abs, wall_time=60, isolation={isolation!r}).run(-1).ok:
            pass  # it can be in the hands of what is about to end
        """
    )
    with psutil.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"MARK": mark, "PYTHONPATH": ":".join(sys.path)},
        stdin=subprocess.PIPE,
    ) as running:
        try:
            until(lambda: len(list(tmp_path.glob("ready-*"))) == N_CALLS)
            yield running, mark
        finally:
            with suppress(psutil.NoSuchProcess):
                running.kill()


def ours_below(program):
    """Our processes below it, and their names. A spare may end meanwhile."""
    names = {}
    for process in program.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            names[process] = process.name()
    return {process: name for process, name in names.items() if name.startswith("limits-")}


def left(mark):
    """Processes with a mark in their environment, and shared memory with it in its name."""
    found = [path.name for path in SHARED.glob(f"{mark}*")]
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK") == mark:
                found.append(f"{process.pid} {process.name()}")
        except psutil.Error:
            continue
    return found


OURS = ["owner", "limits-reaper", "limits-guardian", "limits-template", "limits-task"]


@pytest.mark.parametrize("isolation", ["clean", "warm", "fresh"])
@pytest.mark.parametrize("name", OURS)
def test_nothing_is_left_when_one_of_our_processes_is_killed(tmp_path, name, isolation):
    with owner(tmp_path, isolation) as (program, mark):
        assert len(left(mark)) > N_CALLS
        below = ours_below(program)
        assert set(below.values()) <= set(OURS)
        named = [process for process, its in below.items() if its == name]
        if name == "owner":
            program.kill()
        else:
            random.choice(named).kill()
            program.communicate(b"")
            assert program.returncode == 0
    until(lambda: not left(mark), instead=lambda: left(mark))


def test_nothing_is_left_of_calls_whose_processes_take_long_to_end(tmp_path):
    """Their memory is given back before their children, trackers among them, are anyone else's."""
    with owner(tmp_path, "clean", size=2**30) as (program, mark):
        templates = [process for process, its in ours_below(program).items() if its == OURS[3]]
        for template in templates:
            template.kill()
        program.communicate(b"")
    until(lambda: not left(mark), instead=lambda: left(mark))
