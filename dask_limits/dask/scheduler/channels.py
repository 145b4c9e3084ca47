from __future__ import annotations

from collections.abc import Callable

import distributed

from dask_limits.dask.compat.scheduler import can_tell_client, tell_client
from dask_limits.dask.topic import CHANNELS


class Channels:
    """Connects the channels that clients have opened with the workers, where calls ask.

    A client that is lost closes its channels. Everything runs on the scheduler's loop, in handlers
    of messages, which must raise nothing: Dask would cut the connection.
    """

    def __init__(self, scheduler: distributed.Scheduler) -> None:
        self._scheduler = scheduler
        self._clients: dict[str, str] = {}  # by channel
        self._workers: set[str] = set()  # with our plugin: others do not know our messages

    @property
    def rpc_handlers(self) -> dict[str, Callable[..., object]]:
        """What clients call; nothing if they could not be asked."""
        if not can_tell_client(self._scheduler):
            return {}
        return {
            "dask_limits_open_channel": self._open,
            "dask_limits_close_channel": self._close,
            "dask_limits_answer": self._answer,
        }

    @property
    def stream_handlers(self) -> dict[str, Callable[..., None]]:
        """What to call for messages of workers."""
        return {"dask-limits-ask": self._ask}

    def worker_came(self, worker: str) -> None:
        """A worker has our plugin."""
        self._workers.add(worker)
        for channel in self._clients:
            self._send(worker, "open-channel", channel=channel)

    def worker_left(self, worker: str) -> None:
        """A worker has our plugin no more, or is gone."""
        self._workers.discard(worker)

    def client_left(self, client: str) -> None:
        """A client has closed, or was lost."""
        for channel in [name for name, its in self._clients.items() if its == client]:
            self._close(channel)

    def _open(self, channel: str, client: str) -> None:
        self._clients[channel] = client
        for worker in self._workers:
            self._send(worker, "open-channel", channel=channel)

    def _close(self, channel: str) -> None:
        if self._clients.pop(channel, None) is not None:
            for worker in self._workers:
                self._send(worker, "close-channel", channel=channel)

    def _ask(self, channel: str, worker: str, number: int, question: bytes) -> None:
        if (client := self._clients.get(channel)) is None:
            self._send(worker, "close-channel", channel=channel)
            return
        message = {"channel": channel, "worker": worker, "number": number, "question": question}
        tell_client(self._scheduler, client, CHANNELS, message)

    def _answer(self, worker: str, number: int, answer: bytes) -> None:
        if worker in self._workers:
            self._send(worker, "answer", number=number, answer=answer)

    def _send(self, worker: str, op: str, **message: object) -> None:
        self._scheduler.worker_send(worker, {"op": f"dask-limits-{op}", **message})
