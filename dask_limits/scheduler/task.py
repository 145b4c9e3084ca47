from __future__ import annotations

import concurrent.futures
import secrets
import string
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, Unpack

from dask_limits.display import render
from dask_limits.events import Event
from dask_limits.executors import Call, Future
from dask_limits.executors.traced import deferred
from dask_limits.future import DeferredFuture
from dask_limits.instead import command_of, refuse
from dask_limits.limits import Limits, LimitsArguments, call_log, name_of
from dask_limits.limits.limits import NOT_LIMITS
from dask_limits.plugins import PynisherPlugin
from dask_limits.plugins.base import RETRY, Plugin
from dask_limits.scheduler.call_hooks import CallHooks
from dask_limits.scheduler.events import TaskEvents
from dask_limits.scheduler.run import Run
from dask_limits.scheduler.submitter import Submitter
from dask_limits.units import parse_delay

if TYPE_CHECKING:
    from dask_limits.display.views import TaskRow
    from dask_limits.journal.run_journal import Known, RunJournal

P = ParamSpec("P")
R = TypeVar("R")

_LIMITER: Final = "use plugins=Limiter(max_concurrent={value!r})"
_ELSEWHERE: Final = {
    **NOT_LIMITS,
    "max_calls": "use plugins=Limiter(max_calls={value!r})",
    "max_concurrent": _LIMITER,
    "concurrency": _LIMITER,
    "name": "it has the name of its function",
}


