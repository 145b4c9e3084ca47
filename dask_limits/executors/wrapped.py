from __future__ import annotations

import concurrent.futures
import inspect
import io
import logging
import pickle
import re
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, ParamSpec, TypeVar

from dask_limits.exceptions import CallPicklingError
from dask_limits.executors.running import RunningCall
from dask_limits.future import Future
from dask_limits.in_short import arguments_in_short
from dask_limits.limits import (
    CancelToken,
    LimitedCall,
    Outcome,
    call_log,
    run_call,
    run_in_place,
    trace_context,
)
from dask_limits.limits.ipc import by_value, pickling
from dask_limits.limits.linux import lifeline
from dask_limits.limits.owner.guardian import default_guardian
from dask_limits.limits.packed_outcome import PackedOutcome
from dask_limits.limits.shared import Shared

_LOCAL: Final = re.compile(r"(joblib\.externals\.)?loky\b|concurrent\.futures\.process$")
"""Modules of pools whose processes are on this machine."""

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("dask_limits")

_TELLS_NOTHING: Final = (
    "Callbacks of progress are not called for calls on %r: it has no way for what a call reports"
    " while it runs. with_processes(), with_threads(), with_dask() and batch systems have one."
)


class WrappedExecutor(concurrent.futures.Executor):
    """Any `concurrent.futures.Executor`, with limits, usage and our kind of future.

    With a thread pool, a call with limits runs in a task process, and `cancel()` ends it. A call
    without limits runs in a thread of the pool, and nothing can end it. With other executors
    (processes, other machines), the worker that receives a call with limits starts a task process
    for it; the call can be cancelled until it starts.

    `shutdown()` also shuts down that executor if it is `owned`.
    """

    def __init__(self, executor: concurrent.futures.Executor, *, owned: bool = False) -> None:
        self.executor = executor
        self.owned = owned
        self.max_workers = getattr(executor, "_max_workers", None) or 1  # as far as it tells
        self._in_threads = isinstance(executor, ThreadPoolExecutor)
        modules = (cls.__module__ for cls in type(executor).__mro__)
        self._is_local = any(map(_LOCAL.match, modules))
        self._running: dict[CancelToken, Future[Any]] = {}  # in threads
        self._closed = False
        self._has_said_so = False  # that it has no way for progress

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Hand a call to the executor. If a part of it cannot be pickled, its future says so.

        Raises:
            RuntimeError: after a `shutdown()`, of this or of the executor.
        """
        if self._closed:
            raise RuntimeError("This executor has been shut down: make a new one")
        call = fn if isinstance(fn, LimitedCall) else LimitedCall(fn)
        try:
            if self._in_threads:
                return self._submit_to_thread(call, args, kwargs)
            return self._submit_elsewhere(call, args, kwargs)
        except (CallPicklingError, concurrent.futures.BrokenExecutor) as error:
            failed = Future[R]()
            failed.set_exception(error)
            return failed

    def _submit_to_thread(
        self, call: LimitedCall[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[R]:
        token = CancelToken()
        future = Future[R](on_cancel=token.cancel)

        def run() -> None:
            if not token.cancelled:
                future.mark_started()
                on_progress = future.note_progress if call.tells else None
                self._running[token] = future
                try:
                    future.settle(run_call(call, args, kwargs, token, on_progress))
                finally:
                    del self._running[token]

        inner = self.executor.submit(trace_context.carrying(run))
        inner.add_done_callback(lambda inner: _pass_failure(inner, future))
        return future

    def _submit_elsewhere(
        self, call: LimitedCall[..., R], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Future[R]:
        if call.tells and not self._has_said_so:
            self._has_said_so = True
            logger.warning(_TELLS_NOTHING, self.executor)
        sent: dict[int, Any] = {}
        kept: list[Shared] | None = [] if self._is_local else None
        try:
            pickled = _dumps(call, args, kwargs, sent, kept)
        except Exception as why:
            raise pickling.unpicklable_arguments(call.fn, args, kwargs, call.limits, why) from why
        here = lifeline.of_this_process(), call_log.this_process(), trace_context.carrier()
        arguments = arguments_in_short(args, kwargs, quick=True)
        submitted_at = time.time()  # before it may have ended
        inner = self.executor.submit(_run_pickled, pickled, *here)
        future = _WrappedFuture[R](inner)
        future.submitted_at = submitted_at

        def settle(inner: concurrent.futures.Future[PackedOutcome[R]]) -> None:
            if kept:
                kept.clear()  # they were needed for as long as the call had not ended
            if not _pass_failure(inner, future):
                packed = inner.result()
                call_log.ended_elsewhere(packed, None, arguments)
                try:
                    outcome = packed.unpack(sent)
                except BaseException as error:  # raised by the user's class; nobody else would hear
                    outcome = Outcome(usage=packed.usage, exception=error)
                future.settle(outcome)

        inner.add_done_callback(settle)
        return future

    def running_calls(self) -> list[RunningCall]:
        """See `TellsRunning`. Of calls in processes of others nothing is known."""
        here, running = self._running.copy(), default_guardian().running()
        return [RunningCall(here[c.cancel], usage) for c, usage in running if c.cancel in here]

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Refuse further calls, and shut down the executor if it is owned.

        `cancel_futures` cancels the calls that have not started; in loky, all of them.
        """
        self._closed = True
        if not self.owned:
            return
        if "kill_workers" in inspect.signature(self.executor.shutdown).parameters:  # loky
            self.executor.shutdown(wait, kill_workers=cancel_futures)  # type: ignore[call-arg]
        else:
            self.executor.shutdown(wait, cancel_futures=cancel_futures)

    def __repr__(self) -> str:
        return f"WrappedExecutor({self.executor!r})"


