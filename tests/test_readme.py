"""Every example in the README and in docs/ runs as it stands, and prints what it is said to."""

import re
import subprocess
import sys

import pytest
from pages import BLOCK, PAGES, README, examples, run_as_pasted

LINK = re.compile(r"\]\(([^)#]+)\)")


@pytest.mark.parametrize("code", examples(on_slurm=False))
def test_an_example_runs_as_pasted(code, tmp_path):
    run_as_pasted(code, tmp_path)


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
