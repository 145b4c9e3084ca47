"""The Dask cluster that is started on this machine if the user has none."""

from __future__ import annotations

import contextlib
import inspect
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import distributed
import psutil

from dask_limits.instead import instead_of

_IGNORE_CTRL_C: Final = (
    "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN);"
    " signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})"
)
"""For workers that share our terminal: this process tells them what to do at Ctrl-C. Until they get
here the signal is blocked, as it was in the thread that started them."""

_END_WITH_DRIVER: Final = f"from {__name__} import end_with_driver; end_with_driver()"
"""For the same workers: they cannot rely on connections and pipes to the driver to close, because a
child that the driver has forked keeps them open."""
_LOOK_EVERY_S: Final = 0.5
"""How often a worker checks whether its driver lives, which takes 30 us."""
_DEFAULTS: Final[dict[str, Any]] = {
    "threads_per_worker": 1,
    "dashboard_address": "127.0.0.1:0",  # no warning if the usual port is taken
    "silence_logs": logging.ERROR,
}
_USUAL: Final = ("n_workers", "threads_per_worker", "memory_limit", "dashboard_address")
_NOT_HERE: Final = {"processes", "asynchronous", "preload", "preload_argv"}


def check_options(options: Mapping[str, Any]) -> None:
    """Check that these are arguments of `LocalCluster`, or of its workers.

    Raises:
        TypeError: for another one.
    """
    known: set[str] = set()
    for of in (distributed.LocalCluster, distributed.Nanny, distributed.Worker):
        known |= inspect.signature(of).parameters.keys()
    for name in options:
        if name in _NOT_HERE:
            raise TypeError(
                f"{name}={options[name]!r} is for a cluster that you make: with_dask(LocalCluster("
                f"{name}={options[name]!r}, ...))"
            )
        if name not in known:
            instead = instead_of(name, options[name], [*_USUAL, *sorted(known - {*_USUAL})])
            raise TypeError(f"{name!r} is no argument of a LocalCluster or its workers: {instead}")


def start_cluster(
    n_workers: int | None,
    security: distributed.Security | bool | None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[distributed.Client, Callable[[], object]]:
    """Start a cluster of worker processes. Return a client of it, and a function to close both.

    Call it in `start_uninterrupted`. By default each worker has one thread, and there is one for
    each CPU. `options` are further arguments of `LocalCluster`. With `security=None` the cluster
    makes credentials of its own; with False it has none, except those of Dask's configuration.

    The cluster listens only on the loopback interface, and accepts only connections with its own
    credentials: whoever can connect to a Dask scheduler without credentials can run anything.
    """
    ours = {
        "n_workers": n_workers,
        "preload": [_IGNORE_CTRL_C, _END_WITH_DRIVER],
        "security": True if security is None else security or distributed.Security(),
    }
    cluster = distributed.LocalCluster(**_DEFAULTS | dict(options) | ours)
    with contextlib.ExitStack() as exit_stack:
        exit_stack.callback(cluster.close)
        client = distributed.Client(cluster, set_as_default=False)
        exit_stack.callback(client.close)
        return client, exit_stack.pop_all().close


def end_with_driver() -> None:
    """Have this process, a worker's, end when the process that started it ends."""
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    try:
        driver = psutil.Process(parent.pid)
    except psutil.NoSuchProcess:
        os._exit(1)

    def wait() -> None:
        # Polling, because before 5.3 Linux has nothing to wait for that a fork does not keep open.
        with contextlib.suppress(psutil.NoSuchProcess):
            while driver.is_running() and driver.status() != psutil.STATUS_ZOMBIE:
                time.sleep(_LOOK_EVERY_S)
        os._exit(1)  # what runs here is ended by its guardian

    threading.Thread(target=wait, name="dask-limits-end-with-driver", daemon=True).start()
