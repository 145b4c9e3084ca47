"""The pages for those who come from other tools: both programs of a page run, and do the same."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from pages import ROOT, run_as_pasted
from required import need

FOLDER = ROOT / "docs" / "coming-from"
PROGRAM = re.compile(r"^```(python|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
IMPORTED = re.compile(r"^(?:from|import) (\w+)", re.MULTILINE)


def run_theirs(language: str, code: str, directory: Path) -> str:
    if language == "sh":
        if shutil.which(code.split()[0]) is None:
            pytest.skip(f"there is no {code.split()[0]} here")  # it is no Python package
        command = ["sh", "-e", "-c", code]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name in IMPORTED.findall(code):
        need(importlib.util.find_spec(name), f"{name}, which `make docs` installs")
    return run_as_pasted(code, directory, may_log=True)


@pytest.mark.parametrize("page", sorted(FOLDER.glob("*.md")), ids=lambda page: page.stem)
def test_both_programs_do_the_same(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray Tune leaves its results
    (language, theirs), (_, ours) = PROGRAM.findall(page.read_text())
    printed = run_as_pasted(ours, tmp_path).splitlines()
    assert printed
    with tempfile.TemporaryDirectory(prefix="theirs-") as short:  # a path for Ray's sockets
        monkeypatch.setenv("RAY_TMPDIR", short)
        assert {*printed} <= {*run_theirs(language, theirs, tmp_path).splitlines()}
