"""Without the extra, an error says how to install it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HOW = "run pip install 'dask-limits[sklearn]'"


@pytest.mark.parametrize(
    ("module", "missing", "needs"),
    [
        ("dask_limits.sklearn", "sklearn", "needs scikit-learn 1.6 or newer"),
        ("dask_limits.joblib", "joblib", "needs joblib"),
    ],
)
def test_the_error_of_a_missing_extra_has_the_command(
    module: str, missing: str, needs: str
) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"ImportError: {module} {needs}: {HOW}" in done.stderr


def test_an_old_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sklearn/utils").mkdir(parents=True)
    for file in ("sklearn/__init__.py", "sklearn/utils/__init__.py"):
        (tmp_path / file).touch()
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import dask_limits.sklearn"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f"ImportError: dask_limits.sklearn needs scikit-learn 1.6 or newer: {HOW}" in done.stderr


def test_nothing_else_imports_it() -> None:
    code = "import sys; from dask_limits import *; print({'sklearn', 'joblib'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n"
