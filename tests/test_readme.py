"""The README and docs/: examples run and print what the page says, links and paths exist."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import PAGES, ROOT, Example, examples, run_as_pasted

import dask_limits
from dask_limits import guards

CONTRIBUTING = ROOT / "CONTRIBUTING.md"
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")
MAP = re.compile(r"^```\n(.*?)^```", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"`(?:\.venv/bin/pytest )?((?:\w+/)*(?:\w+/|\w+\.(?:py|md|toml)))`")
"""A path in a page, in code: `limits/owner/`, `tests/conftest.py`."""
REFERENCE = re.compile(r"\]\[(dask_limits[\w.]*)\]")
"""A cross-reference in a docstring, in the form of mkdocstrings: [limit][dask_limits.limit]."""
REFERENCE_ENTRY = re.compile(r"^::: (dask_limits[\w.]*)$", re.MULTILINE)
"""What mkdocstrings puts the docstring of into a page."""
MEASURED = re.compile(r"took [\d.]+ s")


@pytest.mark.parametrize("example", examples(on_slurm=False))
def test_an_example_runs_as_pasted_and_prints_what_the_page_says(
    example: Example, tmp_path: Path
) -> None:
    printed = MEASURED.sub("", run_as_pasted(example.code, tmp_path)).splitlines()
    if example.printed is not None:
        expected = MEASURED.sub("", example.printed).splitlines()
        assert printed == expected if example.in_order else sorted(printed) == sorted(expected)


def test_the_readme_is_for_two_minutes() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_links_to_exists(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@pytest.mark.parametrize(
    "page", [*PAGES, CONTRIBUTING], ids=lambda page: str(page.relative_to(ROOT))
)
def test_what_a_page_names_exists(page: Path) -> None:
    for path in PATH.findall(page.read_text()):
        assert (ROOT / path).exists() or (ROOT / "dask_limits" / path).exists(), path


def test_the_map_has_all_folders() -> None:
    folders = {path.parent for path in (ROOT / "dask_limits").rglob("*.py")}
    named = {line.split()[0] for line in MAP.findall(CONTRIBUTING.read_text())[0].splitlines()}
    expected = {f"{folder.relative_to(ROOT / 'dask_limits')}/" for folder in folders} - {"./"}
    assert {name for name in named if name.endswith("/")} == expected
    for name in named:
        assert (ROOT / "dask_limits" / name).exists(), name


def test_the_references_in_docstrings_name_what_is_public() -> None:
    for path in (ROOT / "dask_limits").rglob("*.py"):
        for target in REFERENCE.findall(path.read_text()):
            assert target.split(".")[1] in {*dask_limits.__all__, "guards"}, f"{path}: {target}"
            assert resolve(target) is not None


def resolve(target: str) -> object:
    """The object at a dotted path, as mkdocstrings finds it."""
    parts = target.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for name in parts[n:]:
            found = getattr(found, name)
        return found
    raise AssertionError(target)


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "README.md"
    linked = set(LINK.findall(index.read_text()))
    pages = {str(page.relative_to(index.parent)) for page in index.parent.rglob("*.md")}
    assert pages - {index.name} <= linked


def test_every_page_is_in_the_menu_of_the_site() -> None:
    menu = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(menu) == sorted(
        str(page.relative_to(ROOT / "docs")) for page in PAGES if page.parent != ROOT
    )


def test_the_reference_has_every_public_name() -> None:
    pages = (ROOT / "docs" / "reference").glob("*.md")
    there = {name for page in pages for name in REFERENCE_ENTRY.findall(page.read_text())}
    public = {f"dask_limits.{name}" for name in dask_limits.__all__} - {"dask_limits.optuna"}
    public |= {f"dask_limits.guards.{name}" for name in guards.__all__}
    public |= {"dask_limits.optuna.optimize", "dask_limits.sklearn.Limited"}
    assert public <= there
    for name in there:
        assert resolve(name) is not None


def test_the_picture_of_the_live_view_shows_what_a_run_shows(tmp_path: Path) -> None:
    program, picture = ROOT / "docs" / "make_live_view.py", tmp_path / "live.svg"
    subprocess.run([sys.executable, program, picture], check=True)
    text = re.compile(r"<text[^>]*>([^<]*)</text>")
    drawn = text.findall((ROOT / "docs" / "live.svg").read_text())
    assert text.findall(picture.read_text()) == drawn, "run `make docs/live.svg`"


def test_the_picture_of_reservations_shows_when_calls_start(tmp_path: Path) -> None:
    program, picture = ROOT / "docs" / "make_reservations.py", tmp_path / "reservations.svg"
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_CPUS_ON_NODE": "8", "SLURM_MEM_PER_NODE": "999"}
    own_account = os.environ | job  # beside that of other tests, as a job has
    subprocess.run([sys.executable, program, picture], check=True, env=own_account)
    name = re.compile(r"<text[^>]*>(\w: [^<]*)</text>")
    bar = re.compile(r'<rect x="(\d+)"')
    shown = (ROOT / "docs" / "reservations.svg").read_text()
    for drawn in (shown, picture.read_text()):
        assert name.findall(drawn) == name.findall(shown)
        a, b, c, d, e = map(int, bar.findall(drawn))
        assert max(a, c) < d < b < e, "run `make docs/reservations.svg`"