class _WrappedFuture(Future[R]):
    """A future of ours that is as far as another one is."""

    def __init__(self, inner: concurrent.futures.Future[Any]) -> None:
        super().__init__(on_cancel=inner.cancel)
        self._inner = weakref.ref(inner)  # whose callbacks have this: no circle

    def running(self) -> bool:
        inner = self._inner()
        return inner is not None and inner.running() and not self.done()


def _dumps(
    call: LimitedCall[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    sent: dict[int, Any],
    kept: list[Shared] | None,
) -> bytes:
    """Pickle a call. If it goes to a process of this machine, what it shares has an address, and is
    to be kept.
    """
    file = io.BytesIO()
    _Pickler(file, pickle.HIGHEST_PROTOCOL, sent=sent, kept=kept, limited=bool(call.limits)).dump(
        (call, args, kwargs)
    )
    return file.getvalue()


class _Pickler(by_value.CallPickler):
    def __init__(self, *to: Any, kept: list[Shared] | None, limited: bool, **options: Any) -> None:
        super().__init__(*to, **options)
        self._kept = kept
        self._limited = limited  # then its task process needs the handle

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if type(obj) is not Shared or self._kept is None:
            return reduced
        self._kept.append(obj)
        return obj.address.open if self._limited else obj.address.get, ()


def _pass_failure(inner: concurrent.futures.Future[Any], future: Future[Any]) -> bool:
    """Pass on that the executor, not the call, has failed or given up; False if it has not."""
    if inner.cancelled():
        future.cancel()
    elif (error := inner.exception()) is not None:
        future._finish(exception=error)
    else:
        return False
    return True


def _run_pickled(
    call: bytes, program: lifeline.Lifeline, log_of: str, carrier: trace_context.Carrier | None
) -> PackedOutcome[Any]:
    """Run a call in the worker that receives it, and leave its value or exception pickled.

    If that is a process of a pool on this machine, it ends with the program that submits the call,
    and with it what stands below it. The pool itself does not see to that if a program is killed.
    """
    lifeline.end_with(program)
    call_log.leave_to(log_of)
    with by_value.Receiving(), trace_context.attached(carrier):
        limited, args, kwargs = pickle.loads(call)
        if not limited.limits:
            outcome = run_in_place(limited.fn, args, kwargs)
            return PackedOutcome.of(outcome, limited.name, limited.limits)
        return default_guardian().run_packed(limited.fn, args, kwargs, limited.limits)
