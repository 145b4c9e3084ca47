"""Programs that end with calls of a `LimitedExecutor` that nobody has shut down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import all_gone, below, until, written_pid

PROGRAM = """
import os, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from dask_limits import LimitedExecutor

def sleep(file, seconds=600):
    Path(file).write_text(f"{os.getpid()}\\n")
    time.sleep(seconds)

def write(file, gate):
    Path(f"{file} begun").touch()
    while not Path(gate).exists():
        time.sleep(0.01)
    Path(file).touch()

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    exec(sys.argv[2])
"""


QUIET = {"DASK_LOGGING__DISTRIBUTED": "critical"}
"""On a busy machine a worker of Dask logs that it has lost its scheduler, after all else."""


@contextmanager
def program(folder: Path, text: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program that has the functions above. It takes Ctrl-C as in a terminal."""
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, folder / "program.py", folder, text]
    environment = os.environ | QUIET
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def ends(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait until a program has ended; how, and what it has printed of errors."""
    _, errors = process.communicate(timeout=100)
    return process.returncode, errors


WHERE = {
    "processes": "LimitedExecutor(1, wall_time=600)",
    "threads": "LimitedExecutor(ThreadPoolExecutor(1), wall_time=600)",
    "dask": 'LimitedExecutor("dask", options={"n_workers": 1}, wall_time=600)',
}


@pytest.mark.parametrize("where", WHERE)
def test_an_unhandled_ctrl_c_ends_the_calls_and_the_program(where: str, tmp_path: Path) -> None:
    text = f'executor = {WHERE[where]}; executor.submit(sleep, folder / "pid").result()'
    with program(tmp_path, text) as process:
        pids = {written_pid(tmp_path / "pid")} | below(process.pid)
        process.send_signal(signal.SIGINT)
        code, errors = ends(process)
    all_gone(pids)
    assert code == -signal.SIGINT
    assert errors.strip().endswith("KeyboardInterrupt")
    assert "Exception ignored" not in errors


def test_an_executor_that_nobody_holds_ends_its_calls_too(tmp_path: Path) -> None:
    text = 'LimitedExecutor(1, wall_time=600).submit(sleep, folder / "pid").result()'
    with program(tmp_path, text) as process:
        pid = written_pid(tmp_path / "pid")
        process.send_signal(signal.SIGINT)
        code, _ = ends(process)
    all_gone({pid})
    assert code == -signal.SIGINT


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("how", ["", "sys.exit(0)", "raise LookupError"])
def test_another_end_waits_for_the_calls(where: str, how: str, tmp_path: Path) -> None:
    text = f"""
executor = {WHERE[where]}
executor.submit(write, folder / "first", folder / "gate")
executor.submit(write, folder / "second", folder / "gate")
{how}
"""
    with program(tmp_path, text) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        (tmp_path / "gate").touch()
        code, errors = ends(process)
    assert (tmp_path / "first").exists()
    assert (tmp_path / "second").exists()
    assert code == ("raise" in how), errors


def test_all_items_of_a_map_have_their_calls(tmp_path: Path) -> None:
    text = """
files = [folder / f"{n}" for n in range(300)]
results = LimitedExecutor(2, wall_time=60).map(Path.touch, files)
"""
    with program(tmp_path, text) as process:
        assert ends(process) == (0, "")
    assert all((tmp_path / f"{n}").exists() for n in range(300))


def test_ctrl_c_while_the_program_waits_ends_the_calls(tmp_path: Path) -> None:
    text = f"""
executor = {WHERE["processes"]}
executor.submit(sleep, folder / "pid")
import threading
threading._register_atexit((folder / "waits").touch)
"""
    with program(tmp_path, text) as process:
        pid = written_pid(tmp_path / "pid")
        until((tmp_path / "waits").exists)
        process.send_signal(signal.SIGINT)
        ends(process)
    all_gone({pid})


def test_a_ctrl_c_that_is_handled_ends_no_call(tmp_path: Path) -> None:
    text = f"""
executor = {WHERE["processes"]}
try:
    executor.submit(write, folder / "file", folder / "gate").result()
except KeyboardInterrupt:
    (folder / "handled").touch()
"""
    with program(tmp_path, text) as process:
        until((tmp_path / "file begun").exists)
        process.send_signal(signal.SIGINT)
        until((tmp_path / "handled").exists)
        (tmp_path / "gate").touch()
        assert ends(process) == (0, "")
    assert (tmp_path / "file").exists()


def test_a_fork_ends_no_call_of_its_parent(tmp_path: Path) -> None:
    text = f"""
executor = {WHERE["processes"]}
future = executor.submit(write, folder / "file", folder / "gate")
if os.fork() == 0:
    raise KeyboardInterrupt
os.wait()
(folder / "gate").touch()
future.result()
"""
    with program(tmp_path, text) as process:
        code, errors = ends(process)
    assert code == 0, errors
    assert (tmp_path / "file").exists()


def test_no_call_is_taken_while_the_program_ends(tmp_path: Path) -> None:
    text = f"""
executor = {WHERE["processes"]}
first = executor.submit(write, folder / "file", folder / "gate")

def submit():
    while threading.main_thread().is_alive():
        try:
            executor.submit(abs, -1)
        except RuntimeError as error:
            (folder / "refused").write_text(str(error))
            break
        time.sleep(0.01)
    (folder / "gate").touch()

threading.Thread(target=submit).start()
"""
    with program(tmp_path, text) as process:
        assert ends(process) == (0, "")
    refused = "cannot schedule new futures after interpreter shutdown"
    assert (tmp_path / "refused").read_text() == refused
    assert (tmp_path / "file").exists()
