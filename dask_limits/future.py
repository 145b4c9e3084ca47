from __future__ import annotations

import _thread
import concurrent.futures
import itertools
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures._base import PENDING
from contextlib import nullcontext
from functools import partial
from typing import Any, Generic, TypeVar

from dask_limits.exceptions import CallCancelledError
from dask_limits.limits import CancelToken, Outcome, Usage
from dask_limits.limits.call_span import CallSpan

R = TypeVar("R")
T = TypeVar("T")

_NOTE_LENGTH = 300  # characters: enough for the message of a breach
_numbers = itertools.count(1)

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""What is submitted: the function, its positional arguments and its keyword arguments."""


class _Condition(_thread.RLock):  # type: ignore[misc]  # it can be inherited from
    """What a future of the standard library needs of a `threading.Condition`.

    That takes 1.4 KB, and a future that nobody waits for needs the lock alone. It would also wait
    for ever if a signal's handler ended the future just before.
    """

    __slots__ = ("_is_over", "_waiters")

    def __init__(self) -> None:
        self._is_over = False
        self._waiters: list[_thread.LockType] | None = None  # one, held, for each wait

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for `notify_all`, or return if it was. This thread holds the lock, as in that."""
        waiter = _thread.allocate_lock()
        waiter.acquire()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        # These two are what a Condition calls, too.
        held = self._release_save()  # type: ignore[attr-defined]
        try:
            return self._is_over or waiter.acquire(True, -1 if timeout is None else max(timeout, 0))
        finally:
            self._acquire_restore(held)  # type: ignore[attr-defined]
            try:
                self._waiters.remove(waiter)
            except ValueError:
                pass  # it was notified

    def notify_all(self) -> None:
        """Wake all threads that wait. That is when the future is done, so no others will."""
        self._is_over = True
        while self._waiters:
            self._waiters.pop().release()


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
        worker: On Dask, the name of the worker that has run the call, once it is done.
        job: The id of the batch job of that worker; empty if it is in none.
        task_key: On Dask, the key of the task that the call has gone with.
        submitted_at: When it was submitted, in seconds since 1970.
        started_at: When it was started, as far as that is known before its end.
        from_journal: Whether the call has ended in an earlier run, which a
            [Journal][dask_limits.Journal] remembers.
    """

    usage: Usage | None = None
    attempts: int = 1
    earlier: tuple[BaseException, ...] = ()
    attempt_of: Future[R] | None = None
    worker: str = ""
    job: str = ""
    task_key: str = ""
    started_at: float | None = None
    from_journal: bool = False

    _span: CallSpan | None = None
    _progress: deque[Callable[[], Any]] | None = None  # what loads the latest value; one at most
    _tell_progress: Callable[[Future[R]], object] | None = None
    _is_progress_told = False  # and not taken since

    # The base class does not let a running call be cancelled. So `set_running_or_notify_cancel()`
    # is not called before the end: to the base class, a running call is pending.
    #
    # There is no lock besides that of the base class, which is one for a thread that holds it too:
    # a signal's handler may interrupt any of this. Whoever sets one of two things then looks at the
    # other, so one of two threads sees both; what is to happen once is popped.

    def __init__(self, on_cancel: Callable[[], object] | None = None) -> None:
        # What the base class sets, with a condition that is made when a thread waits for it.
        self._condition = _Condition()  # type: ignore[assignment]
        self._state = PENDING
        self._result = None
        self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Callable[[Future[R]], object]] = []
        self._on_cancel = on_cancel
        self._number = next(_numbers)
        self.submitted_at = time.time()
        self._settled = False
        self._uncancelled = [True]
        self._tell: list[Callable[[Future[R]], object]] = []

    @property
    def key(self) -> str:
        """What the call is called in a report: on Dask the key of its task, else a number."""
        return self.task_key or str(self._number)

    def running(self) -> bool:
        """Whether the call has been started and is not done.

        Of a call on Dask this is known when it has run for some 0.1 s, or up to a second if it is
        behind others in a batch.
        """
        return self.started_at is not None and not self.done()

    def cancel(self) -> bool:
        """Cancel the call. If it is running, end it.

        Returns:
            True if it is cancelled, False if it was done before.
        """
        try:
            super().cancel()
        finally:  # a done-callback may raise what is no Exception, such as SystemExit
            if self.cancelled() and _popped(self._uncancelled):
                self._end_cancelled()
        return self.cancelled()

    def _end_cancelled(self) -> None:
        self.set_running_or_notify_cancel()  # wakes wait() and as_completed()
        on_cancel, self._on_cancel = self._on_cancel, None
        if on_cancel is not None:
            on_cancel()
        self._say_settled()

    def set_result(self, result: R) -> None:
        """Finish with this result. For executors."""
        self._settle(partial(super().set_result, result))

    def set_exception(self, exception: BaseException | None) -> None:
        """Finish with this exception. For executors."""
        self._settle(partial(super().set_exception, exception))

    def _settle(self, finish: Callable[[], object]) -> None:
        try:
            finish()
        except concurrent.futures.InvalidStateError:
            raise  # it was finished before
        except BaseException:  # of a done-callback: others are logged
            self._say_settled()
            raise
        self._say_settled()

    def when_settled(self, tell: Callable[[Future[R]], object]) -> None:
        """Call this when the call is done and all done-callbacks have returned. For the run loop.

        A done-callback may submit another call, and the run must not end before that.
        """
        self._tell.append(tell)
        if self._settled:
            self._say_settled()

    def _say_settled(self) -> None:
        self._settled = True
        self._on_cancel = self._tell_progress = None  # they may have much of what was submitted
        if (tell := _popped(self._tell)) is not None:
            tell(self)

    def mark_started(self) -> None:
        """Mark the call as running. For executors."""
        self.started_at = time.time()
        if self.attempt_of is not None:
            self.attempt_of.started_at = self.started_at

    def note_progress(self, load: Callable[[], Any]) -> None:
        """Note that there is a new value of `progress`, and how to load it. For executors."""
        if self._progress is None:
            self._progress = deque(maxlen=1)
        self._progress.append(load)
        if self._tell_progress is not None and not self._is_progress_told:
            self._is_progress_told = True
            self._tell_progress(self)

    def when_progress(self, tell: Callable[[Future[R]], object]) -> None:
        """Call this when there is a new value; again after it was taken. For the run loop."""
        self._tell_progress = tell
        if self._progress:
            self._is_progress_told = True
            tell(self)

    def take_progress(self) -> Callable[[], Any] | None:
        """What loads the latest value; None if there is no new one. For the run loop."""
        self._is_progress_told = False  # first: what comes from here on is told
        return None if self._progress is None else _popped(self._progress)

    def ran_again(self, lost: BaseException) -> Future[R]:
        """Note that the call runs again, as its worker was lost; return the future of users."""
        self.started_at = None
        self.attempts += 1
        self.earlier += (lost,)
        if self._span is not None:
            self._span.runs_again(lost, self.attempts)
        return self if self.attempt_of is None else self.attempt_of.ran_again(lost)

    def _trace(self, span: CallSpan) -> None:
        """Have a span of OpenTelemetry end with the call."""
        self._span = span  # until it ends
        self.add_done_callback(_tell_end)  # no method: that would be a circle

    def settle(self, outcome: Outcome[R]) -> None:
        """Finish with this outcome, unless the call was cancelled meanwhile. For executors."""
        self.usage = outcome.usage
        self._on_cancel = None
        if isinstance(outcome.exception, CallCancelledError):
            self.cancel()
        else:
            self._finish(outcome.value, outcome.exception)

    def _finish(self, value: R | None = None, exception: BaseException | None = None) -> None:
        """Finish with a value or an exception, unless the call was cancelled meanwhile."""
        try:
            if exception is None:
                self.set_result(value)  # type: ignore[arg-type]
            else:
                self.set_exception(exception)
        except concurrent.futures.InvalidStateError:
            pass  # it was cancelled meanwhile

    def _end_as(self, other: concurrent.futures.Future[R]) -> None:
        """Finish as another one has, unless this was cancelled meanwhile."""
        if isinstance(other, Future):
            self.usage, self.started_at = other.usage, other.started_at
            self.worker, self.job, self.task_key = other.worker, other.job, other.task_key
        if other.cancelled():
            self.cancel()
        elif (error := other.exception()) is None:
            self._finish(other.result())
        else:
            self._finish(exception=error)

    def __await__(self) -> Generator[object, None, R]:
        import asyncio  # slow to import, and rarely needed

        return asyncio.wrap_future(self).__await__()


class DeferredFuture(Future[R]):
    """The future of a call that is submitted to its executor later, or more than once.

    Each attempt has a future of its own, from the executor. This one ends as the last of them.
    """

    attempts = 0  # while the call is held

    def __init__(self) -> None:
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

        When it is done, `then` is called with its future, in any thread. It must call `end_as`, or
        `rest` and then `start` again.
        """
        fn, args, kwargs = call
        self.attempts += 1
        try:
            with nullcontext() if self._span is None else self._span.is_submitted():
                attempt = executor.submit(fn, *args, **kwargs)
        except Exception as error:
            attempt = concurrent.futures.Future()
            attempt.set_exception(error)
        self._attempt = attempt
        if isinstance(attempt, Future):  # no worker can have been lost by now
            attempt.attempt_of = self
            self.started_at = attempt.started_at
            attempt.when_progress(self._pass_on_progress)
            if self._span is not None:
                attempt.add_done_callback(partial(_tell_ran, self._span))
        if not self._token.on_cancel(attempt.cancel):
            attempt.cancel()
        attempt.add_done_callback(then)

    def _pass_on_progress(self, attempt: Future[R]) -> None:
        if (load := attempt.take_progress()) is not None:
            self.note_progress(load)

    def rest(self, failure: BaseException, end_rest: Callable[[], object]) -> None:
        """Wait for the next attempt, after one that has failed. A cancel calls `end_rest`."""
        self.earlier += (failure,)
        if self._span is not None:
            self._span.runs_again(failure, self.attempts + 1)
        self._attempt = self.started_at = None
        if not self._token.on_cancel(end_rest):
            end_rest()

    def waits(self) -> bool:
        """Whether the call is not done, and no attempt of it runs."""
        return self._attempt is None and not self.done()

    def running(self) -> bool:
        """Whether the call has been started and is not done."""
        attempt = self._attempt
        return attempt is not None and attempt.running() and not self.done()

    def _say_settled(self) -> None:
        self._attempt = None  # its callbacks have this: no circle
        if not self._token.cancelled:  # else it may be about to end an attempt that starts
            self._token.on_cancel(None)
        super()._say_settled()

    def end_as(self, attempt: concurrent.futures.Future[R]) -> None:
        """End as an attempt has ended."""
        if not attempt.cancelled() and (error := attempt.exception()) is not None:
            _tell_of_earlier(error, self.earlier)
        self._end_as(attempt)


def _tell_end(future: Any) -> None:
    span, future._span = future._span, None
    if not isinstance(future, DeferredFuture):  # of which each attempt has told that
        _tell_ran(span, future)
    about = {"dask_limits.attempts": future.attempts, **_place_of(future)}
    span.end(_error_of(future), future.usage, about)


def _tell_ran(span: CallSpan, future: Any) -> None:
    span.ran(_error_of(future), future.usage, future.started_at, _place_of(future))


def _error_of(future: Future[Any]) -> BaseException | None:
    return CallCancelledError("cancelled") if future.cancelled() else future.exception()


def _place_of(future: Future[Any]) -> dict[str, str]:
    """Attributes of a span: where the call has run."""
    place = {"dask_limits.worker": future.worker, "dask_limits.job": future.job}
    return {name: value for name, value in place.items() if value}


def _popped(items: list[T] | deque[T]) -> T | None:
    try:
        return items.pop()
    except IndexError:
        return None


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
