from __future__ import annotations

import concurrent.futures
import secrets
import string
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Final,
    Generic,
    ParamSpec,
    TypeVar,
    cast,
    overload,
)

from dask_limits.display import render
from dask_limits.events import Emitter, Event, Subscriber
from dask_limits.executors import Future
from dask_limits.executors.deferred_future import StandInFuture
from dask_limits.limits import name_of

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dask_limits.exceptions import WorkerLostError
    from dask_limits.plugins.base import Plugin
    from dask_limits.scheduler.run import Call, Run
    from dask_limits.scheduler.scheduler import Scheduler

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")

_REF_LETTERS: Final = string.ascii_letters + string.digits


class Task(render.Renderable, Generic[P, R]):
    """A function to be submitted to a scheduler, with events and plugins of its own.

    `scheduler.task(function)` is the usual way to make one. What it costs to submit a call does
    not depend on how many are waiting.

    Args:
        function: What each call runs.
        scheduler: Where it is submitted.
        plugins: A plugin, or several, that change, refuse or hold calls.

    Attributes:
        name: What the function is called.
        unique_ref: Tells it from any other task, "Task-name-xxxxxxxx".
        plugins: The plugins, in the order in which they see a call.
        emitter: Emits its events, those of its plugins included.
        n_submitted: How many calls were submitted in all.

    Example:
        >>> from dask_limits import Scheduler
        >>> scheduler = Scheduler.with_threads(2)
        >>> double = scheduler.task(lambda x: 2 * x)
        >>> @double.on_result
        ... def show(future, result):
        ...     print(result)
        >>> @scheduler.on_start
        ... def begin():
        ...     double.submit(21)
        >>> _ = scheduler.run()
        42
    """

    SUBMITTED: Event[...] = Event("on-submitted")
    """A call was submitted. Called with its future, and its arguments."""
    DONE: Event[[Future[Any]]] = Event("on-done")
    """A call has returned or raised. Called with its future."""
    RESULT: Event[[Future[Any], Any]] = Event("on-result")
    """A call has returned. Called with its future and what it returned."""
    EXCEPTION: Event[[Future[Any], BaseException]] = Event("on-exception")
    """A call has raised. Called with its future and the exception."""
    CANCELLED: Event[[Future[Any]]] = Event("on-cancelled")
    """A call was cancelled. Called with its future."""
    RERUN: Event[[Future[Any], WorkerLostError, int]] = Event("on-rerun")
    """The worker that ran a call was lost, and the call runs again. Called with its future, how
    the worker was lost, and the number of the attempt to come: 2 for the first rerun."""
    RETRY: Event[[Future[Any], BaseException, int]] = Event("retry")
    """An attempt has failed, and its call is about to be submitted again. Only of tasks with a
    plugin that does so. Called with the call's future, the exception, and the number of the
    attempt to come: 2 for the first retry."""

    def __init__(
        self,
        function: Callable[P, R],
        scheduler: Scheduler,
        *,
        plugins: Plugin | Iterable[Plugin] = (),
    ) -> None:
        if not callable(function):
            raise TypeError(f"{function!r} is a {type(function).__name__}, and cannot be called")
        self.function = function
        self.scheduler = scheduler
        self.name = name_of(function)
        ref = "".join(secrets.choice(_REF_LETTERS) for _ in range(8))
        self.unique_ref = f"Task-{self.name}-{ref}"
        self.emitter = Emitter(
            f"Task {self.name}",
            [
                self.SUBMITTED,
                self.DONE,
                self.RESULT,
                self.EXCEPTION,
                self.CANCELLED,
                self.RERUN,
            ],
        )
        subscriber = self.emitter.subscriber
        self.on_submitted: Subscriber[Concatenate[Future[R], P]] = subscriber(
            cast("Event[Concatenate[Future[R], P]]", self.SUBMITTED)
        )
        self.on_done: Subscriber[[Future[R]]] = subscriber(self.DONE)
        self.on_result: Subscriber[[Future[R], R]] = subscriber(self.RESULT)
        self.on_exception: Subscriber[[Future[R], BaseException]] = subscriber(self.EXCEPTION)
        self.on_cancelled: Subscriber[[Future[R]]] = subscriber(self.CANCELLED)
        self.on_rerun: Subscriber[[Future[R], WorkerLostError, int]] = subscriber(self.RERUN)
        self.n_submitted = 0
        self.plugins: list[Plugin] = []
        self._futures: dict[Future[R], None] = {}  # as a set that keeps its order
        self._held: OrderedDict[StandInFuture[R], None] = OrderedDict()  # also in _futures
        self._retriers: list[Plugin] = []  # those that may want another attempt
        for plugin in _as_plugins(plugins):
            self.attach_plugin(plugin)
        scheduler._add_task(self)

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Future[R] | None:
        """Submit a call. From another thread, this waits for the run loop to come round to it.

        Returns:
            Its future; None if a plugin has refused the call.

        Raises:
            SchedulerNotRunningError: if the scheduler is not running.
        """
        return self.scheduler._in_run(self._submit, args, kwargs)

    @overload
    def on(self, event: Event[Q]) -> Subscriber[Q]: ...  # type: ignore[overload-overlap]

    @overload
    def on(self, event: str) -> Subscriber[...]: ...

    def on(self, event: Event[Q] | str) -> Subscriber[Q] | Subscriber[...]:
        """What subscribes to any event of the task, by the event or its name.

        Raises:
            EventNotKnownError: if the task has no such event.
        """
        return self.emitter.on(event)

    def attach_plugin(self, plugin: Plugin) -> None:
        """Attach a plugin, after those that are there.

        Raises:
            ValueError: if it is attached to a task already.
        """
        other = getattr(plugin, "task", None)
        if other is not None:
            raise ValueError(
                f"{plugin!r} is attached to {other!r} already."
                " A plugin belongs to one task: attach plugin.copy()."
            )
        self.emitter.add_event(*plugin.events())
        if _may_retry(plugin):
            self.emitter.add_event(self.RETRY)
            self._retriers.append(plugin)
        plugin.attach_task(self)
        plugin.task = self
        self.plugins.append(plugin)

    def futures(self) -> list[Future[R]]:
        """The calls that are not done, those that are held included, in order of submission."""
        return list(self._futures)

    @property
    def n_running(self) -> int:
        """How many calls have been handed to the executor and are not done.

        Those that a plugin is about to submit again are among them, also while they wait for it.
        """
        return len(self._futures) - len(self._held)

    @property
    def n_held(self) -> int:
        """How many calls wait for a plugin to give them a place."""
        return len(self._held)

    def running(self) -> bool:
        """Whether any call has been handed to the executor and is not done."""
        return self.n_running > 0

    def start_held(self) -> None:
        """Start the calls that are held, as many as there are places. For plugins."""
        run = self.scheduler._run
        while self._held and run is not None and run.running() and self._has_place():
            future, _ = self._held.popitem(last=False)
            self._start(run, future)

    def _forget(self, future: Future[R]) -> None:
        """Take a call off the books because it has ended. For the scheduler."""
        self._futures.pop(future, None)
        if isinstance(future, StandInFuture):
            self._held.pop(future, None)

    def _submit(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[R] | None:
        call: Call = self.function, args, kwargs
        for plugin in self.plugins:
            changed = plugin.pre_submit(call[0], *call[1], **call[2])
            if changed is None:
                return None
            call = changed
        future: Future[R]
        if self._held or not self._has_place():
            future = held = StandInFuture[R]()
            self._held[held] = None
        elif self._retriers:
            future = stand_in = StandInFuture[R]()
            self._attempt(run, stand_in, call)
        else:
            future = run.start(call)
        # All is on the books before the first callback, which may submit again.
        self._futures[future] = None
        self.n_submitted += 1
        run.add(future, call, self)
        run.guard(partial(self.on_submitted.emit, future, *args, **kwargs))
        return future

    def _start(self, run: Run, future: StandInFuture[R]) -> None:
        """Start a call that has waited."""
        if not future.done():  # cancelled, and the loop has not come to that yet
            self._attempt(run, future, run.queue[future])

    def _attempt(self, run: Run, future: StandInFuture[R], call: Call) -> None:
        """Hand a call to the executor; if plugins may retry it, they hear first how that ends."""

        def then(attempt: concurrent.futures.Future[R]) -> None:
            run.loop.put(partial(self._attempt_ended, run, future, attempt))

        future.start(run.executor, call, then if self._retriers else future.end_as)

    def _attempt_ended(
        self, run: Run, future: StandInFuture[R], attempt: concurrent.futures.Future[R]
    ) -> None:
        """End a call as its attempt has ended, or have it submitted again."""
        if future.done():
            return  # cancelled in the meantime
        error = None if attempt.cancelled() else attempt.exception()
        again = False
        try:
            again = error is not None and run.running() and self._again(run, future, error)
        finally:  # whatever a plugin raises, the call must end
            if not again:
                future.end_as(attempt)
        if again:
            run.guard(self.emitter.emit, self.RETRY, future, error, future.attempts + 1)

    def _again(self, run: Run, future: StandInFuture[R], error: BaseException) -> bool:
        """Have a call submitted again if a plugin wants that."""
        for plugin in self._retriers:
            if (again := plugin.next_attempt(future, error, run.queue[future])) is not None:
                call, delay_s = again
                # Also for no delay: first come callbacks, which may cancel it, or end the run.
                timer = run.call_later(float(delay_s), partial(self._start, run, future))
                run.queue[future] = call
                future.rest(error, timer.cancel)
                return True
        return False

    def _has_place(self) -> bool:
        return all(plugin.has_place() for plugin in self.plugins)

    def __rich__(self) -> RenderableType:
        return render.task_panel(
            self.function, self.unique_ref, self.plugins, self.emitter.summary()
        )

    def __repr__(self) -> str:
        return f"Task({self.name}, {len(self._futures)} not done)"


def _may_retry(plugin: Plugin) -> bool:
    from dask_limits.plugins.base import Plugin  # above, this would be a circle

    return getattr(type(plugin), "next_attempt", Plugin.next_attempt) is not Plugin.next_attempt


def _as_plugins(plugins: Plugin | Iterable[Plugin]) -> Iterable[Plugin]:
    several = list(plugins) if isinstance(plugins, Iterable) else [plugins]
    for plugin in several:
        if isinstance(plugin, type):
            raise TypeError(
                f"plugins={plugin.__name__} is a class: pass an instance, {plugin.__name__}(...)"
            )
        if not (hasattr(plugin, "pre_submit") and hasattr(plugin, "attach_task")):
            raise TypeError(
                f"plugins={plugin!r} is a {type(plugin).__name__}, not a Plugin or several"
            )
    return several
