from __future__ import annotations

import concurrent.futures
import signal
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Final, TypeVar

T = TypeVar("T")

_CLOSE_WAIT_S: Final = 20.0
"""How long Ctrl-C waits until what is being started is closed. A second Ctrl-C ends the wait. If it
is too short, workers may be left, and then Dask delays the exit of Python."""


def start_uninterrupted(start: Callable[[], T], close: Callable[[T], object]) -> T:
    """Start something that Ctrl-C must not interrupt; close it if Ctrl-C comes meanwhile.

    If Dask is interrupted while it starts a cluster, nobody closes the workers, and Python waits
    for them when it exits. So the cluster is started in a thread where SIGINT is blocked; threads
    and processes that are started there inherit this.

    Args:
        start: Starts it. Called in another thread.
        close: Closes it if Ctrl-C has ended the wait for it.

    Returns:
        The result of `start`.
    """
    started = concurrent.futures.Future[T]()

    def run() -> None:
        try:
            # Before the signal is blocked: up to CPython 3.12 this unblocks it.
            resource_tracker.ensure_running()
            # Processes inherit this. They need it: a terminal sends SIGINT to all of them.
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
        started.add_done_callback(close_what_came_up)  # in that thread, or here if it is done
        if thread.is_alive():
            thread.join(_CLOSE_WAIT_S)
        raise
