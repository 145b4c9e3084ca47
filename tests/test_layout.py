"""The layout of the package: what may import what, and how large things are.

The law: a file or a folder imports only what is below it. It holds inside of each folder too, for
what is imported in functions, and for what is imported for type checkers alone.
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import dask_limits

PACKAGE = Path(dask_limits.__file__).parent
MOST_LINES_OF_A_FILE = 400
MOST_LINES_OF_A_FUNCTION = 60

# From the bottom up; each line imports none of its own line, and none of those after it. Inside of
# other folders any order will do, as long as there is one.
LAYERS = {
    "": """
        units printable instead
        html in_short
        exceptions
        events guards batch_systems placement
        limits display
        commands
        channels report future
        dask old_pynisher journal
        executors
        joblib sklearn
        plugins
        scheduler optuna
        __init__
        search check batch submit
        cli
        __main__
    """,
    "limits": """
        outcome limits cancel progress linux tracebacks coroutines interrupted endings
        shared call_metrics trace_context where
        in_place breaches
        ipc
        packed_outcome task
        call_log
        guardian call_span
        owner
        call preload share
        functions
        __init__
    """,
    "dask": """
        __init__
        topic progress_log running compat
        nodes
        reservations packed_call usage_log cluster_log metrics_page ended
        batch
        serialization
        scheduler graphs
        worker
    """,
}
ALLOWED = {
    ("exceptions", "batch_systems.job_state"): "the type of an attribute, for type checkers alone",
}
"""What the law forbids and is needed all the same: importer, imported, and why."""

DASK_IS_IMPORTED_IN = {"dask", "executors.dask", "executors.jobqueue", "check"}


@cache
def modules() -> dict[str, Path]:
    """The files of the package, by their names in it; `limits.__init__` is that of a folder."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
    }


@cache
def tree_of(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text())


def imported_by(name: str, *, for_types: bool = True) -> Iterator[str]:
    """All that is imported anywhere in a file, by full names."""
    for node in nodes_of(tree_of(name), for_types):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def nodes_of(tree: ast.AST, for_types: bool) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if for_types or not isinstance(node, ast.If) or "TYPE_CHECKING" not in ast.dump(node.test):
            yield node
            yield from nodes_of(node, for_types)


def ours(imported: str) -> str | None:
    """The file of ours that holds what is imported; None if it is not ours."""
    package, _, rest = imported.partition(".")
    if package != "dask_limits":
        return None
    parts = rest.split(".")
    for n in range(len(parts), -1, -1):
        name = ".".join(parts[:n])
        if name in modules():
            return name
        if (inside := f"{name}.__init__".lstrip(".")) in modules():
            return inside
    raise AssertionError(imported)


def where_they_part(one: str, other: str) -> tuple[str, str, str]:
    """The folder that holds both files, and what of it holds the one, and the other."""
    mine, theirs = one.split("."), other.split(".")
    n = next(n for n, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b)
    return ".".join(mine[:n]), mine[n], theirs[n]


@cache
def arrows() -> dict[str, dict[tuple[str, str], list[str]]]:
    """Of each folder, what of it imports what else of it, and by which files."""
    found: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in modules():
        for imported in imported_by(name):
            target = ours(imported)
            if target is None or target == name or (name, target) in ALLOWED:
                continue
            folder, mine, theirs = where_they_part(name, target)
            found[folder][mine, theirs].append(f"{name} imports {target}")
    return found


FOLDERS = sorted({name.rpartition(".")[0] for name in modules()})


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_in_a_folder_imports_what_imports_it(folder):
    graph: dict[str, set[str]] = defaultdict(set)
    for mine, theirs in arrows()[folder]:
        graph[mine].add(theirs)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = list(zip(error.args[1][1:], error.args[1][:-1], strict=True))
        pytest.fail("\n".join(line for arrow in circle for line in arrows()[folder][arrow]))


@pytest.mark.parametrize("folder", LAYERS)
def test_a_layer_imports_only_layers_below_it(folder):
    layers = [line.split() for line in LAYERS[folder].split("\n") if line.strip()]
    number = {name: n for n, names in enumerate(layers) for name in names}
    prefix = f"{folder}." if folder else ""
    there = {m.removeprefix(prefix).split(".")[0] for m in modules() if m.startswith(prefix)}
    assert number.keys() == there, "LAYERS names what is there"
    wrong = [
        line
        for (mine, theirs), lines in arrows()[folder].items()
        if number[theirs] >= number[mine]
        for line in lines
    ]
    assert not wrong, "\n".join(wrong)


def test_what_the_law_allows_is_needed():
    needed = {(name, ours(imported)) for name in modules() for imported in imported_by(name)}
    assert ALLOWED.keys() <= needed


@pytest.mark.parametrize("folder", ["scheduler", "plugins", "display"])
def test_nobody_uses_private_names_of_another_object(folder):
    used = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name in modules()
        if name.startswith(f"{folder}.")
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.endswith("__")
        and ast.unparse(node.value) not in ("self", "cls", "super()")
    ]
    assert not used, "\n".join(used)


def test_dask_is_imported_by_few():
    for name in modules():
        imported = imported_by(name, for_types=False)
        dask = {i for i in imported if i.split(".")[0] in ("dask", "distributed")}
        allowed = any(f"{name}.".startswith(f"{one}.") for one in DASK_IS_IMPORTED_IN)
        assert allowed or not dask, name


def test_files_are_short():
    lines = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    long = {name: n for name, n in lines.items() if n > MOST_LINES_OF_A_FILE}
    assert not long


def test_functions_are_short():
    lines = {
        f"{name}:{node.name}": node.end_lineno - node.lineno + 1
        for name in modules()
        for node in ast.walk(tree_of(name))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }
    assert not {f: n for f, n in lines.items() if n > MOST_LINES_OF_A_FUNCTION}


def test_modules_of_tests_have_names_of_their_own():
    """pytest imports them by these alone."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert not [name for name, n in names.items() if n > 1]
