"""A breach names the child process that has used most of what the call went over."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest
from isolations import SPAWN, on_processes
from overdoing import GROW, SPIN, grow, spin

from dask_limits.limits.guardian.children import child_to_name
from dask_limits.limits.linux import proctree


def run_program(*argv: str) -> None:
    subprocess.run(argv, check=True)


@on_processes
def test_the_child_with_the_most_memory_is_named(isolated):
    error = isolated(run_program, memory="150 MiB").run(*GROW).exception
    assert re.search(
        r"had [\d.]+ MiB, [\d.]+ MiB of it in child process \d+ \(\S+ -c import time\\nb = ",
        str(error),
    )
    assert f"child process {error.child.pid} (" in str(error)
    assert 100 * 2**20 < error.child.used <= error.usage.peak_memory


@on_processes
def test_the_child_with_the_most_cpu_time_is_named(isolated):
    error = isolated(run_program, cpu_time=0.5).run(*SPIN).exception
    assert re.search(
        r"took [\d.]+ s, [\d.]+ s of it in child process \d+ \(\S+ -c while True: pass\)",
        str(error),
    )
    assert error.child.command.endswith(" -c while True: pass")


def sleepers(number: int) -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    for _ in range(number):
        subprocess.Popen(["/bin/sleep", "600"])
    time.sleep(600)


@on_processes
def test_of_too_many_processes_the_commonest_are_named(isolated):
    error = isolated(sleepers, num_processes=6).run(9).exception
    assert error.child.command == "/bin/sleep 600"
    assert re.search(
        rf"had \d+ processes, {error.child.used} of them child processes such as {error.child.pid}"
        r" \(/bin/sleep 600\)",
        str(error),
    )


def sleeper() -> None:
    subprocess.run(["/bin/sleep", "600"], check=True)


@pytest.mark.parametrize("isolated", [SPAWN], ids=str)
def test_a_process_that_is_there_to_run_the_call_is_not_named(isolated):
    error = isolated(sleeper, num_processes=1).run().exception
    assert f"had 2 processes, one of them child process {error.child.pid} (/bin/sleep 600)" in str(
        error
    )


@on_processes
@pytest.mark.parametrize("limits", [{"memory": "100 MiB"}, {"cpu_time": 0.3}], ids=str)
def test_no_child_is_named_where_the_function_itself_has_used_the_most(isolated, limits):
    def use_beside_a_child() -> None:
        subprocess.Popen(["/bin/sleep", "600"])
        (grow if "memory" in limits else spin)()

    error = isolated(use_beside_a_child, **limits).run().exception
    assert error.child is None
    assert "child process" not in str(error)


def fork_and_grow() -> None:
    if os.fork() == 0:
        grow()
    os.wait()


@on_processes
def test_a_fork_of_the_function_is_named_as_such(isolated):
    error = isolated(fork_and_grow, memory="150 MiB").run().exception
    assert f"of it in child process {error.child.pid} (a fork of the function's)" in str(error)
    assert error.child.command == ""


@on_processes
def test_a_command_line_cannot_write_to_the_terminal_and_is_shortened(isolated):
    error = isolated(run_program, cpu_time=0.5).run(*SPIN, "\x1b[31mred\r\n", "x" * 1000).exception
    text = str(error).partition("\n")[0]
    assert text.isprintable()
    assert r"while True: pass \x1b[31mred\r\n xxx" in text
    assert len(error.child.command) <= 120
    assert error.child.command.endswith("...")


@pytest.mark.parametrize("limit", ["memory", "cpu_time", "num_processes"])
def test_a_child_that_is_gone_is_not_named(limit):
    with subprocess.Popen(SPIN) as child:
        reading = proctree.read_process(child.pid)
        child.kill()
    assert child_to_name(limit, os.getpid(), [reading], own_cpu_time=-1.0) is None
