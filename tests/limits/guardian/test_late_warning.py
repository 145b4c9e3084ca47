"""A warning that comes late reaches no other call."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from dask_limits.limits.guardian.groups import Groups
from dask_limits.limits.guardian.helpers import Helpers
from dask_limits.limits.guardian.leftovers import Leftovers
from dask_limits.limits.guardian.monitor import Watch
from dask_limits.limits.guardian.task_process import TaskProcess
from dask_limits.limits.guardian.templates import Spare
from dask_limits.limits.ipc import owner_cells, task_cells
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.linux import proctree

ROW, CALL = 1, 7


class Late:
    """A task process whose guardian finds its call over its CPU time, as told `meanwhile`."""

    def __init__(self, monkeypatch):
        self._program = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        fd = owner_cells.make()
        self._cells = Cells(owner_cells.ROWS, fd)
        os.close(fd)
        ends = socket.socketpair()
        self._spare = Spare(*ends, task_cells.make(), self._program.pid)
        self._groups = Groups(Helpers())
        self.process = TaskProcess(ROW, self._spare, self._cells, self._groups, Leftovers())
        self._noted = self.process._task_cells
        self._cells.put_float(ROW, owner_cells.START, time.monotonic())
        self._cells.put_float(ROW, owner_cells.GRACE_PERIOD, 600.0)
        self._cells.put(ROW, owner_cells.CALL, CALL)
        self._cells.put(ROW, owner_cells.LAST, CALL)
        self._noted.put(0, task_cells.CALL, CALL)
        self._patch = monkeypatch

    def signals_if_meanwhile(self, *noted):
        """What is sent to it if its process notes these cells before it is warned."""
        sent = []

        def look(watch, now):
            watch.notes.read(now)
            for cell, number in noted:
                self._noted.put(0, cell, number)
            return "cpu_time"

        self._patch.setattr(Watch, "look", look)
        self._patch.setattr(Watch, "note_child", lambda *_: None)
        self._patch.setattr(proctree, "send_signal", lambda _, number: sent.append(number))
        self.process.look(time.monotonic())
        return sent

    def close(self):
        self._program.kill()
        self._program.wait()
        self._groups.remove_all()
        self.process.close()
        self._spare.owner_end.close()
        self._cells.close()


@pytest.fixture
def late(monkeypatch):
    it = Late(monkeypatch)
    yield it
    it.close()


def test_a_call_that_runs_is_warned(late):
    assert len(late.signals_if_meanwhile()) == 2


@pytest.mark.parametrize(
    "noted",
    [
        [(task_cells.DONE, CALL)],
        [(task_cells.DONE, CALL), (task_cells.CALL, CALL + 1)],
        [(task_cells.DONE, CALL + 1), (task_cells.CALL, CALL + 1)],
        [(task_cells.DONE, CALL + 1), (task_cells.CALL, CALL + 2)],
    ],
    ids=["is done", "next runs", "next is done", "next but one runs"],
)
def test_nothing_is_sent_once_the_call_is_done(late, noted):
    assert late.signals_if_meanwhile(*noted) == []
