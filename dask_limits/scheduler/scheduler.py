from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from os import PathLike
from types import MappingProxyType
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    Never,
    ParamSpec,
    TypeVar,
    Unpack,
    overload,
)

from dask_limits.display import render
from dask_limits.display.live import Display, has_kernel, view_for
from dask_limits.executors import Future
from dask_limits.instead import command_of, refuse
from dask_limits.journal.journal import Journal
from dask_limits.limits import LimitsArguments
from dask_limits.limits.trace_context import carrying
from dask_limits.plugins import Plugin
from dask_limits.scheduler.constructors import Constructors
from dask_limits.scheduler.exit_state import (
    Action,
    ExitState,
    OnException,
    RunOptions,
    Wait,
    check_arguments,
)
from dask_limits.scheduler.feed import Feed, zipped
from dask_limits.scheduler.on_dask import OnDask
from dask_limits.scheduler.run import Run
from dask_limits.scheduler.sigterm import sigterm_raises
from dask_limits.scheduler.task import Task, row_of
from dask_limits.units import Duration, whole_number

if TYPE_CHECKING:
    from dask_limits.report.report import Report

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_NOT_OF_MAP: Final = {
    "chunksize": "short calls share their way to a process by themselves",
    "timeout": "the time of all is that of the run, scheduler.run(timeout={value!r}), and that of"
    " each call its limit on wall_time",
    "buffersize": "max_in_flight={value!r} is the same",
}


