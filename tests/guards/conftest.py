from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def run_program(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a program of its own, as a file; what it printed, and how it ended."""

    numbers = itertools.count()  # several may run at once, each from a file of its own

    def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        program = tmp_path / f"program_{next(numbers)}.py"
        program.write_text("import time, threading\nfrom dask_limits.guards import *\n" + code)
        return subprocess.run(
            [sys.executable, program, *arguments],
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )

    return run


@pytest.fixture(params=["main thread", "another thread"])
def in_a_thread(request: pytest.FixtureRequest) -> Callable[[Callable[[], Any]], Any]:
    """Call a function in this thread, or in another; what it returned or raised."""

    def in_another(function: Callable[[], Any]) -> Any:
        answers: list[Any] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                answers.append(function())
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return answers[0]

    return in_another if request.param == "another thread" else lambda function: function()
