from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

from dask_limits.executors.future import Call, Future
from dask_limits.limits import CancelToken

R = TypeVar("R")

_NOTE_LENGTH = 300  # characters; enough for a breach's sentence, and a traceback stays readable


class DeferredFuture(Future[R]):
    """The future of a call that is handed to its executor later, or more than once.

    It is there before the executor's own futures, and ends as the last of them does.

    Attributes:
        attempts: How many times the call was begun; 0 while it waits for its executor.
        earlier: What its earlier attempts have failed with, from the first on.
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
        """Hand the call to its executor. It is `then` that must see to the end of the attempt.

        Args:
            executor: Where it runs.
            call: The function, positional arguments, keyword arguments.
            then: Called with the executor's future when that is done, in any thread.
        """
        fn, args, kwargs = call
        self.attempts += 1
        try:
            attempt = executor.submit(fn, *args, **kwargs)
        except Exception as error:
            attempt = concurrent.futures.Future()
            attempt.set_exception(error)
        self._attempt = attempt
        if isinstance(attempt, Future):  # a worker cannot be lost before we are here
            attempt.attempt_of = self
        if not self._token.on_cancel(attempt.cancel):
            attempt.cancel()
        attempt.add_done_callback(then)

    def rest(self, failure: BaseException, end_rest: Callable[[], object]) -> None:
        """Wait for the next start, after an attempt that has failed.

        Args:
            failure: What it has failed with.
            end_rest: Called if the future is cancelled meanwhile.
        """
        self.earlier += (failure,)
        self._attempt = None
        if not self._token.on_cancel(end_rest):
            end_rest()

    def waits(self) -> bool:
        """Whether it is not done, and its executor has nothing of it."""
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
    """Let an error tell what came before it: in its traceback, and as its attribute `earlier`.

    Notes are text, and travel with the error wherever it can be pickled.
    """
    others = [(n, e) for n, e in enumerate(earlier, 1) if e is not error]
    if not others:
        return
    try:
        for n, other in others:
            error.add_note(f"Attempt {n} failed with {_in_short(other)}")
        error.earlier = tuple(e for _, e in others)  # type: ignore[attr-defined]
    except Exception:
        pass  # some classes refuse attributes; the future has them all


def _in_short(error: BaseException) -> str:
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:  # its __str__ is not ours
        text = type(error).__name__
    return text if len(text) <= _NOTE_LENGTH else f"{text[:_NOTE_LENGTH]} ..."
