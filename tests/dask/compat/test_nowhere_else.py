"""No file but those of `dask_limits.dask.compat` uses undocumented names of Dask and its kin.

Code alone does not say what an object is, so this looks for names: those that start with an
underscore and are not ours, those in the tables, and modules that have no page in the documentation
(docs.dask.org, distributed.dask.org, jobqueue.dask.org, joblib.readthedocs.io).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import dask_limits
from dask_limits.dask.compat.all_names import dask_names
from dask_limits.dask.compat.undocumented_name import Name

PACKAGE = Path(dask_limits.__file__).parent
COMPAT = PACKAGE / "dask" / "compat"
SUBCLASSES = PACKAGE / "executors" / "jobqueue" / "cluster.py"
"""Derives classes from dask-jobqueue's: what it overrides is in the tables."""

ROOTS = {"dask", "distributed", "dask_jobqueue", "joblib", "tblib"}
DOCUMENTED = {
    "dask": {"annotate", "config", "get_annotations"},
    "dask.callbacks": {"Callback"},
    "dask.highlevelgraph": {"HighLevelGraph"},
    "dask.utils": {"parse_timedelta"},
    "distributed": {"Client", "Security", "Status"},
    "distributed.comm": {"CommClosedError"},
    "distributed.deploy": {"Cluster"},
    "distributed.protocol": {"dask_deserialize", "dask_serialize"},
    "distributed.worker_state_machine": {"TaskState"},
    "joblib.parallel": {"ParallelBackendBase"},
}
"""What may be imported from where. A module that is imported as a whole has its own line too."""
WHOLE_MODULES = {"dask", "distributed", "joblib"}

HAVE_DASKS_OBJECTS = {"dask", "executors", "example.py"}
"""The folders whose code holds objects of Dask: elsewhere a private name is somebody else's."""
NOT_DASKS = {"os._exit", "sys._getframe", "threading._register_atexit"}
"""Private names of others, which are written out."""
ALSO_OURS = {
    "cancel_command",
    "config_name",
    "job_cls",
    "plugins",
    "submit_command",
    "get",
    "items",
    "optimize",
}
"""Names in the tables that objects of ours have too, or documented ones of other classes."""
DOCUMENTED_OF_CLIENTS = {"get_events", "subscribe_topic"}
TOO_GENERAL = {"client": {"id", "loop", "status"}, "worker": {"loop"}}
"""Names in the tables that many objects have, by what a variable is called that has such an object
of Dask."""

USED_OTHERWISE = {
    "dask_jobqueue.runner",
    "dask_jobqueue.core:JobQueueCluster._get_worker_security",
}

DOCUMENTED_OVERRIDES = {"__init__", "start", "close", "scale"}
BASES = (
    "dask_jobqueue.core:Job",
    "dask_jobqueue.core:JobQueueCluster",
    "distributed.deploy.spec:SpecCluster",
)


def own_files() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if COMPAT not in path.parents]


def last(name: Name) -> str:
    return name.path.replace(":", ".").rpartition(".")[2]


IN_TABLES = {last(name) for name in dask_names()}
MODULES_IN_TABLES = {name.path.partition(":")[0] for name in dask_names()}
DOCUMENTED_MODULES = {"distributed.scheduler"}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.endswith("__")


