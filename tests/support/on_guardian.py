"""Calls on a guardian that a test has to itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask_limits.limits import Limits
from dask_limits.limits.owner.guardian import Guardian

LONG_S = 0.2
"""Of a call that is worth a process of its own, on a busy machine too."""


def call(guardian: Guardian, fn: Callable[..., Any], *args: Any, **limits: Any) -> Any:
    """Run a call, and return its value."""
    return guardian.run(fn, args, {}, Limits(wall_time=300, **limits)).result()
