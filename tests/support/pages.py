"""The README and docs/, with their examples."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

QUIET = {
    "DASK_LOGGING__DISTRIBUTED": "critical",  # workers log the errors of tasks
    "PYTHONWARNINGS": "ignore:Port 8787 is already in use,"  # by another test or program
    "ignore:Creating scratch directories is taking",  # on a busy machine
}
ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLE = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(\nIt prints(?P<but>[^\n]*):\n\n```\n(?P<printed>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Example:
    """A program of a page, what the page says that it prints, if it does, and in which order."""

    code: str
    printed: str | None
    in_order: bool


def examples(*, on_slurm: bool) -> list[object]:
    """The Python programs of all pages, or those that need a SLURM, as parameters of a test."""
    return [
        pytest.param(
            Example(found["code"], found["printed"], not found["but"]),
            id=f"{page.relative_to(ROOT)}-{n}",
        )
        for page in PAGES
        for n, found in enumerate(EXAMPLE.finditer(page.read_text()))
        if page.parent.name != "coming-from"  # see test_coming_from.py
        if "scheduler_file" not in found["code"]  # run by a script: see slurm/test_examples.py
        if needs_slurm(found["code"]) == on_slurm
    ]


def needs_slurm(code: str) -> bool:
    return "with_slurm" in code or '("slurm"' in code


def run_as_pasted(code: str, directory: Path, *, may_log: bool = False) -> str:
    """Run an example as somebody would who has pasted it; return what it prints.

    It must print nothing to standard error, unless it is a program of others that `may_log`.
    """
    program = directory / "example.py"
    program.write_text(code)
    ended = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        cwd=directory,
        check=False,
        env=os.environ | QUIET,
    )
    assert may_log or ended.stderr == "", ended.stderr
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
