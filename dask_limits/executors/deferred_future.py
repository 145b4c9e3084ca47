from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

from dask_limits.executors.future import Call, Future
from dask_limits.limits import CancelToken

R = TypeVar("R")

_NOTE_LENGTH = 300  # characters: enough for the message of a breach


class DeferredFuture(Future[R]):
    """The future of a call that is submitted to its executor later, or more than once.

    Each attempt has a future of its own, from the executor. This one ends as the last of them.

    Attributes:
        attempts: How many times the call was started; 0 while it is held.
        earlier: The exceptions of its earlier attempts, in order.
    """

    def __init__(self) -> None:
        self.attempts = 0
        self.earlier: tuple[BaseException, ...] = ()
        self._token = CancelToken()
        self._attempt: concurrent.futures.Future[R] | None = None
        super().__init__(on_cancel=self._token.cancel)

    def start(
        self,
        executor: concurrent.futures.Executor,
        call: Call,
        then: Callable[[concurrent.futures.Future[R]], object],
    ) -> None:
        """Submit an attempt to the executor.

        Args:
            executor: Where it runs.
            call: The function, positional arguments and keyword arguments.
            then: Called with the future of the attempt when it is done, in any thread. It must
                call `end_as`, or `rest` and then `start` again.
        """
        fn, args, kwargs = call
        self.attempts += 1
        try:
            attempt = executor.submit(fn, *args, **kwargs)
        except Exception as error:
            attempt = concurrent.futures.Future()
            attempt.set_exception(error)
        self._attempt = attempt
        if isinstance(attempt, Future):  # no worker can have been lost by now
            attempt.attempt_of = self
        if not self._token.on_cancel(attempt.cancel):
            attempt.cancel()
        attempt.add_done_callback(then)

    def rest(self, failure: BaseException, end_rest: Callable[[], object]) -> None:
        """Wait for the next attempt, after one that has failed.

        Args:
            failure: The exception of the failed attempt.
            end_rest: Called if this future is cancelled meanwhile.
        """
        self.earlier += (failure,)
        self._attempt = None
        if not self._token.on_cancel(end_rest):
            end_rest()

    def waits(self) -> bool:
        """Whether the call is not done, and no attempt of it runs."""
        return self._attempt is None and not self.done()

    def running(self) -> bool:
        """Whether the call has been started and is not done."""
        attempt = self._attempt
        return attempt is not None and attempt.running() and not self.done()

    def end_as(self, attempt: concurrent.futures.Future[R]) -> None:
        """End as an attempt has ended."""
        self.usage = getattr(attempt, "usage", None)
        if attempt.cancelled():
            self.cancel()
            return
        error = attempt.exception()
        try:
            if error is None:
                self.set_result(attempt.result())
            else:
                _tell_of_earlier(error, self.earlier)
                self.set_exception(error)
        except concurrent.futures.InvalidStateError:
            pass  # cancelled in the meantime


def _tell_of_earlier(error: BaseException, earlier: tuple[BaseException, ...]) -> None:
    """Add earlier exceptions to an error: as notes, and as its attribute `earlier`.

    Notes are text, so they are pickled with the error whatever the exceptions are.
    """
    others = [(n, e) for n, e in enumerate(earlier, 1) if e is not error]
    if not others:
        return
    try:
        for n, other in others:
            error.add_note(f"Attempt {n} failed with {_in_short(other)}")
        error.earlier = tuple(e for _, e in others)  # type: ignore[attr-defined]
    except Exception:
        pass  # some classes allow no attributes; the future has `earlier` too


def _in_short(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # its __str__ may do anything
        text = type(error).__name__
    return text if len(text) <= _NOTE_LENGTH else f"{text[:_NOTE_LENGTH]} ..."
