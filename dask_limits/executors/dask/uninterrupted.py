from __future__ import annotations

import concurrent.futures
import signal
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Final, TypeVar

E = TypeVar("E", bound=concurrent.futures.Executor)

_CLOSE_WAIT_S: Final = 20.0
"""How long Ctrl-C waits until what is being started is closed. A second Ctrl-C ends the wait. If it
is too short, workers may be left, and then Dask delays the exit of Python."""


def start_uninterrupted(start: Callable[[], E]) -> E:
    """Start an executor, not to be interrupted by Ctrl-C; shut it down if Ctrl-C comes meanwhile.

    If Dask is interrupted while it starts a cluster, nobody closes the workers, and Python waits
    for them when it exits. So the cluster is started in a thread where SIGINT is blocked; threads
    and processes that are started there inherit this.
    """
    started = concurrent.futures.Future[E]()

    def run() -> None:
        try:
            # Before the signal is blocked: up to CPython 3.12 this unblocks it.
            resource_tracker.ensure_running()
            # Processes inherit this. They need it: a terminal sends SIGINT to all of them.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            started.set_result(start())
        except BaseException as error:
            started.set_exception(error)

    def close_what_came_up(_: object) -> None:
        if started.exception() is None:
            started.result().shutdown(cancel_futures=True)

    thread = threading.Thread(target=run, name="dask-limits-start", daemon=True)
    try:
        thread.start()
        return started.result()
    except BaseException:
        started.add_done_callback(close_what_came_up)  # in that thread, or here if it is done
        if thread.is_alive():
            thread.join(_CLOSE_WAIT_S)
        raise
