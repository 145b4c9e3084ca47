from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from dask_limits.display import render
from dask_limits.display.live import live
from dask_limits.exceptions import SchedulerNotRunningError
from dask_limits.executors import Future
from dask_limits.limits.trace_context import carrying
from dask_limits.plugins import Plugin
from dask_limits.scheduler.constructors import Constructors
from dask_limits.scheduler.exit_state import Action, ExitState, OnException, RunOptions
from dask_limits.scheduler.feed import Feed
from dask_limits.scheduler.run import Run
from dask_limits.scheduler.task import Task
from dask_limits.units import Duration, whole_number

if TYPE_CHECKING:
    import distributed

    from dask_limits.executors.dask.executor import DaskExecutor
    from dask_limits.report.report import Report

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Scheduler(Constructors, render.Renderable):
    """Submits calls to an executor, and emits events as they start, end and fail.

    Calls run wherever the executor runs them. Callbacks run in the thread that called `run()`, one
    at a time, in the order of their subscription. After a run has ended, the scheduler can run
    again.

    Args:
        executor: Where calls run: any `concurrent.futures.Executor`, a Dask Client or Cluster,
            or what `client.get_executor()` returns. It stays open when a run ends. The `with_...`
            constructors make an executor for each run, and shut it down when the run ends.

    Raises:
        TypeError: for anything else. The message lists what is accepted.

    Attributes:
        executor: What was given. If a `with_...` constructor makes an executor for each run, that
            of the present or the last run; None before the first.

    Example:
        >>> scheduler = Scheduler.with_processes(2)
        >>> @scheduler.on_start
        ... def begin():
        ...     scheduler.submit(pow, 2, 10)
        >>> @scheduler.on_future_result
        ... def show(future, result):
        ...     print(result)
        >>> scheduler.run(timeout="1 minute").code
        1024
        <Code.EXHAUSTED: 'exhausted'>
    """

    @overload
    def task(
        self, function: Callable[P, R], *, plugins: Plugin | Iterable[Plugin] = ()
    ) -> Task[P, R]: ...
    @overload
    def task(
        self, *, plugins: Plugin | Iterable[Plugin] = ()
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...
    def task(
        self, function: Callable[P, R] | None = None, *, plugins: Plugin | Iterable[Plugin] = ()
    ) -> Task[P, R] | Callable[[Callable[P, R]], Task[P, R]]:
        """Make a task of a function, with one plugin or several. This is also a decorator."""
        if function is None:
            return lambda function: Task(function, self, plugins=plugins)
        return Task(function, self, plugins=plugins)

    def map(
        self,
        function: Task[[T], Any] | Callable[[T], object],
        items: Iterable[T],
        *,
        max_in_flight: int | None = None,
    ) -> None:
        """Submit a call for each item: of a task of this scheduler, or of any callable.

        Items are taken when there is room for their calls, so there can be any number of them: ten
        million of a generator are never in memory together. Callbacks are called as for other
        calls, in the order in which these end. The run is not empty until all items are used up.
        An item whose call a plugin drops is used up too.

        Args:
            function: The task, or the callable.
            items: Each is the one argument of a call. They are taken in the thread of the run, so
                an iterator that waits delays the callbacks. What it raises is handled as what a
                callback raises; there are no more items then.
            max_in_flight: How many of these calls may be submitted and not done. By default, for
                each that can run at a time as many as take 0.2 s, from 2 to 100; or as many as end
                in 0.1 s if these are more. So it follows the workers as they come and go.

        Raises:
            SchedulerNotRunningError: as `submit`.
            TypeError: if `items` cannot be iterated over, or `function` cannot be called.
            ValueError: if the task belongs to another scheduler, or `max_in_flight` is below 1.

        Example:
            >>> from dask_limits import limit
            >>> scheduler = Scheduler.with_processes(2)
            >>> @scheduler.on_start
            ... def begin():
            ...     scheduler.map(limit(abs, wall_time=5), range(-100, 0))
            >>> results = []
            >>> @scheduler.on_future_result
            ... def keep(future, result):
            ...     results.append(result)
            >>> _ = scheduler.run()
            >>> sum(results)
            5050
        """
        if max_in_flight is not None:
            whole_number(max_in_flight, "max_in_flight", none="as many as end in 0.1 s")
        if isinstance(function, Task):
            if function.scheduler is not self:
                raise ValueError(
                    f"{function!r} belongs to another scheduler: {function.scheduler!r}"
                )
            submit: Callable[[T], Future[Any] | None] = function.submit
        elif callable(function):
            call = function
            submit = lambda item: self.submit(call, item)  # noqa: E731
        else:
            raise TypeError(
                f"map() needs a task or a function, but {function!r} is of type"
                f" {type(function).__name__}"
            )
        feed = partial(Feed, iter(items), carrying(submit), max_in_flight)
        self.in_run(lambda run: run.feed(feed(run.places)))

    def run(
        self,
        *,
        timeout: Duration | None = None,
        end_on_empty: bool = True,
        wait: bool = True,
        on_exception: OnException = "raise",
        on_cancelled: Action = "raise",
        display: bool = False,
    ) -> ExitState:
        """Run until nothing is left to do, or something ends the run.

        This works in a notebook cell too. Ctrl-C ends all calls at once, and raises
        KeyboardInterrupt.

        Args:
            timeout: The longest time to run: seconds, `(5, "m")`, `"1h 30m"`. It does not
                interrupt a call of a sequential executor.
            end_on_empty: Whether to end when nothing is left to do. If False, the run goes on
                until `stop()` or the timeout.
            wait: Whether to wait, when the run ends, for the calls that the executor has. If
                False, they are cancelled. Calls that a plugin holds are cancelled in any case.
            on_exception: What to do when a call or a callback raises: "raise" the exception,
                "end" the run without raising it, or "continue"; or a mapping of exception types
                to these, of which the first match counts. Without a match, it is raised.
            on_cancelled: What to do when a call was cancelled, except by the end of the run.
            display: Whether to show the scheduler live on the terminal.

        Returns:
            Why the run ended.

        Raises:
            RuntimeError: if the scheduler is running already.
            WorkersNotStartedError: if no worker of the cluster has started.
            ClusterLostError: if a Dask client has lost its scheduler before the run.
            ValueError: for an invalid argument. Nothing has started then.
            BaseException: what a call or a callback raised, if `on_exception` is "raise".
        """
        options = RunOptions(timeout, end_on_empty, wait, on_exception, on_cancelled)
        with self._running(options, display) as run:
            state = run.loop.drive(run.steps())
        if run.error is not None:
            raise run.error
        return state

    async def async_run(
        self,
        *,
        timeout: Duration | None = None,
        end_on_empty: bool = True,
        wait: bool = True,
        on_exception: OnException = "raise",
        on_cancelled: Action = "raise",
        display: bool = False,
    ) -> ExitState:
        """Like `run()`, in the event loop of the caller. Callbacks are plain functions here too.

        If the scheduler makes a Dask cluster, its start and shutdown block the event loop for a
        second or two. Cancelling this coroutine ends all calls, as Ctrl-C does.
        """
        options = RunOptions(timeout, end_on_empty, wait, on_exception, on_cancelled)
        with self._running(options, display) as run:
            state = await run.loop.drive_async(run.steps())
        if run.error is not None:
            raise run.error
        return state

    def report(self) -> Report:
        """Return what is known of the calls that have ended by now, in all runs: a row for each.

        Its `repr()` is a table, and it has `to_pandas()`, `to_csv()`, `to_parquet()`, `plot()` and
        `suggest_limits()`: see [Report][dask_limits.Report].

        Example:
            >>> scheduler = Scheduler.with_processes(1)
            >>> _ = scheduler.on_start(lambda: scheduler.submit(pow, 2, 10))
            >>> _ = scheduler.run()
            >>> [(row.task, row.ending) for row in scheduler.report()]
            [('pow', 'returned')]
        """
        return self._recorder.report()

    @property
    def client(self) -> distributed.Client:
        """The Dask client of the run, for `scatter()`, `scheduler_info()` and the rest.

        Raises:
            SchedulerNotRunningError: if the scheduler does not run.
            TypeError: if it does not run on Dask.
        """
        return self._on_dask().client

    @property
    def dashboard_link(self) -> str | None:
        """The address of the dashboard of Dask's scheduler; None if it has none.

        Raises:
            SchedulerNotRunningError: if the scheduler does not run.
            TypeError: if it does not run on Dask.
        """
        return self._on_dask().dashboard_link

    @property
    def dashboard_tunnel(self) -> str | None:
        """The command that makes `dashboard_link` work on your own computer; None if there is none.

        For a run on the login node of a cluster: `ssh -N -L 8787:127.0.0.1:8787 ada@login1`.

        Raises:
            SchedulerNotRunningError: if the scheduler does not run.
            TypeError: if it does not run on Dask.
        """
        from dask_limits.executors.dask.dashboard import tunnel_to

        link = self.dashboard_link
        return None if link is None else tunnel_to(link)

    def _on_dask(self) -> DaskExecutor:
        if (run := self._run) is None:
            raise SchedulerNotRunningError(
                "The scheduler is not running, so it has no Dask client. It has one in callbacks,"
                " such as those of @scheduler.on_start."
            )
        executor = run.executor
        if not hasattr(executor, "client"):
            raise TypeError(f"{self!r} has no Dask client: it does not run on Dask")
        return cast("DaskExecutor", executor)

    @contextmanager
    def _running(self, options: RunOptions, display: bool) -> Iterator[Run]:
        """Make a run. If it fails, end all that is left of it at once."""
        if self._run is not None:
            raise RuntimeError(
                "The scheduler is already running. Submit to it, or wait until run() returns."
            )
        view = live(self) if display else nullcontext()
        run = Run(self.emitter, self._factory, options, view, self._recorder)
        try:  # from here on, Ctrl-C may come at any time
            self._latest_run = run
            executor = run.open()
            self._recorder.slots = getattr(executor, "max_workers", 0)
            if self._factory.given is None:
                self.executor = executor
            yield run
        except BaseException as error:
            run.finish_at_once(error)
            raise
        finally:
            self._latest_run = None
            self._recorder.worker_removed()

    def __rich__(self) -> render.RenderableType:
        return render.scheduler_tree(
            self._factory.name,
            self._factory.options,
            len(self.queue),
            () if (run := self._run) is None else run.cluster.lines(),
            self.emitter.subscribers,
            list(self.tasks.values()),
        )

    def __repr__(self) -> str:
        return f"Scheduler({self._factory}, {len(self.queue)} not done)"
