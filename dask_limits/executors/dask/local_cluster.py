"""The Dask cluster on this machine that is started for those who bring none."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import threading
import time
from typing import Final

import distributed
import psutil

_IGNORE_CTRL_C: Final = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
    " signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})"
)
"""For workers that share our terminal. What they are to do about Ctrl-C, they are told by us.
Until they get here the signal is blocked, as it was where they were started."""

_END_WITH_DRIVER: Final = f"from {__name__} import end_with_driver; end_with_driver()"
"""Likewise: a child that the driver has forked keeps the connections and pipes that would tell."""
_LOOK_EVERY_S: Final = 0.5
"""How often a worker looks for its driver; each look takes 30 us."""


def start_cluster(
    n_workers: int, security: distributed.Security | bool | None
) -> distributed.Client:
    """A client, and a cluster of worker processes for it: for `close_cluster`.

    To be called in `start_uninterrupted`.

    All of it listens on the loopback interface alone, and talks to nobody who has not the
    credentials of this one cluster: whoever reaches a Dask scheduler without can run anything.

    Args:
        n_workers: How many worker processes, each with one thread.
        security: Credentials; None or True for new ones, False for none but those that Dask is
            configured to use.
    """
    cluster = distributed.LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        dashboard_address="127.0.0.1:0",  # no warning if the usual port is taken
        silence_logs=logging.ERROR,
        preload=[_IGNORE_CTRL_C, _END_WITH_DRIVER],
        security=True if security is None else security or distributed.Security(),
    )
    try:
        return distributed.Client(cluster, set_as_default=False)
    except BaseException:
        cluster.close()
        raise


def close_cluster(client: distributed.Client) -> None:
    """Close a client, and the cluster that was made for it."""
    cluster = client.cluster
    try:
        client.close()
    finally:
        cluster.close()


def end_with_driver() -> None:
    """Have this process, a worker's, end as soon as the one that has started it does."""
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    try:
        driver = psutil.Process(parent.pid)
    except psutil.NoSuchProcess:
        os._exit(1)

    def wait() -> None:
        # By looking, as Linux before 5.3 has nothing to wait for that a fork does not keep.
        with contextlib.suppress(psutil.NoSuchProcess):
            while driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE:
                time.sleep(_LOOK_EVERY_S)
        os._exit(1)  # what runs here is ended by its guardian

    threading.Thread(target=wait, name="dask-limits-end-with-driver", daemon=True).start()
