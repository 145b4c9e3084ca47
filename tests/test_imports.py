"""Importing the package is quick, and brings in little; what it offers is pinned."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dask_limits

SLOW = {"dask", "distributed", "numpy", "pandas", "rich", "asyncio", "loky", "sklearn", "tornado"}
SLOW |= {"IPython", "ipywidgets"}
NOT_FOR_CHILDREN = {
    *("concurrent", "hashlib", "pathlib", "psutil", "pynisher", "shutil", "tempfile"),
    *("dask_limits.events", "dask_limits.exceptions", "dask_limits.limits.owner"),
    *("dask_limits.future", "dask_limits.journal"),
    *("dask_limits.html", "dask_limits.display", "dask_limits.executors", "dask_limits.plugins"),
    *("dask_limits.dask", "dask_limits.scheduler", "dask_limits.limits.coroutines"),
}
"""What a guardian, a template and a task process do without."""


def in_new_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def modules_after(code: str) -> set[str]:
    """The modules that this code has imported, beyond those of a new interpreter."""
    after = set(in_new_python(f"{code}; import sys; print(*sys.modules)").split())
    return after - modules_of_a_new_interpreter()


def modules_of_a_new_interpreter() -> set[str]:
    return set(in_new_python("import sys; print(*sys.modules)").split())


def test_importing_the_package_brings_nothing_else_of_it():
    brought = modules_after("import dask_limits")
    assert {name for name in brought if name.split(".")[0] == "dask_limits"} == {"dask_limits"}
    assert not {"concurrent.futures", "logging", "pynisher"} & brought


def test_importing_the_scheduler_brings_little_and_nothing_slow():
    brought = modules_after("from dask_limits import Scheduler")
    assert not SLOW & brought
    ours = {name for name in brought if name.split(".")[0] == "dask_limits"}
    assert len(brought - ours) < 160  # each some 0.5 ms; 133 when this was written
    assert len(ours) < 86  # 83


def test_all_that_is_offered_can_be_imported_at_once():
    assert "Scheduler" in in_new_python("from dask_limits import *; print(*dir())").split()


def test_a_name_is_what_type_checkers_take_it_for():
    tree = ast.parse(Path(dask_limits.__file__).read_text())
    [for_types] = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [node for node in for_types.body if isinstance(node, ast.ImportFrom)]
    names = {alias.name: node.module for node in imports for alias in node.names}
    assert sorted(names) == sorted(dask_limits.__all__)
    for name, module in names.items():
        assert getattr(dask_limits, name) is getattr(sys.modules[str(module)], name)


def test_a_call_runs_below_processes_that_have_imported_only_what_they_need():
    # A task process is a fork of the template, and that of the guardian: it has what these have.
    code = (
        "import sys; from dask_limits import limit;"
        " print(*limit(lambda: [*sys.modules], wall_time=60)())"
    )
    # What sets up an environment may import some in each interpreter, such as pathlib.
    found = set(in_new_python(code).split()) - modules_of_a_new_interpreter()
    assert "dask_limits.limits.task.main" in found
    wrong = [m for m in found for no in SLOW | NOT_FOR_CHILDREN if f"{m}.".startswith(f"{no}.")]
    assert not wrong


def test_a_run_on_processes_brings_no_dask():
    code = (
        "import sys; from dask_limits import Scheduler; s = Scheduler.with_processes(1);"
        " s.on_start(lambda: s.submit(abs, 1) and None); s.run(); print(*sys.modules)"
    )
    assert not (SLOW - {"asyncio"}) & set(in_new_python(code).split())


def test_the_public_names_are_these_and_all_exist():
    assert dask_limits.__all__ == [
        "ChildProcess",
        "Command",
        "CommandResult",
        "Display",
        "Event",
        "ExitState",
        "JobState",
        "Journal",
        "LimitedExecutor",
        "Limiter",
        "Limits",
        "LimitsWorkerPlugin",
        "Outcome",
        "Plugin",
        "PynisherPlugin",
        "Report",
        "Requeue",
        "Retry",
        "Scheduler",
        "SequentialExecutor",
        "Task",
        "Usage",
        "WorkerInfo",
        "annotate",
        "command",
        "dask_names",
        "enforce_limits",
        "exceptions",
        "limit",
        "optuna",
        "preload",
        "probe_scheduler",
        "progress",
        "share",
        "units",
        "usages",
    ]
    for name in dask_limits.__all__:
        assert getattr(dask_limits, name) is not None
        assert name in dir(dask_limits)
    with pytest.raises(AttributeError, match="nothing"):
        _ = dask_limits.nothing
