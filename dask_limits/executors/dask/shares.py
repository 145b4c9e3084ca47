"""What calls share, where the workers of a cluster find it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any
from weakref import WeakKeyDictionary

import distributed

from dask_limits.executors.dask.submissions import Submission
from dask_limits.limits.shared import Shared


class Shares:
    """Passes shared objects to the workers of a client.

    Workers on the machine of the client open the memory where it is: nothing is sent. Once a worker
    has said that it cannot, each object that calls need is scattered, once, and Dask fetches it to
    the workers that run such calls. It releases what no handle and no call refers to any more.
    """

    def __init__(self, client: distributed.Client) -> None:
        self._client = client
        self._all_are_here = True  # as far as is known
        self._scattered: WeakKeyDictionary[Shared, distributed.Future] = WeakKeyDictionary()
        self._scattering: WeakKeyDictionary[Shared, asyncio.Task[Any]] = WeakKeyDictionary()

    def of(self, call: Submission) -> list[Any]:
        """What the graph has in the places of what a call depends on."""
        return [self._place(one) if isinstance(one, Shared) else one for one in call.dependencies]

    def _place(self, shared: Shared) -> Any:
        return self._future_of(shared) or shared.address

    def _future_of(self, shared: Shared) -> distributed.Future | None:
        """Where it was scattered to, unless the only worker that had it was lost."""
        future = self._scattered.get(shared)
        return future if future is not None and future.status == "finished" else None

    def must_wait(self, call: Submission) -> bool:
        """Whether something that a call shares is to be scattered before it is sent."""
        return not self._all_are_here and bool(self._missing([call]))

    def _missing(self, calls: Iterable[Submission]) -> list[Shared]:
        needed = [one for call in calls for one in call.dependencies if isinstance(one, Shared)]
        return [one for one in dict.fromkeys(needed) if self._future_of(one) is None]

    async def scatter(self, calls: Iterable[Submission]) -> None:
        """Scatter what these calls share, for a worker that cannot open it. On the client's loop.

        Raises what Dask raises.
        """
        self._all_are_here = False
        await asyncio.gather(*map(self._scatter, self._missing(calls)))

    async def _scatter(self, shared: Shared) -> None:
        if (scattering := self._scattering.get(shared)) is None:  # for none of the calls
            scatter = self._client.scatter(shared, hash=False, asynchronous=True)
            scattering = self._scattering[shared] = asyncio.ensure_future(scatter)
        try:
            self._scattered[shared] = await scattering
        finally:
            self._scattering.pop(shared, None)
