"""Every example in the README and in docs/ runs as it stands, and prints what it is said to."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

QUIET = {"DASK_LOGGING__DISTRIBUTED": "critical"}  # its workers log what tasks fail with
ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = [
    pytest.param(code, id=f"{page.name}-{n}")
    for page in PAGES
    for n, (language, code) in enumerate(BLOCK.findall(page.read_text()))
    if language == "python"
]
LINK = re.compile(r"\]\(([^)#]+)\)")


@pytest.mark.parametrize("code", PROGRAMS)
def test_an_example_runs_as_pasted(code, tmp_path):
    program = tmp_path / "example.py"
    program.write_text(code)
    ended = subprocess.run(
        [sys.executable, program],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env=os.environ | QUIET,
    )
    assert ended.stderr == ""
    assert ended.returncode == 0


def test_the_first_example_prints_what_it_is_said_to_print():
    blocks = BLOCK.findall(README.read_text())
    program = next(code for language, code in blocks if language == "python")
    said = next(text for language, text in blocks if not language)
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    no_figures = re.compile(r"took [\d.]+ s")
    assert no_figures.sub("", ended.stdout) == no_figures.sub("", said)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page):
    for target in LINK.findall(page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target
