"""Limits hold at each level of isolation, wherever calls are run."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest
from overdoing import grow, spin, wait_on
from test_contract import EXECUTORS

from dask_limits import exceptions, limit


@pytest.fixture(autouse=True)
def nothing_is_left_behind():
    """An executor serves all tests here."""


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request):
    executor = EXECUTORS[request.param].make()
    executor.submit(limit(abs, wall_time=30), 1).result(timeout=60)  # starts all that it needs
    yield executor
    executor.shutdown(cancel_futures=True)


def start_others() -> None:
    for process in [subprocess.Popen(["sleep", "60"]) for _ in range(3)]:
        process.wait()


KINDS: dict[str, tuple[Any, type[exceptions.Breach], Any, Any]] = {
    "wall_time": (wait_on, exceptions.WallTimeBreach, 0.2, 30),
    "cpu_time": (spin, exceptions.CpuTimeBreach, 0.2, 30),
    "memory": (grow, exceptions.MemoryBreach, "150 MiB", "150 MiB"),
    "num_processes": (start_others, exceptions.ProcessBreach, 2, 2),
}
"""What goes over each, its breach, a limit that is soon gone over, and one that is enough.

On a busy machine any process may wait for longer than 0.2 s."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("isolation", ["warm", "fresh", "thread"])
def test_each_limit_holds_at_each_isolation_on_each_executor(executor, isolation, kind):
    over, breach, little, enough = KINDS[kind]
    if (isolation, kind) == ("thread", "num_processes"):
        with pytest.raises(ValueError, match="isolation='thread'"):
            limit(over, **{kind: little}, isolation=isolation)
        return
    future = executor.submit(limit(over, **{kind: little}, isolation=isolation))
    assert type(future.exception(timeout=50)) is breach
    again = executor.submit(limit(abs, **{kind: enough}, isolation=isolation), -1)
    assert again.result(timeout=50) == 1


def test_a_fresh_process_is_another_each_time(executor):
    call = limit(os.getpid, wall_time=30, isolation="fresh")
    pids = [executor.submit(call).result(timeout=50) for _ in range(3)]
    assert len({*pids, os.getpid()}) == 4


def test_what_a_call_prints_comes_back_in_its_usage(executor):
    call = limit(subprocess.call, wall_time=30, capture_output=True)
    future = executor.submit(call, ["echo", "text"])
    assert future.result(timeout=50) == 0
    assert future.usage.stdout == "text\n"
