from __future__ import annotations

from collections.abc import Callable


class CancelToken:
    """Lets one thread end a call that another thread runs, or is about to run."""

    # There is no lock, which a signal's handler that cancels could find held by its own thread.
    # Whoever sets one of the two attributes then looks at the other, so one of them sees both.

    def __init__(self) -> None:
        self._ends: list[Callable[[], object]] = []  # one at most; whoever takes it calls it
        self.cancelled = False

    def cancel(self) -> None:
        """End the call if it runs; keep it from starting if it does not run yet."""
        self.cancelled = True
        if (end := self._take()) is not None:
            end()

    def on_cancel(self, end: Callable[[], object] | None) -> bool:
        """Set how to end the call; None when it is over. False if it is cancelled already."""
        self._ends = [] if end is None else [end]
        return not self.cancelled or (end is not None and self._take() is None)

    def _take(self) -> Callable[[], object] | None:
        try:
            return self._ends.pop()
        except IndexError:
            return None
