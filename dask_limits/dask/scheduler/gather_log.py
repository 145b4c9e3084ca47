"""Dask's log of results that it cannot fetch, without the calls that clients are told of.

Dask logs an error for a result that was lost with its worker, even if the call runs again and
clients are told so by an event, and for a result that a client fetches while it cancels the call.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any, Final

from dask_limits.dask.scheduler.cluster import Cluster
from dask_limits.dask.scheduler.tasks import is_ours

LOGGER: Final = logging.getLogger("distributed.scheduler")
_MESSAGE: Final = "Couldn't gather keys: %s"
"""Its argument has the state of each task, by key (distributed.scheduler.Scheduler.gather)."""
_MOST: Final = 10_000
"""How many calls are remembered. A result is fetched soon after it is there, or lost."""
_NOTICE_S: Final = 5.0
"""How long Dask has to notice that a worker is lost whose connections break."""


class GatherLog(logging.Filter):
    """A filter for `LOGGER`, the log of Dask's scheduler."""

    def __init__(self, cluster: Cluster) -> None:
        super().__init__()
        self._cluster = cluster
        self._known: dict[Hashable, None] = {}  # in order

    def leave_out(self, key: Hashable) -> None:
        """Clients know why the result of this call is not there."""
        self._known[key] = None
        if len(self._known) > _MOST:
            del self._known[next(iter(self._known))]

    def filter(self, record: logging.LogRecord) -> bool:
        """Take calls that clients know of out of a record. Returns whether anything is left."""
        if record.msg != _MESSAGE or not isinstance(record.args, dict):
            return True
        states = self._unknown(record.args)
        if undecided := [key for key in states if self._may_be_lost(key)]:
            later = {key: states.pop(key) for key in undecided}
            self._cluster.later(object(), _NOTICE_S, lambda: self._log(later))
        record.args = states
        return bool(states)

    def _unknown(self, states: Mapping[Any, object]) -> dict[Any, object]:
        return {key: state for key, state in states.items() if key not in self._known}

    def _may_be_lost(self, key: Hashable) -> bool:
        """Whether a call has a result that may turn out to be lost with its worker."""
        ts = self._cluster.scheduler.tasks.get(key)
        return ts is not None and ts.state == "memory" and is_ours(ts)

    def _log(self, states: dict[Any, object]) -> None:
        """Log what is not known to be lost by now."""
        if left := self._unknown(states):
            LOGGER.error("%s", _MESSAGE % left)  # in one piece, which the filter lets through
