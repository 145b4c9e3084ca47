"""The end of a channel that calls connect to: in the driver, or in the Dask worker above them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from dask_limits.channels import local_socket
from dask_limits.channels.asking import MOST_BYTES, SIZE


class Listener:
    """Takes the questions of calls on this machine, and sends back what `answer` returns.

    Calls can connect as soon as this is made; `serve` answers them, on the loop that it runs on.

    Raises:
        OSError: if this process listens to that channel already.
    """

    def __init__(self, channel: str, answer: Callable[[bytes], Awaitable[bytes]]) -> None:
        self._socket = local_socket.listen(channel)
        self._answer = answer
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def serve(self) -> None:
        """Begin to answer."""
        if not self._is_closed:
            self._server = await asyncio.start_unix_server(self._talk, sock=self._socket)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            if not local_socket.is_of_this_user(writer.get_extra_info("socket")):
                return
            while True:
                (size,) = SIZE.unpack(await reader.readexactly(SIZE.size))
                if size > MOST_BYTES:
                    return
                answer = await self._answer(await reader.readexactly(size))
                writer.write(SIZE.pack(len(answer)) + answer)
                await writer.drain()
        except (EOFError, OSError):
            pass  # the call has ended
        except asyncio.CancelledError:
            if not self._is_closed:  # asyncio would log it, before Python 3.12
                raise
        finally:
            self._talks.discard(task)
            writer.close()

    def close(self) -> None:
        """Close all connections, and take no more."""
        self._is_closed = True
        if self._server is not None:
            self._server.close()
        self._socket.close()
        for task in list(self._talks):
            task.cancel()
