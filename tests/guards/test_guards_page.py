"""Every example of docs/guards.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "guards.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
PROGRAMS = [code for language, code in BLOCKS if language == "python"]


@pytest.mark.parametrize("code", PROGRAMS, ids=range(len(PROGRAMS)))
def test_an_example_runs_as_pasted(code, run_program):
    ended = run_program(code)
    assert (ended.stderr, ended.returncode) == ("", 0)


def test_the_first_example_prints_what_it_is_said_to_print(run_program):
    said = next(text for language, text in BLOCKS if not language)
    assert run_program(PROGRAMS[0]).stdout == said
