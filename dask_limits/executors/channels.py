"""What a driver of many calls asks of any executor: a channel to them, and how many can run."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any

from dask_limits.channels.channel import Channel, Hear, LocalChannel
from dask_limits.executors.borrowed import BorrowedExecutor
from dask_limits.executors.limited import LimitedExecutor


def open_channel(executor: Executor, hear: Hear) -> Channel:
    """Open a channel over which the calls of an executor ask this process."""
    opens: Any = getattr(_innermost(executor), "open_channel", None)
    channel: Channel = LocalChannel(hear) if opens is None else opens(hear)
    return channel


def places(executor: Executor) -> int:
    """How many calls of one core the executor runs at a time, as far as it tells; 1 or more."""
    inner: Any = _innermost(executor)
    counts = getattr(inner, "places", None)
    return max(1, getattr(inner, "max_workers", 1) if counts is None else counts())


def _innermost(executor: Executor) -> Executor:
    while isinstance(executor, LimitedExecutor | BorrowedExecutor):
        executor = executor._executor
    return executor
