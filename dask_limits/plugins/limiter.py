from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal

from dask_limits.events import Event
from dask_limits.executors import Call
from dask_limits.plugins.base import Plugin, PluginTask
from dask_limits.units import whole_number


class Limiter(Plugin):
    """Limits the calls of a task: in all, at one time, or while other tasks run.

    A call over a limit is dropped: `task.submit` returns None, and one of the three events is
    emitted, with the task and the arguments of the call. With `when_full="wait"`, a call over
    `max_concurrent` or `not_while_running` is held instead: its future is returned at once, and
    it starts when the limits allow it, first come, first served. A held call counts as submitted.
    It can be cancelled, and is cancelled if the run ends before it starts.

    Args:
        max_calls: How many calls may be submitted in all. Further calls are always dropped.
        max_concurrent: How many calls may run at one time.
        not_while_running: A task, or several. No call starts while one of theirs runs.
        when_full: Whether to "drop" a call that may not start now, or to let it "wait".

    Raises:
        ValueError: for a count below 1, or an unknown `when_full`.
        TypeError: for something in `not_while_running` that is not a task.

    Example:
        >>> from dask_limits import Scheduler
        >>> scheduler = Scheduler.with_threads(2)
        >>> task = scheduler.task(abs, plugins=Limiter(max_calls=2))
        >>> _ = task.on("call-limit-reached")(lambda task, x: print("no more:", x))
        >>> _ = scheduler.on_start(lambda: [task.submit(x) for x in (1, 2, 3)])
        >>> _ = scheduler.run()
        no more: 3
    """

    name: ClassVar[str] = "limiter"

    CALL_LIMIT_REACHED: Event[...] = Event("call-limit-reached", "task, *arguments")
    """A call was dropped: `max_calls` had been submitted. Called with the task and arguments."""

    CONCURRENT_LIMIT_REACHED: Event[...] = Event("concurrent-limit-reached", "task, *arguments")
    """A call was dropped: `max_concurrent` were running. Called with the task and arguments."""

    DISABLED_DUE_TO_RUNNING_TASK: Event[...] = Event(
        "disabled-due-to-running-task", "task, *arguments"
    )
    """A call was dropped: another task was running. Called with this task and arguments."""

    def __init__(
        self,
        *,
        max_calls: int | None = None,
        max_concurrent: int | None = None,
        not_while_running: PluginTask | Iterable[PluginTask] = (),
        when_full: Literal["drop", "wait"] = "drop",
    ) -> None:
        for name, count in (("max_calls", max_calls), ("max_concurrent", max_concurrent)):
            if count is not None:
                whole_number(count, name, none="no limit")
        if when_full not in ("drop", "wait"):
            raise ValueError(f"when_full={when_full!r} must be 'drop' or 'wait'")
        others = not_while_running or ()
        self.max_calls = max_calls
        self.max_concurrent = max_concurrent
        self.not_while_running = tuple(others) if isinstance(others, Iterable) else (others,)
        self.when_full = when_full
        self._submitted_before = 0
        for other in self.not_while_running:
            if not isinstance(other, PluginTask):
                raise TypeError(
                    f"not_while_running={other!r} is of type {type(other).__name__}."
                    " Use a Task, or a list of tasks."
                )

    @property
    def n_calls(self) -> int:
        """How many calls were submitted since it was attached."""
        return self.task.n_submitted - self._submitted_before

    def attach_task(self, task: PluginTask) -> None:
        """Called when it is attached to a task."""
        if task in self.not_while_running:
            raise ValueError(
                f"not_while_running of a Limiter of {task!r} contains that task."
                " Use max_concurrent=1 to run its calls one at a time."
            )
        super().attach_task(task)
        self._submitted_before = task.n_submitted
        if self.when_full == "wait":
            for other in self.not_while_running:
                other.on_done(lambda _: task.start_held(), hidden=True)
                other.on_cancelled(lambda _: task.start_held(), hidden=True)

    def pre_submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Call | None:
        """Let a call pass, or emit the event of the limit that it is over."""
        if self.max_calls is not None and self.n_calls >= self.max_calls:
            event: Event[...] | None = self.CALL_LIMIT_REACHED
        else:
            event = None if self.when_full == "wait" else self._full()
        if event is None:
            return fn, args, kwargs
        self.task.emit(event, self.task, *args, **kwargs)
        return None

    def has_place(self) -> bool:
        """Whether a call may start now."""
        return self._full() is None

    def _full(self) -> Event[...] | None:
        """The event of what keeps a call from starting now; None if nothing does."""
        if self.max_concurrent is not None and self.task.n_running >= self.max_concurrent:
            return self.CONCURRENT_LIMIT_REACHED
        if any(other.running() for other in self.not_while_running):
            return self.DISABLED_DUE_TO_RUNNING_TASK
        return None

    def _rows(self) -> list[str]:
        task = getattr(self, "task", None)
        rows = []
        if self.max_calls is not None:
            rows.append(f"Calls {self.n_calls if task else 0}/{self.max_calls}")
        if self.max_concurrent is not None:
            rows.append(f"Concurrent {task.n_running if task else 0}/{self.max_concurrent}")
        if self.when_full == "wait":
            rows.append(f"Held {task.n_held if task else 0}")
        return rows + [f"Not while running: {other.unique_ref}" for other in self.not_while_running]
