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


def test_importing_brings_little_and_nothing_slow():
    brought = set(in_new_python("import sys, dask_limits; print(*sys.modules)").split())
    assert not SLOW & brought
    others = brought - set(in_new_python("import sys; print(*sys.modules)").split())
    ours = {name for name in others if name.split(".")[0] == "dask_limits"}
    assert len(others - ours) < 160  # each some 0.5 ms; 133 when this was written
    assert len(ours) < 60  # 43


def test_a_run_on_processes_brings_no_dask():
    code = (
        "import sys; from dask_limits import Scheduler; s = Scheduler.with_processes(1);"
        " s.on_start(lambda: s.submit(abs, 1) and None); s.run(); print(*sys.modules)"
    )
    assert not (SLOW - {"asyncio"}) & set(in_new_python(code).split())


def test_the_public_names_are_these_and_all_exist():
    assert dask_limits.__all__ == [
        "ChildProcess",
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
        "preload",
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
