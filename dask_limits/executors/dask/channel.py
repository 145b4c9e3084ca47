from __future__ import annotations

import contextlib
from functools import partial
from typing import Final

import distributed

from dask_limits.channels.channel import Hear, new_name
from dask_limits.channels.local_socket import Address
from dask_limits.dask.compat.client import call_in_loop, id_of
from dask_limits.dask.topic import CHANNELS
from dask_limits.executors.dask.connection import SchedulerConnection, has_handler
from dask_limits.executors.dask.topics import listen, unlisten

_OPEN: Final = "dask_limits_open_channel"


class DaskChannel:
    """A channel for calls on a Dask cluster, also on workers that join later.

    Questions come from the worker of a call through the scheduler, by connections that Dask has
    anyway. If this program is killed, the scheduler closes it.

    Raises:
        RuntimeError: if the scheduler does not pass questions on.
    """

    def __init__(
        self, client: distributed.Client, connection: SchedulerConnection, hear: Hear
    ) -> None:
        self.address = Address(new_name(), None)
        self._client = client
        self._connection = connection
        self._hear = hear
        listen(client, CHANNELS, self._heard)
        try:
            client.sync(self._open)
        except BaseException:
            self.close()
            raise

    async def _open(self) -> None:
        if not await has_handler(self._client, _OPEN):
            raise RuntimeError(
                f"Calls cannot ask this program anything: the Dask scheduler at"
                f" {self._client.scheduler.address} has no plugin of dask_limits that could pass it"
                " on. Install dask_limits, in the version that is used here, where the scheduler"
                " runs, and restart it; `dask-limits check` shows whether Dask lacks something."
            )
        open_channel = self._client.scheduler.dask_limits_open_channel
        await open_channel(channel=self.address.channel, client=id_of(self._client))

    def _heard(self, _: float, message: object) -> None:
        # Anybody on the cluster can write to the topic.
        match message:
            case {
                "channel": self.address.channel,
                "worker": str(worker),
                "number": int(number),
                "question": bytes(question),
            }:
                self._hear(question, partial(self._answer, worker, number))

    def _answer(self, worker: str, number: int, answer: bytes) -> None:
        call_in_loop(self._client, self._send, worker, number, answer)

    async def _send(self, worker: str, number: int, answer: bytes) -> None:
        with contextlib.suppress(Exception):  # the connection is lost, and with it the call
            answered = self._client.scheduler.dask_limits_answer
            await answered(worker=worker, number=number, answer=answer)

    def close(self) -> None:
        """Answer no more."""
        unlisten(self._client, CHANNELS, self._heard)
        if not self._connection.is_lost():
            with contextlib.suppress(Exception):  # it is lost meanwhile
                self._client.sync(self._close)

    async def _close(self) -> None:
        if await has_handler(self._client, _OPEN):
            await self._client.scheduler.dask_limits_close_channel(channel=self.address.channel)
