from __future__ import annotations

import secrets
import string
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from dask_limits.display import render
from dask_limits.events import Event
from dask_limits.executors import Future
from dask_limits.limits import name_of
from dask_limits.plugins.base import RETRY, Plugin
from dask_limits.scheduler.events import TaskEvents
from dask_limits.scheduler.run import Run
from dask_limits.scheduler.submitter import Submitter
from dask_limits.scheduler.task_calls import TaskCalls, may_retry

if TYPE_CHECKING:
    from rich.console import RenderableType

P = ParamSpec("P")
R = TypeVar("R")

_REF_LETTERS: Final = string.ascii_letters + string.digits


class Task(TaskEvents[P, R], render.Renderable):
    """A function to submit to a scheduler, with its own events and plugins.

    Usually made by `scheduler.task(function)`. The time that `submit` takes does not depend on
    the number of calls that wait.

    Args:
        function: The function that each call runs.
        scheduler: The scheduler that calls are submitted to.
        plugins: A plugin, or several, that change, refuse or hold calls.

    Attributes:
        name: The name of the function.
        unique_ref: A name that no other task has, "Task-name-xxxxxxxx".
        emitter: Emits its events, those of its plugins included.

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
    ) -> None:
        if not callable(function):
            raise TypeError(
                f"A task needs a function: {function!r} is a {type(function).__name__}, and cannot"
                " be called"
            )
        self.name = name_of(function)
        super().__init__(self.name)
        self.function = function
        self.scheduler = scheduler
        ref = "".join(secrets.choice(_REF_LETTERS) for _ in range(8))
        self.unique_ref = f"Task-{self.name}-{ref}"
        self._calls: TaskCalls[R] = TaskCalls(self.emitter)
        for plugin in _as_plugins(plugins):
            self.attach_plugin(plugin)
        scheduler.tasks[self.unique_ref] = self

    def submit(self, /, *args: P.args, **kwargs: P.kwargs) -> Future[R] | None:
        """Submit a call. From another thread, this waits until the run loop takes it.

        Returns:
            Its future; None if a plugin has refused the call.

        Raises:
            SchedulerNotRunningError: if the scheduler is not running.
        """
        return self.scheduler.in_run(self._submit, args, kwargs)

    def _submit(self, run: Run, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Future[R] | None:
        return self._calls.submit(run, (self.function, args, kwargs))

    def attach_plugin(self, plugin: Plugin) -> None:
        """Attach a plugin. It sees calls after the plugins that are attached already.

        Raises:
            ValueError: if it is attached to a task already.
        """
        other = getattr(plugin, "task", None)
        if other is not None:
            raise ValueError(
                f"{plugin!r} is already attached to {other!r}. A plugin belongs to one task:"
                " attach plugin.copy() instead."
            )
        self.add_event(*plugin.events())
        if may_retry(plugin):
            self.add_event(RETRY)
        plugin.attach_task(self)
        plugin.task = self
        self._calls.attach(plugin)

    @property
    def plugins(self) -> list[Plugin]:
        """The plugins, in the order in which they see a call."""
        return self._calls.plugins

    @property
    def n_submitted(self) -> int:
        """How many calls were submitted in all."""
        return self._calls.n_submitted

    def futures(self) -> list[Future[R]]:
        """The futures of the calls that are not done, held ones included, in order."""
        return list(self._calls.futures)

    @property
    def n_running(self) -> int:
        """How many calls were submitted to the executor and are not done.

        A call that waits for its next attempt is one of them.
        """
        return len(self._calls.futures) - len(self._calls.held)

    @property
    def n_held(self) -> int:
        """How many calls wait until plugins let them start."""
        return len(self._calls.held)

    def running(self) -> bool:
        """Whether `n_running` is not 0."""
        return self.n_running > 0

    def start_held(self) -> None:
        """Start the held calls that may start now. For plugins."""
        self._calls.start_held()

    def __rich__(self) -> RenderableType:
        return render.task_panel(
            self.function, self.unique_ref, self.plugins, self.emitter.summary()
        )

    def __repr__(self) -> str:
        return f"Task({self.name}, {len(self._calls.futures)} not done)"


def _as_plugins(plugins: Plugin | Iterable[Plugin]) -> Iterable[Plugin]:
    several = list(plugins) if isinstance(plugins, Iterable) else [plugins]
    for plugin in several:
        if isinstance(plugin, type):
            raise TypeError(
                f"plugins={plugin.__name__} is a class: pass an instance, {plugin.__name__}(...)"
            )
        if not (hasattr(plugin, "pre_submit") and hasattr(plugin, "attach_task")):
            raise TypeError(
                f"plugins={plugins!r} must be a plugin, such as PynisherPlugin(...), or a list of"
                f" plugins: {plugin!r} is a {type(plugin).__name__}"
            )
    return several
