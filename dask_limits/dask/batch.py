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
from dask_limits.exceptions import CallCancelledError
from dask_limits.limits import Limits, run_in_place
from dask_limits.limits.call_log import Place, in_a_line
from dask_limits.limits.ipc import by_value
from dask_limits.limits.ipc.payload import Packed
from dask_limits.limits.ipc.progress_values import telling_pickled
from dask_limits.limits.packed_outcome import PackedOutcome
from dask_limits.limits.shared import NotHereError, opened

LEFT: Final = "limits-left"
"""The annotation of a batch of several calls: the numbers of those that are left to run."""
TOPIC: Final = "dask-limits-batches"
"""The topic of how calls have ended, of a batch that takes longer than meant or with its task."""
TOLD_BYTES: Final = 2**16
"""Up to which size outcomes are told with the end of their task. Larger ones are fetched as Dask's
results are, which takes four messages more and holds up no others."""


@dataclass(frozen=True)
class PackedBatch:
    """Calls of one function, with the same limits. The number of a call is its place here."""

    name: str
    function_key: Hashable
    data: tuple[Packed, ...]  # of each call
    arguments: tuple[str, ...]  # of each call, in short
    tells: bool = False  # whether what they report of their progress is asked for
    fails: bool = True  # whether its task is to fail in Dask if one of them does

    @classmethod
    def of(cls, calls: Sequence[PackedCall], tells: bool = False, fails: bool = True) -> Self:
        """A batch of these calls."""
        first = calls[0]
        data, arguments = zip(*((call.data, call.arguments) for call in calls), strict=True)
        return cls(first.name, first.function_key, data, arguments, tells, fails)

    def call(self, number: int) -> PackedCall:
        """One of the calls."""
        about = self.function_key, self.arguments[number]
        return PackedCall(self.name, self.data[number], *about)


@dataclass(eq=False)
class BatchOutcome:
    """What has become of a batch.

    Attributes:
        ended: The outcomes of its calls, by number. Those that are missing did not begin, or their
            outcomes were told before.
        seconds: How long a call took on average, with all that it takes to run one.
        lacks_shared: Whether nothing has begun because what the calls share is not to be had there,
            unless it is scattered.
        place: Where they have run.
        n_failed: How many have failed, those included whose outcomes were told before.
    """

    ended: dict[int, PackedOutcome[Any]]
    seconds: float
    lacks_shared: bool = False
    place: Place | None = None
    n_failed: int = 0

    def __sizeof__(self) -> int:
        """Bytes that it holds, for Dask's memory management."""
        return object.__sizeof__(self) + sum(map(sys.getsizeof, self.ended.values()))


class BatchFailedError(Exception):
    """What a task of ours raises in Dask if a call of it has failed, so that Dask shows an error.

    It has what the task would have returned. Users do not see it: the future of each call has the
    exception of that call.
    """

    def __init__(self, message: str, outcome: BatchOutcome) -> None:
        super().__init__(message)
        self.outcome = outcome

    def __reduce__(self) -> tuple[Any, ...]:
        # Not the inherited one, for which tblib has another: see `CallError`.
        return type(self), (*self.args, self.outcome)


def returned_or_raised(batch: PackedBatch, outcome: BatchOutcome) -> BatchOutcome:
    """Return what has become of a batch; raise it if a call has failed.

    Errors pass through Dask's scheduler, so one that is large is returned all the same.
    """
    if not (outcome.n_failed and batch.fails) or sys.getsizeof(outcome) > TOLD_BYTES:
        return outcome
    n, n_calls = outcome.n_failed, len(batch.data)
    what = f"{batch.name}() has failed" if n_calls == 1 else f"{n} of {n_calls} calls have failed"
    errors = (one.exception for one in outcome.ended.values() if has_failed(one))
    first = next(filter(None, errors), None)
    raise BatchFailedError(what if first is None else f"{what}: {in_a_line(first)}", outcome)


def has_failed(outcome: PackedOutcome[Any]) -> bool:
    """Whether a call neither returned nor was cancelled."""
    if outcome.exception is None:
        return outcome.raised is not None
    return not isinstance(outcome.exception, CallCancelledError)


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
    n_failed = sum(map(has_failed, ended.values()))
    of_all = BatchOutcome(ended, seconds, place=_place_here(), n_failed=n_failed)
    return returned_or_raised(batch, of_all)


def _place_here() -> Place | None:
    """The worker whose task this thread runs, where nothing is logged of it; None if none does."""
    try:
        name = str(distributed.get_worker().name)
    except ValueError:
        return None
    job = current_job()
    return Place(f"worker {name}", "", name, "" if job is None else job.job)


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


def calls_of(name: str) -> int:
    """How many calls a task of this name has.

    Example:
        >>> calls_of("train"), calls_of("train x 32")
        (1, 32)
    """
    several = re.search(r" x (\d+)$", name)
    return int(several[1]) if several else 1


def numbers_left(annotations: Any) -> list[int]:
    """The numbers of the calls that a task still has to run."""
    return list((annotations or {}).get(LEFT, (0,)))
