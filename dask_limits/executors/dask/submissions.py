"""Calls on their way through Dask, and which of them go out together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import distributed

from dask_limits.dask.batch import PackedBatch
from dask_limits.dask.packed_call import PackedCall
from dask_limits.exceptions import CallError
from dask_limits.future import Future
from dask_limits.limits import call_log
from dask_limits.limits.call_log import Place
from dask_limits.limits.packed_outcome import PackedOutcome
from dask_limits.limits.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Hashable

_GRAPH_BYTES: Final = 8 * 2**20
"""The most that goes out together, except for a call that is larger itself. Dask warns of graphs of
10 MB, which many small calls should not cause."""


@dataclass(eq=False)
class Submission:
    """A call on its way through Dask. Calls go out together if their `annotations` are equal."""

    packed: PackedCall
    dependencies: list[distributed.Future | Shared]  # those that were among the arguments
    sent: dict[int, Any]  # what its outcome may refer to
    executor: str  # this and the limits are annotations too
    limits: dict[str, Any]
    annotations: dict[str, Any]
    kind: Hashable = None  # calls of the same kind can share a batch; None for one by itself
    tells: bool = False  # whether what it reports of its progress is asked for
    future: Future[Any] = field(init=False)  # the user's
    batch: Batch | None = None  # that it was sent in, until anything is heard of it

    def settle(self, outcome: PackedOutcome[Any], place: Place | None) -> None:
        """End the call with what Dask has brought back from there."""
        call_log.ended_elsewhere(outcome, place, self.packed.arguments)
        if place is not None:
            self.future.worker, self.future.job = place.worker, place.job
        try:
            self.future.settle(outcome.unpack(self.sent))
        except BaseException as error:  # raised by a class whose object is unpickled
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """Fail the call because of what happened to it on its way."""
        name = self.packed.name
        if isinstance(error, CancelledError | asyncio.CancelledError):
            error = BrokenExecutor(f"{name}() was lost by Dask: {error}")
        elif isinstance(error, CallError) and not error.call:
            error.call = name  # the scheduler does not know it
        self.future._finish(exception=error)
        is_told = not self.future.cancelled() and self.future.exception() is error
        if is_told and isinstance(error, CallError | BrokenExecutor):
            call_log.failed(name, error, self.packed.arguments)


@dataclass(eq=False)
class Batch:
    """Calls of one kind that are sent as one task of Dask; the number of each is its place.

    Attributes:
        key: The name of the task in Dask.
        left: The numbers of the calls that are still to be heard of.
        task: What Dask makes of it, once it has been sent.
        is_counted: Whether it counts among the tasks of its kind that are at the workers.
    """

    key: str
    calls: list[Submission]
    left: set[int] = field(init=False)
    task: distributed.Future | None = None
    is_counted: bool = True

    def __post_init__(self) -> None:
        self.left = set(range(len(self.calls)))
        for call in self.calls:
            call.batch = self
            call.future.task_key = self.key

    @property
    def packed(self) -> PackedBatch:
        """What is sent."""
        first, data = self.calls[0], [call.packed for call in self.calls]
        # With Dask's own retries, a task that fails would run again, with calls that have ended.
        return PackedBatch.of(data, first.tells, fails="retries" not in first.annotations)

    @property
    def annotations(self) -> dict[str, Any]:
        """Dask's, except for those of each task."""
        return self.calls[0].annotations

    @property
    def is_one(self) -> bool:
        """Whether it is a call alone."""
        return len(self.calls) == 1

    @property
    def size(self) -> int:
        """Bytes that are sent."""
        return sum(call.packed.data.nbytes for call in self.calls)

    def note_begun(self, number: int | None) -> None:
        """Note that one of these calls runs, if its number is known."""
        if number in self.left:
            self.calls[number].future.mark_started()

    def take(self, numbers: Iterable[int]) -> list[Submission]:
        """Those of these calls that nothing was heard of before, and are not done."""
        found = self.left.intersection(numbers)
        self.left -= found
        calls = [self.calls[number] for number in sorted(found)]
        for call in calls:
            call.batch = None  # no circle is left, which would keep what Dask has of the batch
        return [call for call in calls if not call.future.done()]


def together(batches: Iterable[Batch]) -> Iterator[list[Batch]]:
    """Divide batches into those that can go out in one graph, in order.

    They have the same annotations. A call alone lacks one that others have.
    """
    group: list[Batch] = []
    size = 0
    for one in batches:
        size += one.size
        is_like_others = not group or one.annotations == group[0].annotations
        if group and (size > _GRAPH_BYTES or not is_like_others or one.is_one != group[0].is_one):
            yield group
            group, size = [], one.size
        group.append(one)
    if group:
        yield group
