from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from dask_limits.exceptions import SchedulerNotRunningError
from dask_limits.executors import Call, Future
from dask_limits.limits.trace_context import carrying
from dask_limits.report import Recorder
from dask_limits.scheduler.events import SchedulerEvents
from dask_limits.scheduler.run import Run
from dask_limits.scheduler.run_loop import Timer
from dask_limits.units import Duration, parse_delay

P = ParamSpec("P")
R = TypeVar("R")


class Submitter(SchedulerEvents):
    """The part of a scheduler that deals with its present run, if there is one.

    Attributes:
        tasks: The tasks that are still in use, by their references.
    """

    def __init__(self) -> None:
        super().__init__()
        self._latest_run: Run | None = None
        self._recorder = Recorder()
        # Weak: a program may make a million tasks, one after another.
        self.tasks: WeakValueDictionary[str, Any] = WeakValueDictionary()

    @property
    def _run(self) -> Run | None:
        """The present run."""
        run = self._latest_run
        return None if run is None or run.is_over() else run

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Submit a call. From another thread, this waits until the run loop takes it.

        Meanwhile the runs of the waiting thread, if this is a callback of theirs, take what other
        threads submit: so schedulers can submit to each other. `fn` can be any callable: functions
        of `__main__`, lambdas and closures too.

        Returns:
            Its future. An error in submitting it, such as an argument that cannot be pickled, is
            the future's exception.

        Raises:
            SchedulerNotRunningError: before `run()`, after `stop()`, and when a run is ending. In a
                callback of another run, also if the timeout of that run comes while this waits.
        """
        return self.in_run(Run.submit, (fn, args, kwargs))

    def call_later(
        self, delay: Duration, fn: Callable[P, object], /, *args: P.args, **kwargs: P.kwargs
    ) -> Timer:
        """Call a function after `delay`, as callbacks are called: in the thread of the run.

        `delay` is in seconds, 0 or more, or has a unit: `(5, "m")`, `"500 ms"`. The run is not
        empty until then. If it ends for another reason, the function is not called.

        Returns:
            The timer; its `cancel()` cancels the call.

        Raises:
            SchedulerNotRunningError: if the scheduler is not running.
        """
        call = carrying(partial(fn, *args, **kwargs))
        return self.in_run(Run.call_later, parse_delay(delay), call)

    def stop(
        self,
        *_: object,
        stop_msg: str = "stop() was called",
        exception: BaseException | None = None,
        **__: object,
    ) -> None:
        """End the run. It can be called from any thread, and does nothing if there is no run.

        It ignores other arguments, so it can be a callback: `task.on_exception(scheduler.stop)`.

        Args:
            stop_msg: The message that callbacks of STOP are called with.
            exception: The exception that they are called with. It becomes that of the ExitState,
                and is not raised.
        """
        if (run := self._run) is not None:
            run.stop(stop_msg, exception)

    def running(self) -> bool:
        """Whether calls can be submitted: from STARTED on, until `stop()` or the end."""
        return (run := self._run) is not None and run.running()

    def empty(self) -> bool:
        """Whether no call and no timer is left."""
        return (run := self._run) is None or run.empty()

    @property
    def queue(self) -> Mapping[Future[Any], Call]:
        """The calls that are not done: function, args and kwargs by their future. Read-only."""
        return MappingProxyType({} if (run := self._run) is None else run.queue)

    def in_run(self, fn: Callable[Concatenate[Run, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call a function with the run, in the run's thread. For tasks."""
        if (run := self._run) is None:
            raise SchedulerNotRunningError(
                "The scheduler is not running, so nothing can be submitted to it. Submit in a"
                " callback, such as one of @scheduler.on_start, and call scheduler.run()."
            )

        def call() -> R:
            if not run.running():
                raise SchedulerNotRunningError(
                    "The run is ending, so nothing can be submitted any more. Check"
                    " scheduler.running() before you submit."
                )
            return fn(run, *args, **kwargs)

        return run.loop.ask(call)
