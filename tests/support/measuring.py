"""The programs that measure, as people run them."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.runner import ENVIRONMENT, ROOT


def program(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program of `benchmarks`, and return how it has ended."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
