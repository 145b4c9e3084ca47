"""Why a run ends, and what it raises then."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError

from dask_limits.exceptions import JournalError
from dask_limits.printable import repr_of
from dask_limits.scheduler.exit_state import Action, ExitState, RunOptions


class RunEnd:
    """Decides what exceptions and cancelled calls do to a run, by its options.

    Attributes:
        exit: Why it ends, if that is decided.
        stop: What callbacks of STOP are called with, if something has ended it.
        error: What `Scheduler.run` raises in the end.
    """

    def __init__(self, options: RunOptions) -> None:
        self.exit: ExitState | None = None
        self.stop: tuple[str, BaseException | None] | None = None
        self.error: BaseException | None = None
        self._options = options

    def is_decided(self) -> bool:
        """Whether the run ends, whatever is left to do and however much time."""
        return self.exit is not None or self.stop is not None

    def reason(self, deadline: float | None) -> ExitState | None:
        """Why the run ends now; None if it goes on. The deadline is one of `time.monotonic()`."""
        if self.exit is not None:
            return self.exit
        if self.stop is not None:
            return ExitState(ExitState.Code.STOPPED, self.stop[1])
        if deadline is not None and time.monotonic() >= deadline:
            return ExitState(ExitState.Code.TIMEOUT)
        return None

    def failed(self, error: BaseException, *, of_callback: bool) -> bool:
        """Apply `on_exception` to what a call or a callback has raised.

        Return whether anything comes of it.
        """
        action = self._options.action_for(error)
        if of_callback and isinstance(error, JournalError):  # of a submit: no call could be known
            action = "raise"
        if action == "continue":
            return False
        message = f"A {'callback' if of_callback else 'call'} raised {repr_of(error)}"
        return self._because(ExitState.Code.EXCEPTION, message, error, action)

    def cancelled(self, name: str) -> None:
        """Apply `on_cancelled` to a call of this name."""
        action = self._options.on_cancelled
        if action == "continue":
            return
        message = f"{name}() was cancelled"
        error = CancelledError(
            f"{message}. Use run(on_cancelled='continue') to go on when a call is cancelled."
        )
        self._because(ExitState.Code.CANCELLED, message, error, action)

    def _because(
        self, code: ExitState.Code, message: str, error: BaseException, action: Action
    ) -> bool:
        """End the run as `stop()` does, if nothing else does. Return whether the error is kept."""
        ends = self.exit is None
        if ends:
            self.exit = ExitState(code, error)
            self.stop = self.stop or (message, error)
        raises = action == "raise" and self.error is None
        if raises:
            self.error = self._options.with_advice(error)
        return ends or raises
