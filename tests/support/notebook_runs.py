"""The notebooks of notebooks/, run as `make notebooks` runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from pages import ROOT
from processes import until
from slurm_faults import MARK, marked

FOLDER = ROOT / "notebooks"
PATHS = re.compile(
    r"/(?:home|root|tmp|opt|usr|work)/\w+|"
    + "|".join(re.escape(f"{place}/") for place in {ROOT, Path.home(), sys.prefix, sys.base_prefix})
)
"""Those that are other ones on another machine."""

Kind = tuple[str, ...]


def notebook(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def executed(path: Path, folder: Path, **environment: str) -> Any:
    """Run a notebook; return it with its outputs. No process may be left of it."""
    program = [sys.executable, FOLDER / "make.py", path.stem, "--into", folder]
    ended = subprocess.run(
        program,
        env=os.environ | {MARK: str(folder)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    until(lambda: not marked(folder), instead=lambda: marked(folder))
    return notebook(folder / path.name)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def kinds(notebook: Any) -> dict[str, set[Kind]]:
    """Of each cell of code, which kinds of outputs it has."""
    return {
        cell.id: {
            (output.output_type, *sorted(output.get("data", [])), output.get("name", ""))
            for output in cell.outputs
        }
        for cell in code_cells(notebook)
    }


def texts(notebook: Any) -> Iterator[str]:
    """All that people read in its outputs."""
    for cell in code_cells(notebook):
        for output in cell.outputs:
            yield output.get("text", "")
            yield from (text for kind, text in output.get("data", {}).items() if "text/" in kind)


def check(notebook: Any) -> None:
    """Its outputs are those of cells that have worked, and are the same on any machine."""
    for cell, some in kinds(notebook).items():
        wrong = {kind for kind in some if kind[0] == "error" or "stderr" in kind}
        assert not wrong, (cell, *texts(notebook))
    for text in texts(notebook):
        assert not PATHS.search(text), text
