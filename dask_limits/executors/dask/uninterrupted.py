from __future__ import annotations

import concurrent.futures
import signal
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Final, TypeVar

T = TypeVar("T")

_CLOSE_WAIT_S: Final = 20.0
"""How long Ctrl-C waits for what is being started to be closed. A shorter wait may leave workers
behind, and then Dask holds up the end of Python; a second Ctrl-C cuts it short."""


def start_uninterrupted(start: Callable[[], T], close: Callable[[T], object]) -> T:
    """Start something out of reach of Ctrl-C; close it if that comes meanwhile.

    Dask cannot be interrupted while it starts a cluster: its workers are then nobody's, and Python
    waits for them at its end. So a thread starts it that Ctrl-C does not reach, and neither does
    it reach the threads and processes that this one starts.

    Args:
        start: What starts it. Called in another thread.
        close: What closes it if nobody waits for it any more.
    """
    started = concurrent.futures.Future[T]()

    def run() -> None:
        try:
            # First, as it unblocks the signal in the thread that starts it (CPython, up to 3.12).
            resource_tracker.ensure_running()
            # Inherited by what this starts, which Ctrl-C on a terminal reaches too.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            thing = start()
        except BaseException as error:
            started.set_exception(error)
        else:
            started.set_result(thing)

    def close_what_came_up(_: concurrent.futures.Future[T]) -> None:
        if started.exception() is None:
            close(started.result())

    thread = threading.Thread(target=run, name="dask-limits-start", daemon=True)
    try:
        thread.start()
        return started.result()
    except BaseException:
        started.add_done_callback(close_what_came_up)  # runs there, or here if it is done
        if thread.is_alive():
            thread.join(_CLOSE_WAIT_S)
        raise
