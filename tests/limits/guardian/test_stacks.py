"""A call that is ended shows where it was, on a busy machine too."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from isolations import on_processes
from processes import until, written_pid

from dask_limits import exceptions
from dask_limits.limits.ipc.task_cells import STACKS_SIGNAL
from dask_limits.limits.owner import connection


def start_a_program_that_waits(fifo: Path, pid_file: Path) -> None:
    """Until its new process has opened its standard input, posix_spawn(3) blocks all signals."""
    pid_file.write_text(f"{os.getpid()}\n")
    os.posix_spawn("/bin/true", ["true"], {}, file_actions=[(os.POSIX_SPAWN_OPEN, 0, fifo, 0, 0)])
    time.sleep(600)


def is_sent(pid: int) -> bool:
    """Whether this process is asked for its stacks, and has not begun to write them."""
    status = Path(f"/proc/{pid}/status").read_text()
    pending = int(status.partition("ShdPnd:")[2].split()[0], 16)
    return bool(pending >> STACKS_SIGNAL - 1 & 1)


PATIENT = (
    "; from dask_limits.limits.guardian import task_process;"
    " task_process._LONGEST_STACKS_WAIT_S = 60.0; main("
)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the default guardian wait for stacks as long as this test may take to its next step."""
    program = connection._PROGRAM.replace("; main(", PATIENT)
    assert PATIENT in program
    monkeypatch.setattr(connection, "_PROGRAM", program)


def let_it_read(fifo: Path) -> bool:
    """Open the other end, if one waits for that by now."""
    try:
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


@on_processes
@pytest.mark.usefixtures("patient")
def test_a_process_that_is_starting_a_program_writes_its_stacks_first(isolated, tmp_path):
    fifo, pid_file = tmp_path / "fifo", tmp_path / "pid"
    os.mkfifo(fifo)
    call = isolated(start_a_program_that_waits, num_processes=1)
    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(call.run, fifo, pid_file)
        pid = written_pid(pid_file)
        until(lambda: is_sent(pid))
        time.sleep(0.1)  # as on a busy machine
        until(lambda: let_it_read(fifo))
        error = ended.result().exception
    assert isinstance(error, exceptions.ProcessBreach)
    assert "in start_a_program_that_waits" in error.stacks
