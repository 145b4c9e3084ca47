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

    - `cancel()` also ends a call that is running, where its executor can.
    - `usage` is the call's [Usage][dask_limits.Usage] once it is done, however it ended.
    - It can be awaited.

    Attributes:
        usage: None until the call is done, and where it never ran.
        attempts: How many times the call was begun: more than once where a
            [Retry][dask_limits.Retry] had it submitted again, or its worker was lost.
        earlier: What its earlier attempts have failed with, from the first on.
    """

    usage: Usage | None
    attempts: int = 1
    earlier: tuple[BaseException, ...] = ()
    attempt_of: Future[R] | None = None
    """The future that users hold, if this is that of one attempt of its call."""

    # Never `set_running_or_notify_cancel()` before the end: the base class lets nothing that runs
    # be cancelled, so to it a running call of ours is a pending one.

    def __init__(self, on_cancel: Callable[[], object] | None = None) -> None:
        super().__init__()
        self.usage = None
        self._on_cancel = on_cancel
        self._started = False
        self._lock = threading.Lock()  # never held while callbacks run, which may do anything
        self._settled = False
        self._cancel_seen_to = False
        self._tell: Callable[[Future[R]], object] | None = None

    def running(self) -> bool:
        """Whether the call has been started and is not done."""
        return self._started and not self.done()

    def cancel(self) -> bool:
        """Cancel the call; if it is running, end it.

        Returns:
            True if it is cancelled now, False if it was done before.
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
        """Have this called when the call is done and all done-callbacks have been called.

        For the run loop: a done-callback may submit more, and the loop must not take the last
        call for done before it has.
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
        """Say that the call runs now. For executors."""
        self._started = True

    def ran_again(self, lost: BaseException) -> Future[R]:
        """Say that what ran the call was lost, and that it runs again. For executors.

        Args:
            lost: How it was lost.

        Returns:
            The future that users know the call by.
        """
        self.attempts += 1
        self.earlier += (lost,)
        return self if self.attempt_of is None else self.attempt_of.ran_again(lost)

    def settle(self, outcome: Outcome[R]) -> None:
        """Finish with this outcome, unless it was cancelled in the meantime. For executors."""
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
            pass  # cancelled: whoever cancelled has been told so already

    def __await__(self) -> Generator[object, None, R]:
        import asyncio  # takes a while, and few need it

        return asyncio.wrap_future(self).__await__()
