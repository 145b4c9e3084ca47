from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, overload

from dask_limits.display import render
from dask_limits.display.live import live
from dask_limits.executors import factories, factory_of
from dask_limits.scheduler.constructors import SchedulerClusters
from dask_limits.scheduler.exit_state import Action, ExitState, OnException, check_actions
from dask_limits.scheduler.run import Run, RunOptions
from dask_limits.scheduler.submitter import Submitter
from dask_limits.scheduler.task import Task
from dask_limits.units import Amount, parse_seconds

if TYPE_CHECKING:
    from distributed import Security
    from rich.console import RenderableType

    from dask_limits.plugins.base import Plugin

P = ParamSpec("P")
R = TypeVar("R")


class Scheduler(Submitter, SchedulerClusters, render.Renderable):
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
        self._factory = factory_of(executor)
        self._executor = self._factory.given

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
        return cls(factories.processes(max_workers, max_calls_per_process))

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
        return cls(factories.threads(max_workers))

    @classmethod
    def with_loky(cls, max_workers: int | None = None) -> Self:
        """A scheduler whose calls run in loky's worker processes, as joblib's do.

        Args:
            max_workers: How many calls run at one time; None for one for each CPU.

        Raises:
            ValueError: for a number below 1.
            ImportError: if loky is not installed.
        """
        return cls(factories.loky(max_workers))

    @classmethod
    def with_sequential(cls) -> Self:
        """A scheduler that runs each call as it is submitted: for debugging, and for tests."""
        return cls(factories.sequential())

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
        return cls(factories.dask(where, n_workers, security))

    # -- tasks -----------------------------------------------------------------------------

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

    @property
    def executor(self) -> Any:
        """Where calls run: what `Scheduler(...)` was given.

        If a `with_...` constructor makes an executor for each run, this is that of the present
        or the last run; None before the first.
        """
        return self._executor

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
        options = _options(timeout, end_on_empty, wait, on_exception, on_cancelled)
        with self._running(options, display) as run:
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
        options = _options(timeout, end_on_empty, wait, on_exception, on_cancelled)
        with self._running(options, display) as run:
            state = await run.loop.drive_async(run.steps())
        if run.error is not None:
            raise run.error
        return state

    @contextmanager
    def _running(self, options: RunOptions, display: bool) -> Iterator[Run]:
        """A run from its start to its end; what is left of it when it fails is ended at once."""
        if self._run is not None:
            raise RuntimeError("The scheduler is running already")
        view: AbstractContextManager[Callable[[], None] | None] = (
            live(self) if display else nullcontext()
        )
        run = self._run = Run(self.emitter, self._factory, options, view)
        if self._factory.given is None:
            self._executor = run.executor
        try:
            yield run
        except BaseException as error:
            run.finish_at_once(error)
            raise
        finally:
            self._run = None

    def __rich__(self) -> RenderableType:
        return render.scheduler_tree(
            self._factory.name,
            self._factory.options,
            len(self.queue),
            () if self._run is None else self._run.cluster.lines(),
            self.emitter.summary(),
            list(self.tasks.values()),
        )

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._factory.options.items())
        return f"Scheduler({self._factory.name}({options}), {len(self.queue)} not done)"


def _options(
    timeout: Amount | None,
    end_on_empty: bool,
    wait: bool,
    on_exception: OnException,
    on_cancelled: Action,
) -> RunOptions:
    check_actions(on_exception, on_cancelled)
    timeout_s = None if timeout is None else parse_seconds(timeout, "timeout")
    return RunOptions(timeout_s, end_on_empty, wait, on_exception, on_cancelled)
