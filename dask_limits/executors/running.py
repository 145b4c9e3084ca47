"""What calls that run have used so far, as executors tell that can."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, runtime_checkable

from dask_limits.future import Future
from dask_limits.limits import Usage


class RunningCall(NamedTuple):
    """A call that runs."""

    future: Future[Any]
    usage: Usage  # so far
    worker: str = ""  # its name in the cluster; empty for a process of this machine


@runtime_checkable
class TellsRunning(Protocol):
    """An executor that can tell what its calls use."""

    def running_calls(self) -> list[RunningCall]:
        """The calls that run in task processes, as they were some ms ago, on a cluster 1 to 2 s.

        This takes some us for each call. A cluster is asked only when this is.
        """