class Task(TaskEvents[P, R], render.Renderable):
    """A function to submit to a scheduler, with its own events and plugins.

    Usually made by `scheduler.task(function)`.

    Args:
        function: The function that each call runs.
        scheduler: The scheduler that calls are submitted to.
        plugins: A plugin, or several, that change, refuse or hold calls.
        key: A function of the arguments of a call. What it returns, as text, is what a
            [Journal][dask_limits.Journal] knows the call by, in place of all its arguments.
        **limits: The limits of each call: see [task][dask_limits.Scheduler.task].

    Attributes:
        name: The name of the function.
        unique_ref: A name that no other task has, "Task-name-xxxxxxxx".
        emitter: Emits its events, those of its plugins included.
        plugins: The plugins, in the order in which they see a call.
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

    RETRY: Event[[Future[Any], BaseException, int]] = RETRY

    def __init__(
        self,
        function: Callable[P, R],
        scheduler: Submitter,
        *,
        plugins: Plugin | Iterable[Plugin] = (),
        key: Callable[P, object] | None = None,
        **limits: Unpack[LimitsArguments],
    ) -> None:
        if key is not None and not callable(key):
            raise TypeError(f"key={key!r} must be a function of the arguments of a call")
        if not callable(function):
            raise TypeError(
                f"A task needs a function, but {function!r} is of type {type(function).__name__}"
                f"{command_of(function)}"
            )
        self.name = name_of(function)
        super().__init__(self.name)
        self.function = function
        self.scheduler = scheduler
        ref = "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(8))
        self.unique_ref = f"Task-{self.name}-{ref}"
        self._key = key
        self.plugins: list[Plugin] = []
        self.n_submitted = 0
        self._futures: dict[Future[R], None] = {}  # as a set that keeps its order
        self._held: OrderedDict[DeferredFuture[R], Run] = OrderedDict()
        self._last_hooks: weakref.ref[CallHooks] | None = None
        self._may_retry = False  # whether a plugin may want another attempt of a call
        several = list(plugins) if isinstance(plugins, Iterable) else [plugins]
        several += _plugins_of(limits)
        for plugin in several:  # before any of them is attached
            _check_plugin(plugin)
        for plugin in several:
            self.attach_plugin(plugin)
        scheduler.tasks[self.unique_ref] = self

    def attach_plugin(self, plugin: Plugin) -> None:
        """Attach a plugin. It sees calls after the plugins that are attached already.

        Raises:
            TypeError: if its class is not derived from `Plugin`.
            ValueError: if it is attached to a task already.
        """
        _check_plugin(plugin)
        other = getattr(plugin, "task", None)
        if other is not None:
            raise ValueError(
                f"{plugin!r} is already attached to {other!r}. A plugin belongs to one task:"
                " attach plugin.copy() instead."
            )
        self.add_event(*plugin.events())
        if type(plugin).next_attempt is not Plugin.next_attempt:
            self.add_event(RETRY)
            self._may_retry = True
        plugin.attach_task(self)
        plugin.task = self
        self.plugins.append(plugin)

    # -- calls -----------------------------------------------------------------------------

    def futures(self) -> list[Future[R]]:
        """The futures of the calls that are not done, held ones included, in order."""
        return list(self._futures)

    @property
    def n_running(self) -> int:
        """How many calls the executor has that are not done, between attempts too.

        They run, or wait there. Those that plugins hold are not counted.
        """
        return len(self._futures) - len(self._held)

    @property
    def n_held(self) -> int:
        """How many calls wait until plugins let them start."""
        return len(self._held)

    def running(self) -> bool:
        """Whether `n_running` is not 0."""
        return self.n_running > 0

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Future[R] | None:
        """Submit a call. From another thread, this waits until the run loop takes it.

        Returns:
            Its future; None if a plugin has refused the call.

        Raises:
            SchedulerNotRunningError: if the scheduler is not running.
        """
        return self.scheduler.in_run(self._submit, args, kwargs)

    def _submit(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[R] | None:
        call: Call = (self.function, args, kwargs)
        for plugin in self.plugins:
            changed = plugin.pre_submit(call[0], *call[1], **call[2])
            if changed is None:
                return None
            call = changed
        known = None if run.journal is None else self._known(run.journal, args, kwargs)
        future: Future[R]
        if known is not None and known.past is not None:
            future = known.past
        elif self._held or not self._has_place():
            future = held = deferred(call)
            self._held[held] = run
        elif self._may_retry:
            future = retried = deferred(call)
            self._attempt(run, retried, call)
        else:
            future = run.start(call, self.emitter)
        # All counts are right before the first callback, which may submit again.
        self._futures[future] = None
        self.n_submitted += 1
        run.add(future, call, self._hooks(), known)
        run.guard(self.emitter.emit, self.SUBMITTED, future, *args, **kwargs)
        return future

    def _known(self, journal: RunJournal, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Known:
        key = None if self._key is None else str(self._key(*args, **kwargs))
        return journal.submitted(self.name, (self.function, args, kwargs), key)

    def _hooks(self) -> CallHooks:
        """What the run needs of this: one object as long as there are calls."""
        hooks = None if self._last_hooks is None else self._last_hooks()
        if hooks is None:
            hooks = CallHooks(self.emitter, self.plugins, self._forget, self.start_held)
            # Else together they would be a circle, and live on after their last use.
            self._last_hooks = weakref.ref(hooks)
        return hooks

    def start_held(self) -> None:
        """Start the held calls that may start now. For plugins."""
        while self._held:
            future, run = next(iter(self._held.items()))
            if not (run.running() and self._has_place()):
                return
            del self._held[future]
            self._start(run, future)

    def _has_place(self) -> bool:
        return all(plugin.has_place() for plugin in self.plugins)

    def _forget(self, future: Future[Any]) -> None:
        self._futures.pop(future, None)
        if isinstance(future, DeferredFuture):
            self._held.pop(future, None)

    # -- attempts --------------------------------------------------------------------------

    def _start(self, run: Run, future: DeferredFuture[R]) -> None:
        """Start a call that was held, or the next attempt of one."""
        if not future.done():  # it may be cancelled, and the run not know that yet
            self._attempt(run, future, run.queue[future])

    def _attempt(self, run: Run, future: DeferredFuture[R], call: Call) -> None:
        """Submit a call to the executor. Plugins that may retry it are asked when it has failed."""

        def then(attempt: concurrent.futures.Future[R]) -> None:
            run.loop.put(partial(self._attempt_ended, run, future, attempt))

        started = run.progress.as_asked_for(call, self.emitter)
        if started is not call:
            run.progress.listen(future, self.emitter)
        future.start(run.executor, started, then if self._may_retry else future.end_as)

    def _attempt_ended(
        self, run: Run, future: DeferredFuture[R], attempt: concurrent.futures.Future[R]
    ) -> None:
        """End a call as its attempt has ended, or submit it again."""
        if future.done():
            return  # it was cancelled in the meantime
        error = None if attempt.cancelled() else attempt.exception()
        again = False
        try:
            again = error is not None and run.running() and self._again(run, future, error)
        finally:  # the call must end, even if a plugin raises
            if not again:
                future.end_as(attempt)
        if again:
            assert error is not None
            call_log.runs_again(self.name, call_log.in_a_line(error), future.attempts + 1)
            if run.watch is not None:
                run.watch.n_retries += 1
            run.progress.tell(future)  # what the last attempt has reported last
            run.guard(self.emitter.emit, RETRY, future, error, future.attempts + 1)

    def _again(self, run: Run, future: DeferredFuture[R], error: BaseException) -> bool:
        """Schedule the next attempt if a plugin wants one."""
        for plugin in self.plugins:
            if (again := plugin.next_attempt(future, error, run.queue[future])) is not None:
                call, delay_s = again
                # Even without a delay: callbacks come first, and may cancel it or end the run.
                timer = run.call_later(parse_delay(delay_s), partial(self._start, run, future))
                run.queue[future] = call
                future.rest(error, timer.cancel)
                return True
        return False

    def __rich__(self) -> render.RenderableType:
        return render.task_panel(
            self.function, self.unique_ref, self.plugins, self.emitter.subscribers
        )

    def __html__(self) -> render.Html:
        from dask_limits.display import views  # for notebooks alone

        return views.task_html(
            self.function, self.unique_ref, self.plugins, self.emitter.subscribers
        )

    def __repr__(self) -> str:
        return f"Task({self.name}, {len(self._futures)} not done)"


def _plugins_of(limits: LimitsArguments) -> list[Plugin]:
    """The plugin for limits by their names, if there are any."""
    known = ["plugins", "key", *LimitsArguments.__annotations__]
    refuse("task()", {n: value for n, value in limits.items() if n not in known}, known, _ELSEWHERE)
    if not limits:
        return []
    return [PynisherPlugin(**Limits(**limits).as_dict())]


def _check_plugin(plugin: object) -> None:
    if isinstance(plugin, type):
        raise TypeError(f"{plugin.__name__} is a class: pass an instance, {plugin.__name__}(...)")
    if not isinstance(plugin, Plugin):
        raise TypeError(
            f"{plugin!r} must be a plugin, such as PynisherPlugin(...), but is of type"
            f" {type(plugin).__name__}. Derive plugins of your own from dask_limits.Plugin."
        )


def row_of(task: Task[..., Any]) -> TaskRow:
    """How a task is shown among the others."""
    from dask_limits.display.views import TaskRow  # for notebooks alone

    n_running = sum(future.running() for future in task.futures())
    n_waiting = task.n_running - n_running
    return TaskRow(task.name, n_running, n_waiting, task.n_held, task.event_counts, task)
