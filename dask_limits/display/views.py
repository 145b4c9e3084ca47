"""How a scheduler, its tasks and their plugins look in a notebook: as `render` has it, in HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from dask_limits.display.signatures import signature_of
from dask_limits.html.elements import Html, code, element, folded, heading, joined, note, table
from dask_limits.printable import repr_of

if TYPE_CHECKING:
    from dask_limits.events import Subscriber

_MOST_TASKS: Final = 50
_COUNTED: Final = {
    "on-submitted": "submitted",
    "on-result": "returned",
    "on-exception": "failed",
    "on-cancelled": "cancelled",
}
"""The events of a task that say how many calls there were, and how they have ended."""


class HasHtml(Protocol):
    """What can be shown within something else."""

    def __html__(self) -> Html: ...


class TaskRow(NamedTuple):
    """A task among those of a scheduler.

    Its calls that wait are at the executor, which may run some of them without having told; those
    that are held are kept from it by plugins.
    """

    name: str
    n_running: int
    n_waiting: int
    n_held: int
    events: Mapping[Any, int]
    details: HasHtml


def plugin_html(name: str, rows: Iterable[str]) -> Html:
    """A plugin: its name, and its properties, one a line."""
    return joined(heading(f"Plugin {name}"), *(element("div", row) for row in rows))


def task_html(
    function: Callable[..., object],
    ref: str,
    plugins: Iterable[HasHtml],
    events: Iterable[Subscriber[...]],
) -> Html:
    """A task: its function, its plugins, and its events that were emitted or have callbacks."""
    return joined(
        heading("Task ", code(signature_of(function))),
        note("Ref: ", ref),
        *(element("div", plugin.__html__(), class_="dl-part") for plugin in plugins),
        _events(events),
    )


def scheduler_html(
    executor: str,
    options: Mapping[str, object],
    is_running: bool,
    n_queued: int,
    cluster: Iterable[str],
    events: Iterable[Subscriber[...]],
    tasks: Sequence[TaskRow],
) -> Html:
    """A scheduler: its executor, its queue, its cluster, its events and its tasks."""
    about: list[tuple[str, object]] = [("executor", executor)]
    about += [(name, code(repr_of(value))) for name, value in options.items()]
    about += [("state", "running" if is_running else "not running"), ("calls not done", n_queued)]
    about += [("cluster", line) for line in cluster]
    shown = tasks[:_MOST_TASKS]
    left = len(tasks) - len(shown)
    return joined(
        heading("Scheduler"),
        table(about),
        _counts(shown),
        note(f"... and {left} more tasks") if left else "",
        *(folded(joined("Task ", code(task.name)), task.details.__html__()) for task in shown),
        folded("Events of the scheduler", _events(events)),
    )


def _counts(tasks: Iterable[TaskRow]) -> Html:
    rows = []
    for task in tasks:
        now = task.n_running, task.n_waiting, task.n_held
        rows.append((code(task.name), *now, *(task.events[e] for e in _COUNTED)))
    return table(rows, ("task", "running", "waiting", "held", *_COUNTED.values()))


def _events(subscribers: Iterable[Subscriber[...]]) -> Html:
    """The events that were emitted or have callbacks, and how often each was answered."""
    rows = []
    for subscriber in subscribers:
        if subscriber.count or subscriber.callbacks:
            callbacks = (
                element("div", code(signature_of(function)), f" {n}" if n else "")
                for function, n in subscriber.callbacks
            )
            rows.append((f"@{subscriber.event}", subscriber.count, joined(*callbacks)))
    return table(rows, ("event", "times", "callbacks")) or note("No event yet")
