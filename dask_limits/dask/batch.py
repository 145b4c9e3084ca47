"""Calls that go to a worker together, as one task of Dask. A call alone is a batch of one."""

from __future__ import annotations

import re
import sys
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self

import distributed

from dask_limits.batch_systems.current_job import current_job
from dask_limits.dask.compat.graphs import function_name
from dask_limits.dask.packed_call import PackedCall
from dask_limits.dask.progress_log import log_and_key_here
from dask_limits.limits import Limits, run_in_place
from dask_limits.limits.ipc import by_value
from dask_limits.limits.ipc.payload import Packed
from dask_limits.limits.ipc.progress_values import telling_pickled
from dask_limits.limits.packed_outcome import PackedOutcome
from dask_limits.limits.shared import NotHereError, opened

LEFT: Final = "limits-left"
"""The annotation of a batch of several calls: the numbers of those that are left to run."""
TOPIC: Final = "dask-limits-batches"
"""The topic of how calls have ended, of a batch that takes longer than meant or with its task."""


@dataclass(frozen=True)
class PackedBatch:
    """Calls of one function, with the same limits. The number of a call is its place here."""

    name: str
    function_key: Hashable
    data: tuple[Packed, ...]  # of each call
    tells: bool = False  # whether what they report of their progress is asked for

    @classmethod
    def of(cls, calls: Sequence[PackedCall], tells: bool = False) -> Self:
        """A batch of these calls."""
        first = calls[0]
        return cls(first.name, first.function_key, tuple(call.data for call in calls), tells)

    def call(self, number: int) -> PackedCall:
        """One of the calls."""
        return PackedCall(self.name, self.data[number], self.function_key)


@dataclass(eq=False)
class BatchOutcome:
    """What has become of a batch.

    Attributes:
        ended: The outcomes of its calls, by number. Those that are missing did not begin, or their
            outcomes were told before.
        seconds: How long a call took on average, with all that it takes to run one.
        lacks_shared: Whether nothing has begun because what the calls share is not to be had there,
            unless it is scattered.
        worker: The name of the worker that has run them.
        job: The id of its batch job; empty if it is in none.
    """

    ended: dict[int, PackedOutcome[Any]]
    seconds: float
    lacks_shared: bool = False
    worker: str = ""
    job: str = ""

    def __sizeof__(self) -> int:
        """Bytes that it holds, for Dask's memory management."""
        return object.__sizeof__(self) + sum(map(sys.getsizeof, self.ended.values()))


def run_batch(batch: PackedBatch, put_in: Sequence[Sequence[Any]]) -> BatchOutcome:
    """Run calls in this thread. What Dask takes for the function of each task of ours.

    The "limits" executor knows it, and runs the calls in task processes instead. For each call
    there is what is put in where something was left out.
    """
    try:
        put_in = opened_for_each(put_in)
    except NotHereError:
        return BatchOutcome({}, 0.0, lacks_shared=True)
    ended = {}
    progress = log_and_key_here() if batch.tells else None
    with by_value.Receiving():
        for number in range(len(batch.data)):
            with telling_pickled(progress and partial(progress[0].add, progress[1], number)):
                outcome = run_in_place(batch.call(number), (put_in[number],), {})
            ended[number] = PackedOutcome.of(outcome, batch.name, Limits())
    if progress is not None:
        progress[0].send_soon()  # before the end is told
    seconds = sum(one.usage.wall_time for one in ended.values()) / len(ended)
    return BatchOutcome(ended, seconds, False, *worker_here())


def worker_here() -> tuple[str, str]:
    """The name of the worker whose task this thread runs, and its batch job or ""."""
    try:
        name = str(distributed.get_worker().name)
    except ValueError:  # no worker runs this
        return "", ""
    job = current_job()
    return name, "" if job is None else job.job


def opened_for_each(put_in: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """What is put in, of each call, with handles for addresses. See `shared.opened`."""
    handles = iter(opened([one for call in put_in for one in call]))
    return [[next(handles) for _ in call] for call in put_in]


def batch_name(name: str, n_calls: int) -> str:
    """The name in Dask of the task of some calls.

    Example:
        >>> batch_name("train", 1), batch_name("train", 32)
        ('train', 'train x 32')
    """
    return name if n_calls == 1 else f"{name} x {n_calls}"


def call_name(key: Any) -> str:
    """The name of the function that is called, from the key of a task.

    Example:
        >>> call_name("train-0f3c-1"), call_name("train x 32-0f3c-2")
        ('train', 'train')
    """
    return re.sub(r" x \d+$", "", function_name(key))


def numbers_left(annotations: Any) -> list[int]:
    """The numbers of the calls that a task still has to run."""
    return list((annotations or {}).get(LEFT, (0,)))
