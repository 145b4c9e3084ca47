from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Never, ParamSpec, TypeVar, Unpack

from dask_limits.executors import traced
from dask_limits.executors.at_exit import (
    ShutsDown,
    check_program,
    shut_down_at_exit,
    was_shut_down,
)
from dask_limits.executors.borrowed import BorrowedExecutor
from dask_limits.executors.cluster import ClusterEvent, ClusterState, WatchedExecutor
from dask_limits.executors.factories import ExecutorFactory
from dask_limits.executors.other_pools import check_names
from dask_limits.executors.where import factory_for
from dask_limits.future import Future
from dask_limits.in_short import arguments_in_short
from dask_limits.limits import LimitedCall, Limits, LimitsArguments
from dask_limits.limits.owner.preload import Preload
from dask_limits.limits.trace_context import carrying
from dask_limits.report import Recorder

if TYPE_CHECKING:
    from dask_limits.journal.journal import Journal
    from dask_limits.report.report import Report

P = ParamSpec("P")
R = TypeVar("R")


class LimitedExecutor(concurrent.futures.Executor):
    """A `concurrent.futures.Executor` whose calls run under limits, anywhere.

    It takes the place of a `ProcessPoolExecutor` or `ThreadPoolExecutor`, and goes with all that
    takes one: `as_completed`, `wait`, `asyncio`'s `run_in_executor`. But a call that goes over a
    limit, or crashes, is ended with everything it started, its future has the exception, and the
    others go on; `cancel()` also ends a call that is running, where its executor can; and futures
    have the `usage` of their calls.

    Args:
        where: Where calls run. A number: in so many processes of this machine; None, the default:
            in one for each CPU that this process may use. A Dask Client or Cluster, the address of
            a Dask scheduler, "tcp://...", or "dask" for a new cluster on this machine. A batch
            system, "slurm", "pbs", "sge", "lsf", "oar", "moab" or "htcondor". Any other executor,
            which stays open at `shutdown`.
        max_workers: The number of processes, by the name that the standard library has for it.
        preload: Names of modules to import before the first call: see
            [Scheduler.with_processes][dask_limits.Scheduler.with_processes].
        initializer: A function that each task process calls once, before its first call.
        initargs: Its arguments.
        options: What else there is to say of where calls run: the arguments of
            `Scheduler.with_processes`, `with_dask` or `with_jobqueue`.
        journal: A file, or a [Journal][dask_limits.Journal], that remembers how calls have ended,
            for this program when it is started again: a call that has ended then is not run, and
            its future is done at once, with `from_journal`. A future is done when its call is in
            the file. One program at a time has the file, until `shutdown`.
        **limits: Those of each call, `memory`, `wall_time`, ...: see
            [Limits][dask_limits.Limits]. A call's own come first: `submit(limit(fn, memory="4
            GiB"), x)`.

    Raises:
        ValueError: for an invalid limit or option.
        TypeError: for a `where` that calls cannot run on, or an unknown option.
        ModuleNotFoundError: if there is no module to preload.
        JournalError: if the journal cannot be used, or another program has it.

    Example:
        >>> with LimitedExecutor(2, memory="1 GiB", wall_time=60) as executor:
        ...     futures = [executor.submit(pow, 2, n) for n in range(4)]
        ...     [future.result() for future in futures]
        [1, 2, 4, 8]

        With a journal, run the same program again, and it goes on where it was:

        >>> import tempfile
        >>> def run(journal):
        ...     with LimitedExecutor(1, wall_time=60, journal=journal) as executor:
        ...         future = executor.submit(pow, 2, 5)
        ...         return future.result(), future.from_journal
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run(f"{folder}/run.sqlite"), run(f"{folder}/run.sqlite")
        ((32, False), (32, True))
    """

    def __init__(
        self,
        where: object = None,
        *others: Never,
        max_workers: int | None = None,
        preload: Iterable[str] = (),
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
        options: Mapping[str, Any] | None = None,
        journal: str | PathLike[str] | Journal | None = None,
        **limits: Unpack[LimitsArguments],
    ) -> None:
        check_names(where, others, limits)
        self.limits = Limits(**limits)
        if max_workers is not None:
            if where is not None:
                raise TypeError(
                    f"max_workers={max_workers!r} is for processes of this machine, but calls run"
                    f" on {where!r}. Specify one or the other. A new cluster has"
                    f' options={{"n_workers": {max_workers!r}}}.'
                )
            where = max_workers
        factory = factory_for(where, Preload.of(preload, initializer, initargs), options or {})
        self._where = str(factory)
        self._recorder = Recorder()
        self._cluster = ClusterState(self._recorder)
        self._has_workers = threading.Event()
        self._is_shut_down = False
        self._executor: concurrent.futures.Executor
        self._shuts_down: ShutsDown
        self._start: Callable[..., Any]
        if journal is None:
            self._executor = self._shuts_down = self._make(factory)
            self._start = traced.submit
        else:
            from dask_limits.executors.journalled import JournalledExecutor  # with sqlite3

            remembered = JournalledExecutor(journal, partial(self._make, factory))
            self._executor, self._shuts_down = remembered.executor, remembered
            self._start = remembered.submit
        if isinstance(self._executor, WatchedExecutor):
            try:
                self._executor.watch(self._cluster_changed)
            except BaseException:
                self._shuts_down.shutdown(wait=False)
                raise
        shut_down_at_exit(self._shuts_down)

    def _make(self, factory: ExecutorFactory) -> concurrent.futures.Executor:
        """Make the executor."""
        executor = factory.make()
        self._recorder.slots = getattr(executor, "max_workers", 0)
        return executor if factory.owned else BorrowedExecutor(executor)

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run a call under limits.

        Returns:
            A future that can be awaited, too, and has the call's `usage` once it is done.

        Raises:
            RuntimeError: after `shutdown()`, and while the program ends.
            TypeError: if `fn` cannot be called.
            JournalError: if the journal cannot tell the call from others, knows another version of
                `fn`, or cannot be written any more.
        """
        self._check_open()
        return self._submit(self._executor.submit, self._limited(fn), *args, **kwargs)

    def _submit(
        self, to: Callable[..., Any], call: LimitedCall[..., R], /, *args: Any, **kwargs: Any
    ) -> Future[R]:
        # Not when it has ended: until then, nothing else may need the arguments any more.
        arguments = arguments_in_short(args, kwargs, quick=True)
        future: Future[R] = self._start(to, call, args, kwargs)
        future.add_done_callback(partial(self._recorder.add, call, lambda: arguments))
        return future

    def map(
        self,
        fn: Callable[..., R],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[R]:
        """Call a function with each item, as the built-in `map` does, many at a time.

        Short calls share their way to a process by themselves. In processes of this machine, items
        are taken when there is room for their calls; elsewhere all at once.

        Args:
            fn: Any callable.
            *iterables: Those of the arguments. The shortest one ends this.
            timeout: Seconds from now on until the last result; None is no limit.
            chunksize: As in the standard library, which has it for speed alone: here it matters
                little.

        Returns:
            An iterator over the results, in the order of the items. It raises what a call raises.

        Raises:
            ValueError: if `chunksize` is less than 1.
            RuntimeError: after `shutdown()`.
            JournalError: as in `submit`, also by the iterator.
            TimeoutError: by the iterator, when the time is up.
        """
        self._check_open()
        if chunksize < 1:
            raise ValueError(f"chunksize={chunksize!r} must be 1 or more")
        from dask_limits.executors.processes import ProcessExecutor  # with the dispatcher, 10 ms

        call = self._limited(fn)
        if not isinstance(self._executor, ProcessExecutor):
            return super().map(call, *iterables, timeout=timeout)
        return self._executor.map(
            call,
            *iterables,
            timeout=timeout,
            chunksize=chunksize,
            through=carrying(self._submit),
        )

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and end what was started for them when they are done.

        Then the journal is closed, too, and free for other programs.

        An executor, client or cluster that was passed in stays open. Without this, and without a
        `with` block, it is done when the program ends, which waits for the calls as with the pools
        of the standard library. But a KeyboardInterrupt that ends the program ends the calls too.

        Args:
            wait: Whether to return when that is done, or now.
            cancel_futures: Whether to cancel the calls that are not done. This ends those that
                run, where their executor can; the pools of the standard library let them run.
        """
        self._is_shut_down = True
        if isinstance(self._executor, WatchedExecutor):
            self._executor.watch(None)
            self._recorder.worker_removed()
        self._shuts_down.shutdown(wait, cancel_futures=cancel_futures)
        if wait:
            was_shut_down(self._shuts_down)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Shut down. Ctrl-C ends the calls; otherwise they are waited for."""
        interrupted = kind is not None and issubclass(kind, KeyboardInterrupt)
        self.shutdown(cancel_futures=interrupted)

    def places(self, timeout: float = 0.0) -> int:
        """How many calls can run at a time; 0 if that is not known.

        Args:
            timeout: Seconds to wait for the first worker of a cluster.
        """
        if not isinstance(self._executor, WatchedExecutor):
            return getattr(self._executor, "max_workers", 0)
        self._has_workers.wait(timeout)
        return self._cluster.cores

    def report(self) -> Report:
        """Return what is known of the calls that have ended by now, a row for each.

        Its `repr()` is a table, and it has `to_pandas()`, `to_csv()`, `to_parquet()`, `plot()` and
        `suggest_limits()`: see [Report][dask_limits.Report].
        """
        return self._recorder.report()

    def _cluster_changed(self, event: ClusterEvent | None) -> None:
        if event is not None:
            self._cluster.update(event)
        if self._cluster.cores:
            self._has_workers.set()
        else:
            self._has_workers.clear()

    def _limited(self, fn: Callable[..., R]) -> LimitedCall[..., R]:
        if not isinstance(fn, LimitedCall):
            return LimitedCall(fn, self.limits)
        call = LimitedCall(fn.fn, fn.limits.with_defaults(self.limits))
        call.tells = fn.tells
        return call

    def _check_open(self) -> None:
        check_program()
        if self._is_shut_down:
            raise RuntimeError("This executor takes no calls after shutdown(): make a new one")

    def __repr__(self) -> str:
        return f"LimitedExecutor({self._where}, {self.limits})"
