from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar, Final, ParamSpec, Protocol, Self, overload, runtime_checkable

from dask_limits.display import render
from dask_limits.events import Emitter, Event, Subscriber, events_of
from dask_limits.executors import Call, Future

P = ParamSpec("P")

RETRY: Final[Event[[Future[Any], BaseException, int]]] = Event(
    "retry", "future, exception, attempt"
)
"""An attempt has failed, and its call is about to be submitted again. Only tasks with a plugin
that does so have this event. Called with the call's future, the exception, and the number of the
next attempt: 2 for the first retry."""


@runtime_checkable
class PluginTask(Protocol):
    """A task as its plugins see it. See [Task][dask_limits.Task]."""

    name: str
    unique_ref: str
    emitter: Emitter
    scheduler: Any
    n_submitted: int

    @property
    def on_submitted(self) -> Subscriber[...]: ...  # noqa: D102
    @property
    def on_done(self) -> Subscriber[[Future[Any]]]: ...  # noqa: D102
    @property
    def on_result(self) -> Subscriber[[Future[Any], Any]]: ...  # noqa: D102
    @property
    def on_exception(self) -> Subscriber[[Future[Any], BaseException]]: ...  # noqa: D102
    @property
    def on_cancelled(self) -> Subscriber[[Future[Any]]]: ...  # noqa: D102
    @property
    def n_running(self) -> int: ...  # noqa: D102
    @property
    def n_held(self) -> int: ...  # noqa: D102
    def running(self) -> bool: ...  # noqa: D102
    def futures(self) -> list[Future[Any]]: ...  # noqa: D102
    def start_held(self) -> None: ...  # noqa: D102
    @overload
    def on(self, event: Event[P]) -> Subscriber[P]: ...  # type: ignore[overload-overlap]
    @overload
    def on(self, event: str) -> Subscriber[...]: ...
    def emit(self, event: Event[...] | str, /, *args: Any, **kwargs: Any) -> None: ...  # noqa: D102
    def add_event(self, *events: Event[...]) -> None: ...  # noqa: D102


class Plugin(render.Renderable):
    """Something attached to a task that can change, refuse or hold its calls.

    Derive from this class, and override what you need. Events that are class attributes become
    events of the task; emit them with `self.task.emit(...)`.

    Attributes:
        name: The name under which it is displayed.
        task: The task that it is attached to.

    Example:
        >>> from dask_limits import Event, Scheduler
        >>> class OnlyEven(Plugin):
        ...     ODD = Event("odd-refused")
        ...     def pre_submit(self, fn, n):
        ...         if n % 2 == 0:
        ...             return fn, (n,), {}
        ...         self.task.emit(self.ODD, n)
        >>> scheduler = Scheduler.with_sequential()
        >>> task = scheduler.task(print, plugins=OnlyEven())
        >>> _ = task.on("odd-refused")(lambda n: print("refused", n))
        >>> _ = scheduler.on_start(lambda: [task.submit(n) for n in (3, 4)])
        >>> _ = scheduler.run()
        refused 3
        4
    """

    name: ClassVar[str] = "plugin"

    task: PluginTask

    def attach_task(self, task: Any) -> None:
        """Called when it is attached to a task, which has its events by then."""
        self.task = task

    def pre_submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Call | None:
        """Called before a call is submitted, with its function and arguments.

        Returns:
            The function, positional arguments and keyword arguments to submit instead. None
            refuses the call, and `task.submit` returns None.
        """
        return fn, args, kwargs

    def has_place(self) -> bool:
        """Whether a call may start now. If not, it is held, at least until another call ends."""
        return True

    def next_attempt(
        self, future: Future[Any], exception: BaseException, call: Call
    ) -> tuple[Call, float] | None:
        """Called when an attempt of a call has failed, before any event of it is emitted.

        Override it to submit calls again; the task then has the event "retry". It is not called
        when the call was cancelled, or when the run is ending.

        Args:
            future: The future of the call, which is not done yet.
            exception: What the attempt raised.
            call: What was submitted: the function, positional arguments, keyword arguments.

        Returns:
            What to submit next, and the delay in seconds (0 or more). None asks the next plugin;
            if no plugin wants another attempt, the call has failed.
        """
        return None

    def post_done(self, future: Future[Any]) -> None:
        """Called when a call has ended or was cancelled, after the events of the task."""

    def events(self) -> list[Event[...]]:
        """The events that it adds to the task: by default, those among its class attributes."""
        return events_of(type(self))

    def copy(self) -> Self:
        """Return a plugin like this one, attached to no task. Override it to reset counts."""
        same = copy.copy(self)
        vars(same).pop("task", None)
        return same

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _rows(self) -> list[str]:
        """What is displayed of it, one property a line."""
        return []

    def __rich__(self) -> render.RenderableType:
        return render.plugin_panel(self.name, self._rows())

    def __html__(self) -> render.Html:
        from dask_limits.display import views  # for notebooks alone

        return views.plugin_html(self.name, self._rows())
