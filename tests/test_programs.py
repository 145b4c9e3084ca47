"""The programs use what users can use, and nothing else of the package."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import dask_limits

PACKAGE = Path(dask_limits.__file__).parent
PROGRAMS = ("batch", "check", "cli", "search", "submit")
MODULES = {
    "dask_limits",
    "dask_limits.exceptions",
    "dask_limits.guards",
    "dask_limits.units",
    # Texts of commands, as they are printed everywhere.
    "dask_limits.in_short",
    "dask_limits.printable",
    # What a batch runs that is resumed: only the journal can tell.
    "dask_limits.journal.identity",
    "dask_limits.journal.lock",
    "dask_limits.journal.rows",
    "dask_limits.journal.store",
    # Of SLURM's commands, for `dask-limits submit`: a copy of them would be worse.
    "dask_limits.batch_systems.sbatch",
    "dask_limits.batch_systems.slurm",
    "dask_limits.batch_systems.walltimes",
}


def is_public(imported: ast.Import | ast.ImportFrom) -> bool:
    if isinstance(imported, ast.Import):
        return not any(alias.name.startswith("dask_limits") for alias in imported.names)
    module = imported.module or ""
    if module not in MODULES:
        return module.split(".")[0] != "dask_limits" or module.split(".")[1] in PROGRAMS
    public = getattr(importlib.import_module(module), "__all__", None)
    names = [alias.name for alias in imported.names]
    return all(name in public if public else name[0] != "_" for name in names)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_imports_only_public_names(program):
    private = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {ast.unparse(node)}"
        for path in (PACKAGE / program).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom) and not is_public(node)
    ]
    assert not private, "\n".join(private)


@pytest.mark.parametrize(
    ("statement", "public"),
    [
        ("import dask_limits.limits", False),
        ("from dask_limits.limits import limit", False),
        ("from dask_limits.units import whole_number", False),
        ("from dask_limits.cli.options import BadInput", True),
        ("from dask_limits.units import parse_bytes", True),
        ("import os", True),
    ],
)
def test_private_names_are_told_from_public_ones(statement, public):
    (node,) = ast.parse(statement).body
    assert isinstance(node, ast.Import | ast.ImportFrom)
    assert is_public(node) == public
