"""The start of a call that may bring its worker down: what came before it is told first."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Final

_SENDING_S: Final = 0.025
"""Dask sends messages every 2 ms. A loop that is late has to do that between two of these."""
_PATIENCE_S: Final = 60.0  # with a loop that has stopped for good


def report_first(loop: asyncio.AbstractEventLoop, report: Callable[[], None]) -> None:
    """Report from this thread, in the thread of the worker's loop, and wait until that is sent.

    So are the ends of earlier calls. One whose end was not sent when the worker is lost counts as
    one that may have brought it down.
    """
    is_sent = threading.Event()

    def report_and_send() -> None:
        report()
        loop.call_later(_SENDING_S, loop.call_later, _SENDING_S, is_sent.set)

    loop.call_soon_threadsafe(report_and_send)
    is_sent.wait(_PATIENCE_S)
