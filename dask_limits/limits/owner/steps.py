"""The path of a call as steps: a generator that yields where it has to wait.

`drive` takes all steps of one call and waits in between. A `Dispatcher` takes those of many calls
in turn. The code of the path is the same for both.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Final, TypeAlias, TypeVar

R = TypeVar("R")

Steps: TypeAlias = Generator[tuple[int, ...], bool, R]
"""Yields the files of which one must be readable before the next step; or none, to go on after
`PAUSE_S`. Is sent whether that step may block: if not, there may be nothing to read."""

PAUSE_S: Final = 0.001
"""How long a step waits for what no file tells."""


def drive(steps: Steps[R]) -> R:
    """Take all steps. Those that wait for a file block until it is readable."""
    try:
        files = next(steps)
        while True:
            if not files:
                time.sleep(PAUSE_S)
            files = steps.send(True)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    finally:
        steps.close()  # Ctrl-C may come between two steps
