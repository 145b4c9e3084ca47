"""The connection of a client to its Dask scheduler: bringing limits over it, and its loss."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Collection
from typing import Final

import distributed

from dask_limits.dask.compat.client import connection_of, is_connected, status_of
from dask_limits.dask.worker.plugin import LimitsWorkerPlugin, plugin_that_preloads
from dask_limits.exceptions import ClusterLostError
from dask_limits.executors.dask.submissions import Submission
from dask_limits.limits.owner.preload import Preload

_SHOWN: Final = 3  # workers that are named in an error, however many there are


class SchedulerConnection:
    """The connection that a client has when this is made. Dask makes another one to reconnect."""

    def __init__(self, client: distributed.Client, calls: Collection[Submission]) -> None:
        self._client = client
        self._calls = calls
        self._address: str = client.scheduler.address
        self._connection = connection_of(client)
        self._how_lost = ""

    def is_lost(self) -> bool:
        """Whether the connection is lost or closed. It stays so."""
        return not is_connected(self._client, self._connection)

    def lost_errors(self) -> Callable[[str], ClusterLostError]:
        """A function that makes the error of a call that is lost, given its name."""
        if not self._how_lost:  # Dask closes the client some time after the connection was lost
            closed = status_of(self._client) in ("closing", "closed")
            self._how_lost = "was closed" if closed else "was lost"
        counts = Counter(call.packed.name for call in list(self._calls))
        listed = [name + (f" ({n} times)" if n > 1 else "") for name, n in counts.items()]
        why = (
            f"The connection to the Dask scheduler at {self._address} {self._how_lost}."
            f" Calls that were not done: {', '.join(listed) or 'no others'}."
        )
        return lambda name: ClusterLostError(
            f"{name}() is lost. {why}", call=name, address=self._address, running=list(counts)
        )


async def has_handler(client: distributed.Client, name: str) -> bool:
    """Whether the scheduler has our handler of this name. One that is not there never answers."""
    return bool(await client.run_on_scheduler(functools.partial(_has_handler, name)))


def _has_handler(name: str, dask_scheduler: distributed.Scheduler) -> bool:
    return name in dask_scheduler.handlers


def register_plugin(client: distributed.Client, preload: Preload) -> None:
    """Bring limits to all workers. If they have them already, only what is to be preloaded."""
    if client.asynchronous:
        raise TypeError(
            f"{client} is asynchronous. Use a client that is made without asynchronous=True and"
            " outside of coroutines."
        )
    _check_open(client)
    try:
        client.register_plugin(plugin_that_preloads(preload))
    except Exception as error:
        _check_open(client)  # it may have been closed meanwhile
        with contextlib.suppress(Exception):  # or the next attempt would seem to succeed
            client.unregister_worker_plugin(LimitsWorkerPlugin.name)
        raise RuntimeError(
            f"The Dask cluster at {client.scheduler.address} cannot use dask_limits: "
            f"{_failures(client) or error}. Install dask_limits, in the version that is used here,"
            " where the scheduler and all workers run, and restart the workers that failed."
        ) from error


def _check_open(client: distributed.Client) -> None:
    """Raise an error if a client is closed, or has lost its scheduler."""
    if status_of(client) in ("closing", "closed"):
        raise RuntimeError("The Dask client is closed: make a new one")
    if status_of(client) != "running":  # any request would wait until the client gives up
        address = client.scheduler.address
        raise ClusterLostError(
            f"The Dask client has lost the connection to its scheduler at {address}. Try again"
            " when the scheduler answers, or use a new client.",
            address=address,
        )


def _failures(client: distributed.Client) -> str:
    """The workers that cannot import dask_limits, and what each of them raises."""
    answers = client.run(_answer, on_error="return")
    failures = {address: error for address, error in answers.items() if error is not None}
    workers = client.scheduler_info(n_workers=-1)["workers"]
    named = [
        f"worker {workers.get(address, {}).get('name', '?')} at {address} failed with {error}"
        for address, error in list(failures.items())[:_SHOWN]
    ]
    if len(failures) > _SHOWN:
        named.append(f"{len(failures) - _SHOWN} more workers failed")
    return "; ".join(named)


def _answer() -> None:
    """Called on each worker, which has to import this module to do so."""
