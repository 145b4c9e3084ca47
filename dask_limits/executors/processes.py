from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Generic, ParamSpec, TypeVar

from dask_limits.executors.ordered_map import OrderedMap
from dask_limits.executors.running import RunningCall
from dask_limits.future import Future
from dask_limits.limits import LimitedCall, Outcome, Usage, call_log
from dask_limits.limits.ipc import progress_values
from dask_limits.limits.owner import reserving
from dask_limits.limits.owner.dispatcher import Dispatcher
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.job import Job
from dask_limits.limits.owner.preload import NOTHING, Preload
from dask_limits.units import whole_number

P = ParamSpec("P")
R = TypeVar("R")


class ProcessExecutor(concurrent.futures.Executor):
    """Runs calls in processes of this machine, so that a limit on a call costs nothing more.

    Unlike the pools of the standard library it survives its processes: a call that crashes or
    breaches a limit is ended with everything it started, its future says how, and the next call
    gets another process. Cancelling a future also ends a call that is running.

    As in the pools of the standard library, one thread serves all calls, and calls the
    done-callbacks of futures too: a callback that takes long delays other calls.

    The arguments are those of `Scheduler.with_processes`; `preload` is all that is to be done
    before the first call.

    Example:
        >>> with ProcessExecutor(1) as executor:
        ...     executor.submit(pow, 2, 10).result()
        1024
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        max_calls_per_process: int | None = None,
        preload: Preload = NOTHING,
        reserve: bool = True,
    ) -> None:
        if max_workers is None:
            max_workers = len(os.sched_getaffinity(0))
        self.max_workers = whole_number(max_workers, "max_workers", none="one for each CPU")
        self._reserve = reserve
        self._guardian = Guardian(max_calls_per_process, preload)
        self._dispatcher = Dispatcher(
            self.max_workers, self._guardian.steps, self._guardian.begin_moment
        )
        self._pending: set[Future[Any]] = set()
        self._mapped: set[OrderedMap[Any]] = set()
        self._is_shut_down = False

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run a call in a process; a `LimitedCall` under its limits.

        Raises:
            RuntimeError: after `shutdown()`.
        """
        self._check_open()
        return self._submit(fn, *args, **kwargs)

    def _submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        call = fn if isinstance(fn, LimitedCall) else LimitedCall(fn)
        job = _Job(call, args, kwargs, self._nudge)
        if self._reserve and call.limits.reserves:
            job.reserves = reserving.request_here(call.limits)
            if job.reserves and (error := reserving.refusal_error(call.name, call.limits)):
                job.future.set_exception(error)
                call_log.refused_here(call.name, error, job.in_short())
                return job.future
        self._pending.add(job.future)
        job.future.add_done_callback(self._pending.discard)
        try:
            self._dispatcher.add(job)
        except RuntimeError:  # the program is ending
            self._pending.discard(job.future)
            raise
        return job.future

    def _nudge(self) -> None:
        """Have calls look whether they are cancelled. Each has this, so the executor lives on."""
        self._dispatcher.nudge()

    def running_calls(self) -> list[RunningCall]:
        """See `TellsRunning`."""
        running = self._guardian.running()
        return [RunningCall(job.future, usage) for job, usage in running if isinstance(job, _Job)]

    def map(
        self,
        fn: Callable[..., R],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        through: Callable[..., Future[Any]] | None = None,
    ) -> Iterator[R]:
        """Call a function with each item, as the built-in `map` does, many at a time.

        Unlike the pools of the standard library, this takes items when there is room for their
        calls: the first ones at once, more each time that a result is asked for, and the rest in
        `shutdown()`. So an iterable may have any number of them. Short calls share the way to a
        process by themselves.

        Args:
            fn: Any callable; a `LimitedCall` runs under its limits.
            *iterables: Those of the arguments. The shortest one ends this.
            timeout: Seconds from now on until the last result; None is no limit.
            chunksize: How many calls to have ready for each process, at least.
            through: Called with what submits a call, the function, and its arguments, to submit it.

        Returns:
            An iterator over the results, in the order of the items. If it is closed, or raises,
            calls whose results it has not yielded are cancelled, as those of the standard library.

        Raises:
            ValueError: if `chunksize` is less than 1.
            RuntimeError: after `shutdown()`.
            TimeoutError: by the iterator, when the time is up.

        Example:
            >>> with ProcessExecutor(2) as executor:
            ...     list(executor.map(pow, [2, 3, 4], [5, 2, 3]))
            [32, 9, 64]
        """
        self._check_open()
        least = whole_number(chunksize, "chunksize") * self.max_workers
        # A list may be changed meanwhile, and be short without an error.
        items = zip(*(one.copy() if type(one) is list else one for one in iterables), strict=False)

        submit = (
            partial(self._submit, fn) if through is None else partial(through, self._submit, fn)
        )
        mapped = OrderedMap(items, submit, self.max_workers, least)
        mapped.fill()
        self._mapped = {other for other in self._mapped if not other.is_used_up} | {mapped}
        deadline = None if timeout is None else time.monotonic() + timeout
        return mapped.results(deadline)

    def _check_open(self) -> None:
        if self._is_shut_down:
            raise RuntimeError("This executor takes no calls after shutdown(): make a new one")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end the processes once the calls are done.

        `cancel_futures` cancels all calls, those that are running included.
        """
        self._is_shut_down = True
        if cancel_futures:
            for mapped in list(self._mapped):
                mapped.stop()
            for future in list(self._pending):
                future.cancel()
        if wait and not self._dispatcher.is_this_thread:
            maps = [self._mapped.pop() for _ in range(len(self._mapped))]
            try:
                for mapped in maps:
                    mapped.submit_all()
            finally:  # Ctrl-C may come
                self._dispatcher.shutdown()
                self._guardian.close()
            for mapped in maps:
                mapped.raise_error()
        else:
            threading.Thread(target=self.shutdown, name="dask-limits-shutdown").start()


class _Job(Job, Generic[R]):
    """A call of the dispatcher, which settles a future."""

    def __init__(
        self,
        call: LimitedCall[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        nudge: Callable[[], None],
    ) -> None:
        super().__init__(call.fn, args, kwargs, call.limits, sent={})
        if call.tells:
            self.on_progress = self._note_progress
        self._nudge = nudge
        self.future = Future[R](on_cancel=self._cancel)

    def _cancel(self) -> None:
        self.cancel.cancel()
        self._nudge()

    def _note_progress(self, data: bytes) -> None:
        assert self.sent is not None
        self.future.note_progress(partial(progress_values.loads, data, self.sent))

    def begin(self) -> None:
        """See `Call`."""
        self.future.mark_started()

    def tell(self) -> None:
        """See `Job`."""
        assert self.outcome is not None
        assert self.sent is not None
        self.take(self.outcome.unpack(self.sent))

    def take(self, outcome: Outcome[R]) -> None:
        """See `Call`."""
        self.future.settle(outcome)

    def fail(self, error: BaseException) -> None:
        """See `Job`. No future may stay open, whatever is wrong."""
        self.take(Outcome(exception=error, usage=Usage(wall_time=0.0, cpu_time=0.0)))