class Scheduler(Constructors, OnDask, render.Renderable):
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
        self,
        function: Callable[P, R],
        *,
        plugins: Plugin | Iterable[Plugin] = (),
        key: Callable[P, object] | None = None,
        **limits: Unpack[LimitsArguments],
    ) -> Task[P, R]: ...
    @overload
    def task(
        self,
        *,
        plugins: Plugin | Iterable[Plugin] = (),
        key: Callable[..., object] | None = None,
        **limits: Unpack[LimitsArguments],
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...
    def task(
        self,
        function: Callable[P, R] | None = None,
        *,
        plugins: Plugin | Iterable[Plugin] = (),
        key: Callable[P, object] | None = None,
        **limits: Unpack[LimitsArguments],
    ) -> Task[P, R] | Callable[[Callable[P, R]], Task[P, R]]:
        """Make a task of a function. This is also a decorator.

        Args:
            function: What each call runs.
            plugins: A plugin, or several, that change, refuse or hold calls.
            key: What a [Journal][dask_limits.Journal] knows a call by, from its arguments:
                `key=lambda config: config["name"]`. Without it, all arguments count.
            **limits: `memory`, `wall_time`, ...: the limits of each call, which are those of a
                [PynisherPlugin][dask_limits.PynisherPlugin] that comes after the other plugins.

        Raises:
            TypeError: for something that cannot be called, or an argument by another name.
            ValueError: for an invalid limit.

        Example:
            >>> Scheduler(2).task(abs, memory="1 GiB", wall_time=60).plugins[0].limits
            Limits(memory=1073741824, wall_time=60.0)
        """
        if function is None:
            return lambda function: Task(function, self, plugins=plugins, key=key, **limits)
        return Task(function, self, plugins=plugins, key=key, **limits)

    @overload
    def map(
        self,
        function: Task[[T], Any] | Callable[[T], object],
        items: Iterable[T],
        *,
        max_in_flight: int | None = None,
    ) -> None: ...
    @overload
    def map(
        self,
        function: Task[..., Any] | Callable[..., object],
        items: Iterable[Any],
        second: Iterable[Any],
        /,
        *others: Iterable[Any],
        max_in_flight: int | None = None,
    ) -> None: ...
    def map(
        self,
        function: Task[..., Any] | Callable[..., object],
        items: Iterable[Any],
        *others: Iterable[Any],
        max_in_flight: int | None = None,
        **_unknown: Never,
    ) -> None:
        """Submit a call for each item: of a task of this scheduler, or of any callable.

        Items are taken when there is room for their calls, so there can be any number of them: ten
        million of a generator are never in memory together. Callbacks are called as for other
        calls, in the order in which these end. The run is not empty until all items are used up.
        An item whose call a plugin drops is used up too.

        Args:
            function: The task, or the callable.
            items: Each is the first argument of a call. They are taken in the thread of the run,
                so an iterator that waits delays the callbacks. What it raises is handled as what a
                callback raises; there are no more items then.
            *others: Those of its second argument, and so on. As with the built-in `map`, the
                shortest one ends this.
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
        refuse("map()", _unknown, ["max_in_flight"], _NOT_OF_MAP)
        if max_in_flight is not None:
            whole_number(max_in_flight, "max_in_flight", none="as many as end in 0.1 s")
        submit = self._submits(function)
        all_items, submit_one, n_items = zipped(carrying(submit), items, *others)
        feed = partial(Feed, all_items, submit_one, max_in_flight, n_items=n_items)
        self.in_run(lambda run: run.feed(feed(places=run.places)))

    def _submits(self, function: object) -> Callable[..., Future[Any] | None]:
        """What submits a call of a task, or of a function."""
        if isinstance(function, Task):
            if function.scheduler is not self:
                raise ValueError(
                    f"{function!r} belongs to another scheduler: {function.scheduler!r}"
                )
            return function.submit
        if callable(function):
            return partial(self.submit, function)
        raise TypeError(
            f"map() needs a task or a function, but {function!r} is of type"
            f" {type(function).__name__}{command_of(function)}"
        )

    def run(
        self,
        *,
        timeout: Duration | None = None,
        end_on_empty: bool = True,
        wait: Wait = True,
        on_exception: OnException = "raise",
        on_cancelled: Action = "raise",
        display: bool | Display | None = None,
        journal: str | PathLike[str] | Journal | None = None,
        **_unknown: Never,
    ) -> ExitState:
        """Run until nothing is left to do, or something ends the run.

        This works in a notebook cell too. Ctrl-C ends all calls at once, and raises
        KeyboardInterrupt. In the main thread so does SIGTERM, and raises SystemExit, for exit
        status 143, unless the program has a handler for it.

        Args:
            timeout: The longest time to run: seconds, `(5, "m")`, `"1h 30m"`. It does not
                interrupt a call of a sequential executor. It also ends the attempt to connect to
                the address of a Dask scheduler, with an OSError.
            end_on_empty: Whether to end when nothing is left to do. If False, the run goes on
                until `stop()` or the timeout.
            wait: Whether to wait, when the run ends, for the calls that the executor has. If
                False, they are cancelled; with "running", those that have not started, as by
                `shutdown(cancel_futures=True)` of the standard library. Calls that a plugin holds
                are cancelled in any case.
            on_exception: What to do when a call or a callback raises: "raise" the exception,
                "end" the run without raising it, or "continue"; or a mapping of exception types
                to these, of which the first match counts. Without a match, it is raised.
            on_cancelled: What to do when a call was cancelled, except by the end of the run.
            display: Whether to show the run while it goes on: what runs, what has ended and how.
                In a cell of a notebook it is shown by default. On a terminal this is one screen;
                elsewhere, such as in a log, lines. A [Display][dask_limits.Display] says how many
                calls there will be, for the time left.
            journal: A file, or a [Journal][dask_limits.Journal], that remembers how calls have
                ended. What has ended in an earlier run with it comes back at once.

        Returns:
            Why the run ended.

        Raises:
            RuntimeError: if the scheduler is running already.
            WorkersNotStartedError: if no worker of the cluster has started.
            ClusterLostError: if a Dask client has lost its scheduler before the run.
            JournalError: if the journal cannot be used. At most what was not told is lost.
            ValueError: for an invalid argument. Nothing has started then.
            BaseException: what a call or a callback raised, if `on_exception` is "raise".
        """
        check_arguments(display, _unknown)
        remembered = Journal.of(journal)
        options = RunOptions(timeout, end_on_empty, wait, on_exception, on_cancelled, remembered)
        with sigterm_raises(), self._running(options, display) as run:
            state = run.loop.drive(run.steps())
        if run.end.error is not None:
            raise run.end.error
        return state

    async def async_run(
        self,
        *,
        timeout: Duration | None = None,
        end_on_empty: bool = True,
        wait: Wait = True,
        on_exception: OnException = "raise",
        on_cancelled: Action = "raise",
        display: bool | Display | None = None,
        journal: str | PathLike[str] | Journal | None = None,
        **_unknown: Never,
    ) -> ExitState:
        """Like `run()`, in the event loop of the caller. Callbacks are plain functions here too.

        If the scheduler makes a Dask cluster, its start and shutdown block the event loop for a
        second or two. Cancelling this coroutine ends all calls, as Ctrl-C does. In a notebook with
        ipywidgets, what is displayed has a button that stops the run. It works while the kernel
        runs no cell: `task = asyncio.create_task(scheduler.async_run())`.
        """
        import asyncio

        check_arguments(display, _unknown)
        remembered = Journal.of(journal)
        options = RunOptions(timeout, end_on_empty, wait, on_exception, on_cancelled, remembered)
        stops: dict[str, Callable[[], object]] = {"Stop": self.stop}
        if (task := asyncio.current_task()) is not None:
            stops["End running calls"] = task.cancel
        with self._running(options, display, stops) as run:
            state = await run.loop.drive_async(run.steps())
        if run.end.error is not None:
            raise run.end.error
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

    @contextmanager
    def _running(
        self,
        options: RunOptions,
        display: bool | Display | None,
        stops: Mapping[str, Callable[[], object]] = MappingProxyType({}),
    ) -> Iterator[Run]:
        """Make a run. If it fails, end all that is left of it at once."""
        if self._run is not None:
            raise RuntimeError(
                "The scheduler is already running. Submit to it, or wait until run() returns."
            )
        run = Run(self.emitter, self._factory, options, self._recorder)
        shown = has_kernel() if display is None else display
        with self._shown(run, shown, stops):
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

    @contextmanager
    def _shown(
        self, run: Run, display: bool | Display, stops: Mapping[str, Callable[[], object]]
    ) -> Iterator[None]:
        """Show a run until it is over, if that is asked for."""
        if not display:
            yield
            return
        from dask_limits.scheduler.run_watch import RunWatch  # most runs are not shown

        its = display if isinstance(display, Display) else Display()
        with RunWatch(view_for(its, stops), run, self._factory.name, its.total) as run.watch:
            yield
        run.watch = None  # together they would be a circle

    def __rich__(self) -> render.RenderableType:
        return render.scheduler_tree(
            self._factory.name,
            self._factory.options,
            len(self.queue),
            () if (run := self._run) is None else run.cluster.lines(),
            self.emitter.subscribers,
            list(self.tasks.values()),
        )

    def __html__(self) -> render.Html:
        from dask_limits.display import views  # for notebooks alone

        run = self._run
        return views.scheduler_html(
            self._factory.name,
            self._factory.options,
            run is not None,
            len(self.queue),
            () if run is None else run.cluster.lines(),
            self.emitter.subscribers,
            [row_of(task) for task in self.tasks.values()],
        )

    def __repr__(self) -> str:
        return f"Scheduler({self._factory}, {len(self.queue)} not done)"