def defined(path: Path) -> Iterator[str]:
    """The names that a file defines: functions, classes, variables, attributes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from [node.attr] if ast.unparse(node.value) in ("self", "cls") else []


OURS = {name for path in own_files() if path != SUBCLASSES for name in defined(path)}


def undocumented(source: str, path: Path = PACKAGE / "example.py") -> Iterator[str]:
    tree = ast.parse(source)
    docstrings = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wrong = any(
                alias.name.split(".")[0] in ROOTS and alias.name not in WHOLE_MODULES
                for alias in node.names
            )
        elif isinstance(node, ast.ImportFrom):
            wrong = str(node.module).split(".")[0] in ROOTS and not (
                {alias.name for alias in node.names} <= DOCUMENTED.get(str(node.module), set())
            )
        elif isinstance(node, ast.Attribute):
            wrong = is_undocumented_attribute(node, path)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            wrong = id(node) not in docstrings and names_a_module(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            name = node.args[1]
            wrong = (
                isinstance(name, ast.Constant)
                and name.value in IN_TABLES - ALSO_OURS - OURS
                and path != SUBCLASSES
            )
        else:
            continue
        if wrong:
            yield f"{path.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}"


def is_undocumented_attribute(node: ast.Attribute, path: Path) -> bool:
    owner = ast.unparse(node.value)
    if owner == "compat":  # a module of ours
        return False
    if path == SUBCLASSES:
        return is_private(node.attr) and node.attr not in IN_TABLES | OURS | set(defined(path))
    if is_private(node.attr):
        if path.relative_to(PACKAGE).parts[0] not in HAVE_DASKS_OBJECTS:
            return False
        return node.attr not in OURS and f"{owner}.{node.attr}" not in NOT_DASKS
    if node.attr in {name for names in TOO_GENERAL.values() for name in names}:
        return any(owner.endswith(o) and node.attr in names for o, names in TOO_GENERAL.items())
    if node.attr in DOCUMENTED_OF_CLIENTS:
        return not owner.endswith("client")
    if node.attr in ALSO_OURS:
        return owner.endswith("scheduler")
    return node.attr in IN_TABLES - OURS


def names_a_module(text: str) -> bool:
    parts = text.split(".")
    return parts[0] in ROOTS and (
        text in MODULES_IN_TABLES - ROOTS - DOCUMENTED_MODULES or any(map(is_private, parts[1:]))
    )


@pytest.mark.parametrize("path", own_files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_uses_documented_names_only(path: Path) -> None:
    found = [*undocumented(path.read_text(), path)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "from dask._task_spec import Alias",
        "import dask._expr",
        "from distributed.worker import _run_task",
        "from distributed.protocol import pickle",
        "from dask_jobqueue.core import Job",
        "import dask_jobqueue.core",
        "from joblib.parallel import BACKENDS",
        "if client._handle_report_task.done(): pass",
        "scheduler.unknown = client._some_new_name",
        "client.scheduler_comm is None",
        "scheduler.is_rootish = lambda ts: False",
        "scheduler.get_events('all')",
        "scheduler.plugins.clear()",
        "self._worker.loop.add_callback(print)",
        "client.status == 'running'",
        "getattr(client, 'scheduler_comm')",
        "sys.modules.get('dask.dataframe.dask_expr._collection')",
        "importlib.import_module('dask.bag.core')",
    ],
)
def test_an_undocumented_name_is_found(source: str) -> None:
    assert [*undocumented(source)]


@pytest.mark.parametrize(
    "source",
    [
        "from distributed import Client",
        "import dask",
        "client.get_events('topic')",
        "self._lock = None",
        "task.plugins",
        "logging.getLogger('distributed.scheduler')",
        "dask.config.get('distributed.comm.timeouts.connect')",
        "'''dask.bag.core'''",
    ],
)
def test_a_documented_name_is_not(source: str) -> None:
    assert not [*undocumented(source)]


def test_what_our_classes_override_of_others_is_in_the_tables() -> None:
    overridden = {
        name
        for cls in ast.walk(ast.parse(SUBCLASSES.read_text()))
        if isinstance(cls, ast.ClassDef) and cls.bases
        for node in ast.walk(cls)
        for name in names_set_by(node)
        if any(Name("", f"{base}.{name}", "", "", "").is_there for base in BASES)
    }
    assert {"_call", "job_file"} <= overridden
    assert overridden - DOCUMENTED_OVERRIDES <= IN_TABLES | {"status"}


def names_set_by(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield node.name
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.attr
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield node.target.id


def test_each_name_of_the_tables_is_used() -> None:
    files = [*COMPAT.glob("*.py"), *SUBCLASSES.parent.glob("*.py")]
    used = {name for path in files for name in used_in(ast.parse(path.read_text()))}
    unused = {name.path for name in dask_names() if not {name.path, last(name)} & used}
    assert unused == USED_OTHERWISE


def used_in(tree: ast.AST) -> Iterator[str]:
    """The attributes, functions and texts in code, but for those in tables."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("names", "_required"):
            continue
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        yield from used_in(node)
