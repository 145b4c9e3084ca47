from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import distributed

from dask_limits.dask.compat.client import id_of
from dask_limits.dask.running import Row, RunningCall
from dask_limits.executors import running
from dask_limits.executors.dask.connection import has_handler
from dask_limits.executors.dask.submissions import Batch

_EVERY_S: Final = 1.0
"""How often the scheduler is asked."""
_HANDLER: Final = "dask_limits_running"


class RunningOnDask:
    """Asks the scheduler what the calls of an executor have used so far, while someone looks.

    `batches` are those that were sent, by key; `call_soon` runs a coroutine on the client's loop.
    """

    def __init__(
        self,
        client: distributed.Client,
        batches: Mapping[str, Batch],
        call_soon: Callable[..., None],
    ) -> None:
        self._client = client
        self._batches = batches
        self._call_soon = call_soon
        self._rows: list[Row] = []
        self._can_ask: bool | None = None
        self._asks = False
        self._next = 0.0  # seconds of time.monotonic()

    def calls(self) -> list[running.RunningCall]:
        """The calls that run, as they were told last; and have them told anew. From any thread."""
        now = time.monotonic()
        if now >= self._next and not self._asks and self._can_ask is not False:
            self._next, self._asks = now + _EVERY_S, True
            self._call_soon(self._ask)
        return list(self._found())

    def _found(self) -> Iterator[running.RunningCall]:
        for call in map(RunningCall.of, self._rows):
            batch = self._batches.get(call.key)  # type: ignore[call-overload]
            if batch is not None and not (future := batch.calls[call.number].future).done():
                yield running.RunningCall(future, call.usage, call.worker)

    async def _ask(self) -> None:
        try:
            if self._can_ask is None:
                self._can_ask = await has_handler(self._client, _HANDLER)
            if self._can_ask:
                rpc: Any = self._client.scheduler
                self._rows = await rpc.dask_limits_running(client=id_of(self._client))
        except Exception:  # the scheduler is lost
            self._rows = []
        finally:
            self._asks = False
