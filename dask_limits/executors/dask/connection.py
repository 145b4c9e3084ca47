"""The connection of a client to its Dask scheduler, and the errors of calls when it is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import distributed

from dask_limits.dask.compat.client import connection_of, is_connected, status_of
from dask_limits.exceptions import ClusterLostError


class SchedulerConnection:
    """The connection that a client has when this is made. Dask makes another one to reconnect.

    Args:
        client: A client that is connected.
    """

    def __init__(self, client: distributed.Client) -> None:
        self._client = client
        self._address: str = client.scheduler.address
        self._connection = connection_of(client)
        self._how_lost = ""

    def is_lost(self) -> bool:
        """Whether the connection is lost or closed. It stays so."""
        return not is_connected(self._client, self._connection)

    def lost_errors(self, names: Iterable[str]) -> Callable[[str], ClusterLostError]:
        """A function that makes the error of a call that is lost, given its name.

        Args:
            names: The functions of all calls that are not done.
        """
        if not self._how_lost:  # Dask closes the client some time after the connection was lost
            closed = status_of(self._client) in ("closing", "closed")
            self._how_lost = "was closed" if closed else "was lost"
        counts = Counter(names)
        listed = [name + (f" ({n} times)" if n > 1 else "") for name, n in counts.items()]
        why = (
            f"The connection to the Dask scheduler at {self._address} {self._how_lost}."
            f" Calls that were not done: {', '.join(listed) or 'no others'}."
        )
        return lambda name: ClusterLostError(
            f"{name}() is lost. {why}", call=name, address=self._address, running=list(counts)
        )
