from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from dask_limits.exceptions import CallCancelledError
from dask_limits.limits import Outcome, Usage

R = TypeVar("R")

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""What is submitted: the function, its positional arguments and its keyword arguments."""


class Future(concurrent.futures.Future[R], Generic[R]):
    """A call that may still be running: a `concurrent.futures.Future` that can do more.

    - `cancel()` also ends a call that is running, if its executor can.
    - `usage` is the call's [Usage][dask_limits.Usage] once it is done, however it ended.
    - It can be awaited.

    Attributes:
        usage: None until the call is done, and if it never ran.
        attempts: How many times the call was started. This is more than 1 if a
            [Retry][dask_limits.Retry] submitted it again, or if its worker was lost.
        earlier: The exceptions of its earlier attempts, in order.
        attempt_of: The future that users hold, if this is the future of one attempt.
    """

    usage: Usage | None
    attempts: int = 1
    earlier: tuple[BaseException, ...] = ()
    attempt_of: Future[R] | None = None

    # The base class does not let a running call be cancelled. So `set_running_or_notify_cancel()`
    # is not called before the end: to the base class, a running call is pending.

    def __init__(self, on_cancel: Callable[[], object] | None = None) -> None:
        super().__init__()
        self.usage = None
        self._on_cancel = on_cancel
        self._started = False
        self._lock = threading.Lock()  # never held while callbacks run: they may do anything
        self._settled = False
        self._cancel_seen_to = False
        self._tell: Callable[[Future[R]], object] | None = None

    def running(self) -> bool:
        """Whether the call has been started and is not done."""
        return self._started and not self.done()

    def cancel(self) -> bool:
        """Cancel the call. If it is running, end it.

        Returns:
            True if it is cancelled, False if it was done before.
        """
        if not super().cancel():
            return False
        with self._lock:
            first, self._cancel_seen_to = not self._cancel_seen_to, True
        if first:
            self.set_running_or_notify_cancel()  # wakes wait() and as_completed()
            on_cancel, self._on_cancel = self._on_cancel, None
            if on_cancel is not None:
                on_cancel()
            self._say_settled()
        return True

    def set_result(self, result: R) -> None:
        """Finish with this result. For executors."""
        super().set_result(result)
        self._say_settled()

    def set_exception(self, exception: BaseException | None) -> None:
        """Finish with this exception. For executors."""
        super().set_exception(exception)
        self._say_settled()

    def when_settled(self, tell: Callable[[Future[R]], object]) -> None:
        """Call this when the call is done and all done-callbacks have returned. For the run loop.

        A done-callback may submit another call, and the run must not end before that.
        """
        with self._lock:
            if not self._settled:
                self._tell = tell
                return
        tell(self)

    def _say_settled(self) -> None:
        with self._lock:
            self._settled = True
            tell, self._tell = self._tell, None
        if tell is not None:
            tell(self)

    def mark_started(self) -> None:
        """Mark the call as running. For executors."""
        self._started = True

    def ran_again(self, lost: BaseException) -> Future[R]:
        """Note that the worker of the call was lost, and that the call runs again. For executors.

        Args:
            lost: How the worker was lost.

        Returns:
            The future that users hold.
        """
        self.attempts += 1
        self.earlier += (lost,)
        return self if self.attempt_of is None else self.attempt_of.ran_again(lost)

    def settle(self, outcome: Outcome[R]) -> None:
        """Finish with this outcome, unless the call was cancelled meanwhile. For executors."""
        self.usage = outcome.usage
        self._on_cancel = None
        try:
            if isinstance(outcome.exception, CallCancelledError):
                self.cancel()
            elif outcome.exception is not None:
                self.set_exception(outcome.exception)
            else:
                self.set_result(outcome.value)  # type: ignore[arg-type]
        except concurrent.futures.InvalidStateError:
            pass  # it was cancelled meanwhile

    def __await__(self) -> Generator[object, None, R]:
        import asyncio  # slow to import, and rarely needed

        return asyncio.wrap_future(self).__await__()
