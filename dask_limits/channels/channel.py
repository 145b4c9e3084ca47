"""The end of a channel in the driver."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias

from dask_limits.channels.listening import Listener
from dask_limits.channels.local_socket import Address

Answer: TypeAlias = Callable[[bytes], None]
Hear: TypeAlias = Callable[[bytes, Answer], None]
"""Called with each question, and with what is to be called, in any thread, with the answer. It must
not block."""


class Channel(Protocol):
    """Over which calls ask the driver."""

    @property
    def address(self) -> Address:
        """What calls take along."""

    def close(self) -> None:
        """Answer no more."""


def new_name() -> str:
    """A name that no other channel has."""
    return secrets.token_hex(8)


class LocalChannel:
    """A channel for calls on this machine."""

    def __init__(self, hear: Hear) -> None:
        self.address = Address(new_name(), os.getpid())
        self._hear = hear
        self._listener = Listener(self.address.channel, self._answer)
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="dask-limits-channel", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._listener.begin()
        await self._end.wait()
        self._listener.close()

    async def _answer(self, question: bytes) -> bytes:
        answered: asyncio.Future[bytes] = self._loop.create_future()
        self._hear(question, partial(self._settle, answered))
        return await answered

    def _settle(self, answered: asyncio.Future[bytes], answer: bytes) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(_set, answered, answer)

    def close(self) -> None:
        """Answer no more."""
        with contextlib.suppress(RuntimeError):  # it was closed before
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


def _set(answered: asyncio.Future[bytes], answer: bytes) -> None:
    if not answered.done():  # the call may have ended meanwhile
        answered.set_result(answer)
