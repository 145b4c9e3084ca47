"""A call of a dispatcher, and a group of them that has begun."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Any

from dask_limits.limits.owner.group import Call, Group
from dask_limits.limits.owner.reservation import Reservation
from dask_limits.limits.owner.steps import Steps
from dask_limits.limits.owner.use import function_key
from dask_limits.limits.packed_outcome import PackedOutcome


class Job(Call):
    """A call for a dispatcher."""

    ended: deque[Job]
    """Where it goes when it has ended, until it is told."""

    def end(self, outcome: PackedOutcome[Any]) -> None:
        """See `Call`."""
        self.outcome = outcome
        self.ended.append(self)

    def tell(self) -> None:
        """Tell whoever waits for it that it has ended."""
        raise NotImplementedError

    @property
    def kind(self) -> Hashable:
        """Calls of one kind are likely to take about as long, as are their steps."""
        return function_key(self.fn)

    @property
    def blocks(self) -> bool:
        """Whether its steps block whatever they are told."""
        return self.limits.isolation == "thread"

    def fail(self, error: BaseException) -> None:
        """Take what its steps have raised, or the dispatcher."""
        raise NotImplementedError


class Running:
    """A group of calls that has begun."""

    __slots__ = ("busy", "files", "group", "has_begun", "kind", "reservation", "steps")

    def __init__(
        self,
        kind: Hashable,
        group: Group[Job],
        steps: Steps[None],
        reservation: Reservation | None,
    ) -> None:
        self.kind = kind
        self.group = group
        self.steps = steps
        self.reservation = reservation
        self.has_begun = False
        self.files: tuple[int, ...] = ()  # for one of which it waits
        self.busy = 0.0  # seconds that its steps have taken
