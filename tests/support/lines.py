"""Does something at one line of the package, as a signal's handler would."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import dask_limits

_PACKAGE = Path(dask_limits.__file__).parent


def at_line(
    number: int, do: Callable[[], object], run: Callable[[], object], *folders: str
) -> bool:
    """Run something in this thread, and `do` at the n-th line that it takes in these folders or
    files.

    Return whether there was such a line. What either of them raises is raised here.
    """
    inside = tuple(f"{_PACKAGE / f}{'' if f.endswith('.py') else '/'}" for f in folders)
    n = 0

    def trace_lines(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal n
        if event == "line" and n < number:
            n += 1
            if n == number:
                do()
        return trace_lines

    def trace_calls(frame: FrameType, event: str, argument: object) -> Any:
        return trace_lines if frame.f_code.co_filename.startswith(inside) else None

    before = sys.gettrace()
    sys.settrace(trace_calls)
    try:
        run()
    finally:
        sys.settrace(before)
    return n == number
