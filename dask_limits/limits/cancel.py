from __future__ import annotations

import threading
from collections.abc import Callable


class CancelToken:
    """Lets one thread end a call that another thread runs, or is about to run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end: Callable[[], object] | None = None
        self.cancelled = False

    def cancel(self) -> None:
        """End the call if it runs; keep it from starting if it does not run yet."""
        with self._lock:
            self.cancelled = True
            end, self._end = self._end, None
        if end is not None:
            end()

    def on_cancel(self, end: Callable[[], object] | None) -> bool:
        """Set how to end the call; None when it is over. False if it is cancelled already."""
        with self._lock:
            self._end = end
            return not self.cancelled
