from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, Self, TypeVar, overload

from dask_limits.display import render
from dask_limits.exceptions import SchedulerNotRunningError
from dask_limits.executors import Future, recipe_of, recipes
from dask_limits.scheduler.constructors import SchedulerClusters
from dask_limits.scheduler.events import SchedulerEvents
from dask_limits.scheduler.exit_state import Action, ExitState, OnException, check_actions
from dask_limits.scheduler.run import Call, Run, RunOptions
from dask_limits.scheduler.run_loop import Timer
from dask_limits.scheduler.task import Task
from dask_limits.units import Amount, parse_seconds

if TYPE_CHECKING:
    from distributed import Security
    from rich.console import RenderableType

    from dask_limits.plugins.base import Plugin

P = ParamSpec("P")
R = TypeVar("R")

_NOTHING: Final[Mapping[Future[Any], Call]] = MappingProxyType({})


class Scheduler(SchedulerEvents, SchedulerClusters, render.Renderable):
    """Runs calls somewhere else, and calls you back when something comes of them.

    Callbacks run one at a time, in the order in which they were subscribed, in the thread that
    called `run()`; calls run wherever the executor runs them. Once a run has ended, the scheduler
    can run again.

    Args:
        executor: Where calls run: any `concurrent.futures.Executor`, a Dask Client or Cluster,
            or what `client.get_executor()` returns. It stays open when a run ends. The `with_...`
            constructors make an executor for each run, and close it at its end.

    Raises:
        TypeError: for anything else; the message lists what is accepted.

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

    def __init__(self, executor: object) -> None:
        super().__init__()
        self._recipe = recipe_of(executor)
        self._run: Run | None = None
        # Weakly: a program may make a task for each of a million things.
        self._tasks: weakref.WeakValueDictionary[str, Task[Any, Any]] = (
            weakref.WeakValueDictionary()
        )

    # -- constructors ----------------------------------------------------------------------

    @classmethod
    def with_processes(
        cls, max_workers: int | None = None, *, max_calls_per_process: int | None = None
    ) -> Self:
        """A scheduler whose calls run in task processes on this machine.

        A crash of a call costs that call and nothing else, a cancelled call is ended at once,
        and limits cost nothing more.

        Args:
            max_workers: How many calls run at one time; None for one for each CPU that this
                process may use.
            max_calls_per_process: After how many calls a task process is ended, and another one
                takes its place; None for no such limit.

        Raises:
            ValueError: for a number below 1.
        """
        return cls(recipes.processes(max_workers, max_calls_per_process))

    @classmethod
    def with_threads(cls, max_workers: int | None = None) -> Self:
        """A scheduler whose calls run in threads of this process; those with limits do not.

        A call with limits runs in a task process, and ends when it is cancelled. A call without
        runs on in its thread when it is cancelled: nothing can end a thread.

        Args:
            max_workers: How many calls run at one time; None for one for each CPU.

        Raises:
            ValueError: for a number below 1.
        """
        return cls(recipes.threads(max_workers))

    @classmethod
    def with_loky(cls, max_workers: int | None = None) -> Self:
        """A scheduler whose calls run in loky's worker processes, as joblib's do.

        Args:
            max_workers: How many calls run at one time; None for one for each CPU.

        Raises:
            ValueError: for a number below 1.
            ImportError: if loky is not installed.
        """
        return cls(recipes.loky(max_workers))

    @classmethod
    def with_sequential(cls) -> Self:
        """A scheduler that runs each call as it is submitted: for debugging, and for tests."""
        return cls(recipes.sequential())

    @classmethod
    def with_dask(
        cls,
        where: object = None,
        *,
        n_workers: int | None = None,
        security: Security | bool | None = None,
    ) -> Self:
        """A scheduler whose calls run on Dask.

        Args:
            where: A Client, a Cluster, or the address of a Dask scheduler, "tcp://...". What you
                pass in stays open when a run ends. None starts a LocalCluster for each run.
            n_workers: How many workers a LocalCluster gets; None for one for each CPU.
            security: Dask's credentials: for an address, those of its scheduler; for a
                LocalCluster, its own. By default that gets new ones, so that nobody else can
                connect to it; False turns that off.

        Raises:
            TypeError: for a `where` or a `security` of another kind.
            ValueError: for a number below 1, or one beside a `where`, or a `security` where it
                can do nothing.
        """
        return cls(recipes.dask(where, n_workers, security))

    # -- submitting ------------------------------------------------------------------------

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submit a call. From another thread, this waits for the run loop to come round to it.

        Args:
            fn: Any callable; functions of `__main__`, lambdas and closures too.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            Its future. Whatever is wrong with the call (an argument that cannot be pickled, say)
            is the future's exception.

        Raises:
            SchedulerNotRunningError: before `run()`, after `stop()`, and when a run is ending.
        """
        return self._in_run(Run.submit, (fn, args, kwargs))

    @overload
    def task(
        self, function: Callable[P, R], *, plugins: Plugin | Iterable[Plugin] = ()
    ) -> Task[P, R]: ...

    @overload
    def task(
        self, *, plugins: Plugin | Iterable[Plugin] = ()
    ) -> Callable[[Callable[P, R]], Task[P, R]]: ...

    def task(
        self,
        function: Callable[P, R] | None = None,
        *,
        plugins: Plugin | Iterable[Plugin] = (),
    ) -> Task[P, R] | Callable[[Callable[P, R]], Task[P, R]]:
        """Make a task of a function. Also a decorator, with or without `plugins`.

        Args:
            function: What each call runs.
            plugins: A plugin, or several.
        """
        if function is None:
            return lambda function: Task(function, self, plugins=plugins)
        return Task(function, self, plugins=plugins)

    def call_later(
        self, delay: Amount, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Timer:
        """Call a function of yours after a while, as callbacks are called.

        The run does not end for want of calls before that; if it ends for another reason, the
        function is not called.

        Args:
            delay: Seconds, 0 or more, or with a unit: `(5, "m")`, `"500 ms"`.
            fn: What to call, in the thread of the run.
            args: Its positional arguments.
            kwargs: Its keyword arguments.

        Returns:
            What cancels it, by `.cancel()`.

        Raises:
            SchedulerNotRunningError: if the scheduler is not running.
        """
        delay_s = 0.0 if delay == 0 else parse_seconds(delay, "delay")
        return self._in_run(Run.call_later, delay_s, partial(fn, *args, **kwargs))

    # -- running ---------------------------------------------------------------------------

    def run(
        self,
        *,
        timeout: Amount | None = None,
        end_on_empty: bool = True,
        wait: bool = True,
        on_exception: OnException = "raise",
        on_cancelled: Action = "raise",
        display: bool = False,
    ) -> ExitState:
        """Run until nothing is left to do, or something ends it. Works in a notebook cell too.

        Ctrl-C ends the calls that run, at once, and raises KeyboardInterrupt.

        Args:
            timeout: When to end at the latest: seconds, `(5, "m")`, `"1h 30m"`. A sequential
                executor cannot be interrupted by it.
            end_on_empty: Whether to end when nothing is left; if not, until `stop()` or timeout.
            wait: Whether calls that the executor has, when a run ends, come to their own end
                first. If not, they are cancelled, and ended if they run. Calls that a plugin
                still holds back are cancelled in either case.
            on_exception: What an exception does, of a call or of a callback: "raise" it, "end"
                without raising, or "continue"; or a mapping of types to these, looked through in
                order with isinstance. A type that the mapping does not name is raised.
            on_cancelled: What it does when a call was cancelled, other than by the end of the
                run.
            display: Whether to show the scheduler live on the terminal.

        Returns:
            Why it ended.

        Raises:
            RuntimeError: if it is running already.
            WorkersNotStartedError: if a cluster that was asked for brings no worker.
            ClusterLostError: if a Dask client has lost its scheduler before the run.
            ValueError: for an argument that makes no sense; nothing has started then.
            BaseException: what a call or a callback raised, if `on_exception` says so.
        """
        options = _options(timeout, end_on_empty, wait, on_exception, on_cancelled, display)
        with self._running(options) as run:
            state = run.loop.drive(run.steps())
        if run.error is not None:
            raise run.error
        return state

    async def async_run(
        self,
        *,
        timeout: Amount | None = None,
        end_on_empty: bool = True,
        wait: bool = True,
        on_exception: OnException = "raise",
        on_cancelled: Action = "raise",
        display: bool = False,
    ) -> ExitState:
        """As `run()`, in the event loop of the caller. Callbacks are plain functions here too.

        To start and to close a Dask cluster, if this scheduler makes one, takes a second or two
        in which the event loop stands still.

        When this coroutine is cancelled, the calls that run are ended, as by Ctrl-C.
        """
        options = _options(timeout, end_on_empty, wait, on_exception, on_cancelled, display)
        with self._running(options) as run:
            state = await run.loop.drive_async(run.steps())
        if run.error is not None:
            raise run.error
        return state

    def stop(
        self,
        *_: object,
        stop_msg: str = "stop() was called",
        exception: BaseException | None = None,
        **__: object,
    ) -> None:
        """End the run. From any thread; nothing happens if there is none.

        It takes any further arguments and ignores them, so it can be a callback itself:
        `task.on_exception(scheduler.stop)`.

        Args:
            stop_msg: What the callbacks of STOP are told.
            exception: Likewise; it is also put into the ExitState. It is not raised.
        """
        if (run := self._run) is not None:
            run.stop(stop_msg, exception)

    def running(self) -> bool:
        """Whether calls can be submitted: from STARTED on, until `stop()` or the end."""
        return self._run is not None and self._run.running()

    def empty(self) -> bool:
        """Whether no call and no timer is left."""
        return self._run is None or self._run.empty()

    @property
    def queue(self) -> Mapping[Future[Any], Call]:
        """The calls that are not done: of each future the function, args and kwargs. Read-only."""
        return _NOTHING if self._run is None else MappingProxyType(self._run.queue)

    # -- for tasks -------------------------------------------------------------------------

    def _in_run(self, fn: Callable[Concatenate[Run, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function with the run, in the run's thread, if there is one that can take more."""
        if (run := self._run) is None:
            raise SchedulerNotRunningError(
                "The scheduler is not running, so nothing can be submitted to it. Submit in a"
                " callback, such as one of @scheduler.on_start, and call scheduler.run()."
            )

        def call() -> R:
            if not run.running():
                raise SchedulerNotRunningError(
                    "The scheduler is ending, so nothing can be submitted to it any more. Ask"
                    " scheduler.running() before you submit."
                )
            return fn(run, *args, **kwargs)

        return run.loop.ask(call)

    def _add_task(self, task: Task[Any, Any]) -> None:
        self._tasks[task.unique_ref] = task

    @contextmanager
    def _running(self, options: RunOptions) -> Iterator[Run]:
        """A run from its start to its end; what is left of it when it fails is ended at once."""
        if self._run is not None:
            raise RuntimeError("The scheduler is running already")
        run = self._run = Run(self, self._recipe, options)
        try:
            yield run
        except BaseException:
            run.finish_at_once()
            raise
        finally:
            self._run = None

    def __rich__(self) -> RenderableType:
        return render.scheduler_tree(
            self._recipe.name,
            self._recipe.options,
            len(self.queue),
            () if self._run is None else self._run.cluster.lines(),
            self.emitter.summary(),
            list(self._tasks.values()),
        )

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._recipe.options.items())
        return f"Scheduler({self._recipe.name}({options}), {len(self.queue)} not done)"


def _options(
    timeout: Amount | None,
    end_on_empty: bool,
    wait: bool,
    on_exception: OnException,
    on_cancelled: Action,
    display: bool,
) -> RunOptions:
    check_actions(on_exception, on_cancelled)
    timeout_s = None if timeout is None else parse_seconds(timeout, "timeout")
    return RunOptions(timeout_s, end_on_empty, wait, on_exception, on_cancelled, display)
