"""What resource trackers know of goes with the call: semaphores, shared memory, folders."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
import textwrap
import time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import cloudpickle
import psutil
import pytest
from isolations import PROCESSES, SPAWN
from processes import all_gone, until

from dask_limits import exceptions
from dask_limits.limits import limit

cloudpickle.register_pickle_by_value(sys.modules[__name__])
KEPT = []  # by the process that runs a call
SHARED = Path("/dev/shm")


def with_joblib():
    """Give joblib's worker processes an array as a file; they live on for 300 s."""
    import joblib
    import numpy

    array = numpy.ones(10_000)
    jobs = joblib.Parallel(n_jobs=2, max_nbytes=1000)
    jobs(joblib.delayed(numpy.sum)(array) for _ in range(4))
    own = re.compile(rf"[-_]{os.getpid()}[-_]")
    return [path for path in SHARED.iterdir() if own.search(path.name)]


def with_shared_memory():
    memory = SharedMemory(create=True, size=2**20)
    KEPT.append(memory)
    return [SHARED / memory.name]


def with_a_spawned_pool():
    context = multiprocessing.get_context("spawn")
    lock = context.Lock()
    pool = context.Pool(1)
    pool.apply_async(time.sleep, (600,))
    KEPT.extend([lock, pool])
    return [SHARED / f"sem.{lock._semlock.name[1:]}"]


WAYS = {fn.__name__: fn for fn in (with_joblib, with_shared_memory, with_a_spawned_pool)}


def note_what_is_made(note, way, end):
    paths = WAYS[way]()
    text = "\n".join(str(path) for path in paths if path.exists())
    note.with_suffix(".part").write_text(text)
    note.with_suffix(".part").rename(note)
    end()


def returns():
    pass


def starts_too_many():
    while True:
        subprocess.Popen(["sleep", "600"])


def crashes():
    os.abort()


@pytest.mark.parametrize("end", [returns, starts_too_many, crashes])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("isolated", [*PROCESSES, SPAWN], ids=str)
def test_what_a_resource_tracker_knows_of_goes_with_its_call(isolated, way, end, tmp_path):
    note = tmp_path / "note"
    outcome = isolated(note_what_is_made, num_processes=20).run(note, way, end)
    made = [Path(line) for line in note.read_text().splitlines()]
    assert made
    until(lambda: not any(path.exists() for path in made))
    kinds = {
        returns: type(None),
        starts_too_many: exceptions.ProcessBreach,
        crashes: exceptions.CrashError,
    }
    assert isinstance(outcome.exception, kinds[end])


@pytest.mark.parametrize("end", ["returns", "crashes"])
def test_nothing_is_printed_of_what_was_removed(end):
    program = textwrap.dedent(
        f"""
        import os
        from multiprocessing.shared_memory import SharedMemory
        from dask_limits.limits import limit

        def share():
            SharedMemory(create=True, size=100)
            if {end == "crashes"}:
                os._exit(3)

        limit(share, wall_time=60).run()
        """
    )
    done = subprocess.run(
        [sys.executable, "-Walways", "-c", program], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


CHAIN = """
import os, time

def main(_):  # goes on in ever new processes
    while True:
        open(f"seen/{os.getpid()}", "x").close()
        time.sleep(0.02)
        if os.fork():
            os._exit(0)
        os.setsid()
"""


@pytest.mark.parametrize("end", [returns, crashes])
def test_what_is_disguised_as_a_resource_tracker_ends_soon(end, tmp_path):
    (tmp_path / "guise").mkdir()
    (tmp_path / "guise" / "resource_tracker.py").write_text(CHAIN)
    (tmp_path / "seen").mkdir()
    command = "from guise.resource_tracker import main; main(3)"

    def leave():
        subprocess.Popen([sys.executable, "-c", command], cwd=tmp_path)
        until(lambda: list((tmp_path / "seen").iterdir()))
        end()

    limit(leave, wall_time=60).run()

    def rests():
        before = len(list((tmp_path / "seen").iterdir()))
        time.sleep(0.5)
        return len(list((tmp_path / "seen").iterdir())) == before

    until(rests, timeout_s=20)


@pytest.mark.parametrize("name", ["limits-guardian", "limits-reaper", "owner"])
def test_what_a_tracker_knows_of_goes_when_a_process_of_ours_is_killed(name, tmp_path):
    program = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from multiprocessing.shared_memory import SharedMemory
        from dask_limits.limits import limit

        def share():
            memory = SharedMemory(create=True, size=100)
            Path({str(tmp_path / "part")!r}).write_text(memory.name)
            Path({str(tmp_path / "part")!r}).rename({str(tmp_path / "name")!r})
            time.sleep(600)

        limit(share, wall_time=600).run()
        """
    )
    owner = psutil.Popen([sys.executable, "-c", program])
    until((tmp_path / "name").exists)
    path = SHARED / (tmp_path / "name").read_text()
    assert path.exists()
    below = owner.children(recursive=True)
    (owner if name == "owner" else next(p for p in below if p.name() == name)).kill()
    owner.wait()
    until(lambda: not path.exists())
    all_gone({p.pid for p in below})
