"""Importing the package is quick, and brings in little; what it offers is pinned."""

from __future__ import annotations

import subprocess
import sys

import pytest

import dask_limits

SLOW = {"dask", "distributed", "numpy", "pandas", "rich", "asyncio", "loky", "sklearn", "tornado"}


def in_new_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_importing_takes_less_than_a_seventh_of_a_second():
    # Of CPU time: a busy machine makes anything take longer.
    code = "import time; t = time.process_time(); import dask_limits; print(time.process_time()-t)"
    in_new_python(code)  # compiles what has changed
    assert min(float(in_new_python(code)) for _ in range(5)) < 0.15


def test_importing_brings_nothing_slow():
    brought = in_new_python("import sys, dask_limits; print(*sys.modules)").split()
    assert not SLOW & set(brought)


def test_a_run_on_processes_brings_no_dask():
    code = (
        "import sys; from dask_limits import Scheduler; s = Scheduler.with_processes(1);"
        " s.on_start(lambda: s.submit(abs, 1) and None); s.run(); print(*sys.modules)"
    )
    assert not (SLOW - {"asyncio"}) & set(in_new_python(code).split())


def test_the_public_names_are_these_and_all_exist():
    assert dask_limits.__all__ == [
        "Event",
        "ExitState",
        "JobState",
        "Limiter",
        "Limits",
        "LimitsWorkerPlugin",
        "Outcome",
        "Plugin",
        "PynisherPlugin",
        "Requeue",
        "Retry",
        "Scheduler",
        "SequentialExecutor",
        "Task",
        "Usage",
        "WorkerInfo",
        "annotate",
        "dask_names",
        "enforce_limits",
        "exceptions",
        "limit",
        "probe_scheduler",
        "progress",
        "units",
        "usages",
    ]
    for name in dask_limits.__all__:
        assert getattr(dask_limits, name) is not None
        assert name in dir(dask_limits)
    with pytest.raises(AttributeError, match="nothing"):
        _ = dask_limits.nothing
