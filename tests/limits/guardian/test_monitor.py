"""A call whose process sleeps is looked at without reading anything, and is held to its limits."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import cloudpickle
import psutil
import pytest
from isolations import CLEAN
from kinds import each_kind_on, expect_breach
from processes import until

from dask_limits import exceptions
from dask_limits.limits.guardian.groups import Groups
from dask_limits.limits.guardian.helpers import Helpers
from dask_limits.limits.guardian.monitor import Watch
from dask_limits.limits.guardian.notes import Notes
from dask_limits.limits.guardian.strays import Family
from dask_limits.limits.ipc import owner_cells, task_cells
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.ipc.task_cells import TaskCells
from dask_limits.limits.linux import proctree

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a call shall not import pytest

ROW, CALL = 1, 7
SLEEPS = "import signal; signal.signal(signal.SIGUSR1, print)\nwhile True: signal.pause()"
FORKS = (
    "import os, signal; os.fork() or signal.pause(); signal.signal(signal.SIGUSR1, print)\n"
    "while True: signal.pause()"
)


class Watched:
    """A watch of the first process of a program, as its guardian would have it."""

    def __init__(self, program, reads):
        self.process = subprocess.Popen([sys.executable, "-c", program])
        self.pid = self.process.pid
        fd = owner_cells.make()
        cells = Cells(owner_cells.ROWS, fd)
        os.close(fd)
        cells.put_float(ROW, owner_cells.START, time.monotonic())
        noted = TaskCells(task_cells.make())
        noted.put(0, task_cells.CALL, CALL)
        noted.put_float(0, task_cells.START, time.monotonic())
        self._sock, self._others = socket.socketpair()
        notes = Notes(cells, ROW, noted, self._sock, CALL)
        self.family = Family(self.pid, time.monotonic)
        self._groups = Groups(Helpers())
        self.watch = Watch(cells, ROW, notes, self.pid, self.family, self._groups)
        self._reads = reads
        self._cells = cells, noted

    def reads_in_a_look(self, later_s=0.0):
        """Which processes are read when it is looked at."""
        self._reads.clear()
        assert self.watch.look(time.monotonic() + later_s) == ""
        return set(self._reads)

    def close(self):
        for process in (*psutil.Process(self.pid).children(), self.process):
            process.kill()
        self.process.wait()
        self._sock.close()
        self._others.close()
        self._groups.remove_all()
        for cells in self._cells:
            cells.close()


@pytest.fixture
def watched(monkeypatch):
    reads, read, made = [], proctree.read_process, []

    def noted(pid):
        reads.append(pid)
        return read(pid)

    monkeypatch.setattr(proctree, "read_process", noted)

    def watch(program):
        made.append(Watched(program, reads))
        return made[-1]

    yield watch
    for it in made:
        it.close()


def test_a_process_that_sleeps_is_not_read_until_it_has_run(watched):
    it = watched(SLEEPS)
    until(lambda: not it.reads_in_a_look())
    os.kill(it.pid, signal.SIGUSR1)
    until(lambda: it.pid in it.reads_in_a_look())
    until(lambda: not it.reads_in_a_look())


def test_a_process_that_sleeps_is_read_every_second_even_so(watched):
    it = watched(SLEEPS)
    until(lambda: not it.reads_in_a_look())
    assert it.reads_in_a_look(later_s=1) == {it.pid}


def test_a_process_that_sleeps_and_has_a_child_is_read_each_time(watched):
    it = watched(FORKS)
    until(lambda: len(it.reads_in_a_look()) == 2)
    asleep = [it.pid, *proctree.children_of(it.pid)]
    until(lambda: all(psutil.Process(pid).status() == "sleeping" for pid in asleep))
    for _ in range(20):
        assert it.reads_in_a_look() == {*asleep}


def test_a_process_that_sleeps_is_read_until_its_children_were_looked_for(watched):
    it = watched(SLEEPS)
    it.watch.look(time.monotonic())
    it.watch._next_scan = time.monotonic() + 60  # as after a look through many threads
    until(lambda: psutil.Process(it.pid).status() == "sleeping")
    for _ in range(20):
        assert it.pid in it.reads_in_a_look()
    it.watch._next_scan = 0.0
    until(lambda: not it.reads_in_a_look())


def test_a_process_that_sleeps_is_read_while_its_call_has_a_stray(watched):
    it = watched(SLEEPS)
    until(lambda: not it.reads_in_a_look())
    stray = proctree.read_process(os.getpid())
    it.family.strays.append(stray._replace(threads=0))
    assert it.pid in it.reads_in_a_look()
    it.family.strays.clear()


def sleep_long_and_then(over):
    """Long enough to be found asleep."""
    time.sleep(0.5)
    over()


@each_kind_on(CLEAN)
def test_a_call_that_has_slept_is_held_to_its_limits(isolated, kind):
    expect_breach(isolated, kind, sleep_long_and_then)


def fork_in_a_thread_and_sleep(threads):
    """With many threads, children are looked for more rarely."""
    for _ in range(threads):
        threading.Thread(target=time.sleep, args=[60], daemon=True).start()
    starter = threading.Thread(target=lambda: os.fork() or time.sleep(60))
    starter.start()
    time.sleep(60)


def test_a_child_is_found_that_a_process_has_started_just_before_it_sleeps():
    error = CLEAN(fork_in_a_thread_and_sleep, num_processes=1).run(100).exception
    assert isinstance(error, exceptions.ProcessBreach)
