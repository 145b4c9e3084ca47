"""The scheduler's: how it is told where our tasks go, and what becomes of workers."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dask_limits.dask.compat.undocumented_name import names

if TYPE_CHECKING:
    import distributed

_PLACEMENT: Final = names(
    "distributed.scheduler:Scheduler.is_rootish 2022.9.0",
    "distributed.scheduler:Scheduler.decide_worker_non_rootish 2022.9.0",
    "distributed.stealing:WorkStealing.steal_time_ratio 2021.1",
    what_for="to send limited calls to workers that have what they reserve, and to keep them there",
    without="Dask chooses the worker of a limited call without regard to what is free there. Each"
    " worker holds the limits, and lets calls wait for room.",
)
_PLUGINS: Final = names(
    "distributed.scheduler:Scheduler.plugins 2021.1",
    what_for="to find our plugin on a scheduler in this process",
    without="Starting a cluster of dask-jobqueue fails with ImportError.",
)
NAMES: Final = (
    _PLACEMENT
    | _PLUGINS
    | names(
        "distributed.scheduler:Scheduler.handle_worker_status_change 2021.10.0",
        what_for="to send no more tasks to a worker that is about to close",
        without="A worker whose job is about to end gets tasks, which run again elsewhere.",
    )
    | names(
        "distributed.scheduler:Scheduler.no_workers_timeout 2024.1.0",
        what_for="to let limited calls wait for room longer than Dask lets tasks wait for workers",
        without="If distributed.scheduler.no-workers-timeout is set, calls that wait fail with it.",
    )
    | names(
        "distributed.scheduler:Scheduler.allowed_failures 2021.1",
        what_for="to know how many lost workers a call survives",
        without="A call survives as many as distributed.scheduler.allowed-failures says.",
    )
    | names(
        "distributed.scheduler:Scheduler.get_events 2021.1",
        what_for="to find out whether Dask expected a worker to leave, and which workers there are",
        without="Workers that are already there are not reported; each that leaves counts as lost.",
    )
    | names(
        "distributed.scheduler:Scheduler.subscribe_topic 2021.9.1",
        what_for="to tell a client of workers that are added and removed",
        without="Events of workers are not emitted.",
    )
    | names(
        "distributed.scheduler:Scheduler.report 2021.1",
        what_for="to tell clients how the first calls of a batch have ended, what calls report of"
        " their progress, and what they ask",
        without="All calls of a batch are told when its last one has ended, and no progress is."
        " Trials of Optuna do not run on Dask: dask_limits.optuna.optimize raises RuntimeError.",
    )
    | names(
        "distributed.scheduler:TaskState.suspicious 2021.1",
        what_for="to count lost workers only against calls that had begun there",
        without="Dask counts lost workers too, against calls that only waited there.",
    )
)

Wrap = Callable[[Callable[[Any], Any]], Callable[[Any], Any]]
"""Makes, of a method of Dask's, the function that takes its place."""


def replace_placement(
    scheduler: distributed.Scheduler, is_rootish: Wrap, decide_worker: Wrap, steal_time_ratio: Wrap
) -> Callable[[], None] | None:
    """Replace the methods that choose the workers of tasks, on this one scheduler.

    Returns what undoes it; None if Dask lacks one of the methods, and nothing was replaced.
    """
    if not all(name.is_there for name in _PLACEMENT.values()):
        return None
    patches = contextlib.ExitStack()
    patches.callback(_Patch(scheduler, "is_rootish", is_rootish).undo)
    patches.callback(_Patch(scheduler, "decide_worker_non_rootish", decide_worker).undo)
    if (stealing := scheduler.extensions.get("stealing")) is not None:
        patches.callback(_Patch(stealing, "steal_time_ratio", steal_time_ratio).undo)
    return patches.close


class _Patch:
    """A function in the place of a method of one object.

    Several may lie on top of each other, and are undone in any order.
    """

    def __init__(self, owner: object, name: str, wrap: Wrap) -> None:
        self._owner = owner
        self._name = name
        self._below: Any = getattr(owner, name)
        self._is_lowest = name not in vars(owner)
        self._function = wrap(self._below)
        setattr(owner, name, self)

    def __call__(self, ts: Any) -> Any:
        return self._function(ts)

    def undo(self) -> None:
        """Take it away, as soon as nothing lies on top of it; until then it changes nothing."""
        self._function = self._below
        while isinstance(top := getattr(self._owner, self._name), _Patch):
            if top._function is not top._below:
                return
            if top._is_lowest:
                delattr(self._owner, self._name)
            else:
                setattr(self._owner, self._name, top._below)


def change_status(
    scheduler: distributed.Scheduler, worker: Any, status: distributed.Status, stimulus_id: str
) -> None:
    """Have the scheduler note a change of a worker's status, as if the worker had reported it."""
    if (change := getattr(scheduler, "handle_worker_status_change", None)) is not None:
        change(status, worker, stimulus_id)


def wait_without_timeout(scheduler: distributed.Scheduler, ts: Any) -> None:
    """Have a task that waits for a worker not fail when Dask's time-out for that is over."""
    if getattr(scheduler, "no_workers_timeout", None) is not None:
        scheduler.unrunnable[ts] = math.inf


def allowed_failures(scheduler: distributed.Scheduler) -> int:
    """How many lost workers a task survives."""
    import dask

    default = dask.config.get("distributed.scheduler.allowed-failures")
    return int(getattr(scheduler, "allowed_failures", default))


def plugin_of(scheduler: distributed.Scheduler, name: str) -> Any:
    """The plugin of this name on a scheduler; None if there is none."""
    _PLUGINS["distributed.scheduler:Scheduler.plugins"].get()
    return scheduler.plugins.get(name)


def events(scheduler: distributed.Scheduler, topic: str) -> tuple[tuple[float, Any], ...]:
    """The events of a topic, each with its time, oldest first."""
    get_events = getattr(scheduler, "get_events", None)
    return () if get_events is None else tuple(get_events(topic))


def subscribe(scheduler: distributed.Scheduler, topic: str, client: str) -> None:
    """Have a client told of the events of a topic."""
    if (subscribe_topic := getattr(scheduler, "subscribe_topic", None)) is not None:
        subscribe_topic(topic, client)


def tell_clients(scheduler: distributed.Scheduler, ts: Any, topic: str, message: Any) -> None:
    """Send the clients that want a task a message, as an event of a topic that is not kept."""
    _report(scheduler, topic, message, ts=ts)


def can_tell_client(scheduler: distributed.Scheduler) -> bool:
    """Whether `tell_client` has an effect."""
    return hasattr(scheduler, "report")


def tell_client(scheduler: distributed.Scheduler, client: str, topic: str, message: Any) -> None:
    """Send one client a message, as an event of a topic that is not kept."""
    _report(scheduler, topic, message, client=client)


def _report(scheduler: distributed.Scheduler, topic: str, message: Any, **to: Any) -> None:
    if (report := getattr(scheduler, "report", None)) is not None:
        report({"op": "event", "topic": topic, "event": (time.time(), message)}, **to)


def forgive(ts: Any) -> None:
    """Have Dask not count the next worker that is lost against a task."""
    ts.suspicious = -1
