"""Every example in the README runs as it stands, and prints what it is said to print."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = [code for language, code in BLOCK.findall(README.read_text()) if language == "python"]


@pytest.mark.parametrize("code", PROGRAMS, ids=range(len(PROGRAMS)))
def test_an_example_runs_as_pasted(code, tmp_path):
    program = tmp_path / "example.py"
    program.write_text(code)
    ended = subprocess.run(
        [sys.executable, program], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert ended.stderr == ""
    assert ended.returncode == 0


def test_the_first_example_prints_what_it_is_said_to_print(tmp_path):
    said = next(text for language, text in BLOCK.findall(README.read_text()) if not language)
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAMS[0]], capture_output=True, text=True, check=True
    )
    no_figures = re.compile(r"took [\d.]+ s")
    assert no_figures.sub("", ended.stdout) == no_figures.sub("", said)
