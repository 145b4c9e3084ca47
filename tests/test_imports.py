"""The import law: a layer imports only layers below it, and importing is quick."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dask_limits

PACKAGE = Path(dask_limits.__file__).parent

# From the bottom up. A module belongs to the longest name here that it starts with.
LAYERS = [
    {"exceptions", "events", "render", "requeue"},
    {"guards"},
    {"limits"},
    {"packed", "nodes", "enforce", "placement", "rooms", "waiting", "job_state", "walltimes"},
    {"worker"},
    {"executors"},
    {"task", "plugins"},
    {"scheduler", "scheduler_events", "scheduler_clusters", "run", "run_loop", "exit_state"},
    {"__init__"},
    {"search", "check", "cli", "__main__"},
]
IMPORTS_DASK = {
    "worker",
    "executors.dask",
    "executors.greeting",
    "executors.jobqueue",
    "executors.local_cluster",
    "display",
    "check.machine",
}
SLOW = {"dask", "distributed", "numpy", "pandas", "rich", "asyncio", "loky", "sklearn", "tornado"}


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        found[name] = path
    return found


def imports(tree: ast.AST) -> set[str]:
    """All modules that are imported, in functions too; not those for type checkers alone."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found |= {f"{module}.{alias.name}" for alias in node.names} | {module}
        else:
            found |= imports(node)
    return found


def layer(name: str) -> int | None:
    top = name.split(".")[0]
    return next((n for n, names in enumerate(LAYERS) if top in names), None)


@pytest.mark.parametrize("name", sorted(modules()))
def test_a_module_imports_only_from_its_own_layer_and_below(name):
    own = layer(name)
    assert own is not None, f"{name} has no layer: put it into LAYERS"
    tree = ast.parse(modules()[name].read_text())
    known = modules()
    for imported in imports(tree):
        if not imported.startswith("dask_limits."):
            continue
        inner = imported.removeprefix("dask_limits.")
        if inner in known or inner.split(".")[0] in known:
            assert layer(inner) <= own, f"{name} imports {imported}, which is above it"


@pytest.mark.parametrize("name", sorted(modules()))
def test_dask_is_imported_by_few(name):
    tree = ast.parse(modules()[name].read_text())
    dask = {i for i in imports(tree) if i.split(".")[0] in ("dask", "distributed")}
    assert not dask or any(f"{name}.".startswith(f"{allowed}.") for allowed in IMPORTS_DASK)


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
        "annotate",
        "enforce_limits",
        "exceptions",
        "limit",
        "progress",
        "usages",
    ]
    for name in dask_limits.__all__:
        assert getattr(dask_limits, name) is not None
        assert name in dir(dask_limits)
    with pytest.raises(AttributeError, match="nothing"):
        _ = dask_limits.nothing
