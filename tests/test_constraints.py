"""The versions that the tests run with are those that the package names."""

from __future__ import annotations

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from dask_limits.dask.compat.undocumented_name import TESTED

ROOT = Path(__file__).parents[1]
EXTRAS = ("sklearn", "search", "loky", "optuna", "report", "test")
NOT_WITH_THE_OLDEST = {
    *("coverage", "dask-limits", "ipykernel", "ipywidgets", "jupyter-client"),
    *("matplotlib", "mypy", "nbclient", "nbconvert", "nbformat", "opentelemetry-sdk"),
    *("pandas-stubs", "pebble", "ruff", "selenium"),
}
"""What `make test-oldest` does not use."""


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return {
        package.lower().replace("_", "-"): version
        for package, _, version in (line.partition("==") for line in lines if line[0] != "#")
    }


def lower_bounds() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"]]
    named += [line for extra in EXTRAS for line in project["optional-dependencies"][extra]]
    found = (re.fullmatch(r"([\w-]+)(?:\[.*\])?(?:>=([\d.]+).*)?", line) for line in named)
    return {one[1]: one[2] for one in found if one and not one[1].startswith("types-")}


def number(version: str) -> list[int]:
    """Of the version, without zeros at its end."""
    return [int(part) for part in re.sub(r"(\.0)+$", "", version).split(".")]


def test_all_that_extras_name_has_a_version_that_is_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = chain(project["dependencies"], *project["optional-dependencies"].values())
    packages = {re.match(r"[\w-]+", line)[0].lower() for line in named} - {"dask-limits"}
    assert packages <= pins("constraints.txt").keys()


@pytest.mark.parametrize("package", sorted(lower_bounds().keys() - NOT_WITH_THE_OLDEST))
def test_the_oldest_version_that_is_tested_is_the_oldest_that_is_allowed(package: str) -> None:
    assert number(pins("constraints-oldest.txt")[package]) == number(lower_bounds()[package])


@pytest.mark.parametrize("package", TESTED)
def test_errors_name_the_versions_that_are_tested(package: str) -> None:
    oldest, newest = pins("constraints-oldest.txt")[package], pins("constraints.txt")[package]
    assert TESTED[package] == (oldest, newest)
