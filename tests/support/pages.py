"""What is written for people, with its examples."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

QUIET = {
    "DASK_LOGGING__DISTRIBUTED": "critical",  # its workers log what tasks fail with
    "PYTHONWARNINGS": "ignore:Port 8787 is already in use",  # by another test, or by anybody
}
ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def examples(*, on_slurm: bool) -> list[object]:
    """All Python programs of the pages, or those that need a SLURM, as parameters of a test."""
    return [
        pytest.param(code, id=f"{page.name}-{n}")
        for page in PAGES
        for n, (language, code) in enumerate(BLOCK.findall(page.read_text()))
        if language == "python" and ("with_slurm" in code or "SLURMCluster" in code) == on_slurm
    ]


def run_as_pasted(code: str, directory: Path) -> str:
    """Run an example as somebody would who has pasted it; what it has printed."""
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
    assert ended.stderr == "", ended.stderr
    assert ended.returncode == 0
    return ended.stdout
