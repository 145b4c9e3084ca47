"""Calls on their way through Dask, and which of them go out together."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from concurrent.futures import BrokenExecutor, CancelledError
from dataclasses import dataclass, field
from typing import Any, Final

import distributed

from dask_limits.dask.packed_call import PackedCall
from dask_limits.exceptions import CallError
from dask_limits.executors.future import Future
from dask_limits.limits.packed_outcome import PackedOutcome

_GRAPH_BYTES: Final = 8 * 2**20
"""The most that goes out together, except for a call that is larger itself. Dask warns of graphs of
10 MB, which many small calls should not cause."""


@dataclass(eq=False)
class Submission:
    """A call on its way through Dask. Calls go out together if their `annotations` are equal."""

    key: str  # its name in Dask
    packed: PackedCall
    dependencies: list[distributed.Future]  # those that were among the arguments
    sent: dict[int, Any]  # what its outcome may refer to
    executor: str  # this and the limits are annotations too
    limits: dict[str, Any]
    annotations: dict[str, Any]
    future: Future[Any] = field(init=False)  # the user's
    task: distributed.Future | None = None  # once the call has been sent

    def settle(self, outcome: PackedOutcome[Any]) -> None:
        """End the call with what Dask has brought back."""
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


def together(submissions: Iterable[Submission]) -> Iterator[list[Submission]]:
    """Divide submissions into those that can go out in one graph, in order."""
    group: list[Submission] = []
    size = 0
    for one in submissions:
        size += len(one.packed.data)
        if group and (size > _GRAPH_BYTES or one.annotations != group[0].annotations):
            yield group
            group, size = [], len(one.packed.data)
        group.append(one)
    if group:
        yield group
