"""What resource trackers know of goes with the call: semaphores, shared memory, folders."""

from __future__ import annotations

import multiprocessing
import os
import re
import subprocess
import sys
import textwrap
import threading
import time
from multiprocessing.connection import Listener
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.util import get_temp_dir
from pathlib import Path

import cloudpickle
import psutil
import pytest
from isolations import PROCESSES, SPAWN, WARM
from processes import all_gone, until

from dask_limits import exceptions
from dask_limits.limits import LimitedCall, Limits, limit
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.preload import Preload

cloudpickle.register_pickle_by_value(sys.modules[__name__])
KEPT: list[object] = []  # by the process that runs a call
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


def with_a_forkserver():
    process = multiprocessing.get_context("forkserver").Process(target=os.getpid)
    process.start()
    process.join()
    return [Path(get_temp_dir())]


def with_a_manager():
    manager = multiprocessing.Manager()
    KEPT.append(manager)
    return [Path(manager.address)]


def with_a_folder_of_a_spawned_process():
    pool = multiprocessing.get_context("spawn").Pool(1)
    KEPT.append(pool)
    return [Path(pool.apply(get_temp_dir))]


def with_a_listener_in_a_fork():
    read, write = os.pipe()
    if os.fork() == 0:
        with Listener(family="AF_UNIX") as listener:
            os.write(write, str(listener.address).encode())
            time.sleep(600)
    return [Path(os.read(read, 1000).decode())]


def with_a_folder_of_a_call_in_it():
    def note_folder(note):
        note.with_suffix(".part").write_text(get_temp_dir())
        note.with_suffix(".part").rename(note)
        time.sleep(600)

    note, within = Path(get_temp_dir(), "note"), LimitedCall(note_folder, Limits(wall_time=600))
    threading.Thread(target=within.run, args=[note], daemon=True).start()
    until(note.exists)
    return [Path(note.read_text())]


WAYS = {name: way for name, way in globals().items() if name.startswith("with_")}


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
    made += [path.parent for path in made if path.parent.name.startswith("pymp-")]
    until(lambda: not any(path.exists() for path in made))
    kinds = {
        returns: type(None),
        starts_too_many: exceptions.ProcessBreach,
        crashes: exceptions.CrashError,
    }
    assert isinstance(outcome.exception, kinds[end])


def test_a_folder_of_multiprocessing_goes_with_its_call_when_the_process_stays():
    def make_folder():
        folder = Path(get_temp_dir())
        (folder / "socket").touch()
        return os.getpid(), folder

    call = WARM(make_folder)
    first, folder = call.run().value
    until(lambda: not folder.exists())
    assert call.run().value == (first, folder)


def test_a_folder_of_an_initializer_stays_as_long_as_its_process():
    def ask(_):
        return Path(KEPT[0].address).exists()

    with Guardian(preload=Preload.of([], with_a_manager)) as guardian:
        ended = [guardian.run(ask, [n], {}, Limits(wall_time=60)) for n in range(3)]
        assert [end.value for end in ended] == [True] * 3


def test_a_program_keeps_its_own_temporary_folder(tmp_path):
    program = textwrap.dedent(
        """
        import multiprocessing, os, tempfile
        from multiprocessing.util import get_temp_dir
        from dask_limits.limits import limit

        def work():
            multiprocessing.Manager()
            os._exit(3)

        limit(work, wall_time=60).run()
        assert tempfile.tempdir is None, "it can be chosen by TMPDIR until it is needed"
        limit(get_temp_dir, wall_time=60).run()
        """
    )
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert not list(tmp_path.iterdir())


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
        from multiprocessing.util import get_temp_dir
        from dask_limits.limits import limit

        def share():
            memory, part = SharedMemory(create=True, size=100), Path({str(tmp_path / "part")!r})
            part.write_text(f"{SHARED}/{{memory.name}}\\n{{get_temp_dir()}}")
            part.rename({str(tmp_path / "paths")!r})
            time.sleep(600)

        limit(share, wall_time=600).run()
        """
    )
    owner = psutil.Popen([sys.executable, "-c", program])
    until((tmp_path / "paths").exists)
    paths = [Path(line) for line in (tmp_path / "paths").read_text().splitlines()]
    assert all(path.exists() for path in paths)
    below = owner.children(recursive=True)
    (owner if name == "owner" else next(p for p in below if p.name() == name)).kill()
    owner.wait()
    until(lambda: not any(path.exists() for path in paths))
    all_gone({p.pid for p in below})
