from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator


class SharedPatch:
    """A change to something that all threads share, for as long as a block is open in any of them.

    Blocks may be nested, and those of several threads may overlap. The first one that is entered
    makes the change, the last one that is left undoes it.

    Args:
        change: Makes the change. Returns the function that undoes it.
    """

    def __init__(self, change: Callable[[], Callable[[], object]]) -> None:
        self._change = change
        self._lock = threading.RLock()
        self._blocks = 0

    @contextlib.contextmanager
    def block(self) -> Iterator[None]:
        """Make the change in this block, unless it has been made already."""
        with self._lock:
            if self._blocks == 0:
                self._undo = self._change()
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if self._blocks == 0:
                    self._undo()
