from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import distributed
from distributed.comm import CommClosedError

from dask_limits.channels.listening import Listener

logger = logging.getLogger(__name__)


class Relay:
    """Passes questions of the calls of one worker on to the scheduler, and the answers back.

    There is a listener for each channel that a client has opened. Everything runs on the worker's
    loop, in handlers of messages, which must raise nothing: Dask would cut the connection.
    """

    def __init__(self, worker: distributed.Worker) -> None:
        self._worker = worker
        self._listeners: dict[str, Listener] = {}
        self._waiting: dict[int, asyncio.Future[bytes]] = {}  # questions, by number
        self._numbers = itertools.count()

    @property
    def handlers(self) -> dict[str, Callable[..., None]]:
        """What to call for messages of the scheduler."""
        return {
            "dask-limits-open-channel": self._open,
            "dask-limits-close-channel": self._close,
            "dask-limits-answer": self._answered,
        }

    def _open(self, channel: str) -> None:
        if channel in self._listeners:
            return
        try:
            listener = Listener(channel, partial(self._ask, channel))
        except OSError as why:  # such as another worker in this process, which does it
            logger.debug("This worker does not listen to channel %s: %r", channel, why)
            return
        self._listeners[channel] = listener
        listener.begin()

    def _close(self, channel: str) -> None:
        if (listener := self._listeners.pop(channel, None)) is not None:
            listener.close()

    async def _ask(self, channel: str, question: bytes) -> bytes:
        number = next(self._numbers)
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answered
        message: dict[str, Any] = {"op": "dask-limits-ask", "channel": channel}
        try:
            message |= {"number": number, "question": question}
            self._worker.batched_stream.send(message)
            return await answered
        except CommClosedError as why:  # the worker is closing
            raise ConnectionError from why
        finally:
            del self._waiting[number]

    def _answered(self, number: int, answer: bytes) -> None:
        answered = self._waiting.get(number)
        if answered is not None and not answered.done():  # the call may have ended meanwhile
            answered.set_result(answer)

    def close(self) -> None:
        """Close all channels. The worker, or its plugin, goes."""
        for channel in list(self._listeners):
            self._close(channel)
