"""Bringing limits to the workers of a Dask cluster, and saying which of them cannot have them."""

from __future__ import annotations

import contextlib
from typing import Final

import distributed

from dask_limits.dask.compat.client import status_of
from dask_limits.dask.worker.plugin import LimitsWorkerPlugin
from dask_limits.exceptions import ClusterLostError

_SHOWN: Final = 3  # workers that are named in an error, however many there are


def register_plugin(client: distributed.Client) -> None:
    """Bring limits to all workers. If they have them already, this does nothing.

    Raises:
        RuntimeError: if the client is closed, or a worker cannot use dask_limits.
        ClusterLostError: if the client has lost its scheduler.
    """
    check_open(client)
    try:
        client.register_plugin(LimitsWorkerPlugin())
    except Exception as error:
        check_open(client)  # it may have been closed meanwhile
        with contextlib.suppress(Exception):  # or the next attempt would seem to succeed
            client.unregister_worker_plugin(LimitsWorkerPlugin.name)
        raise RuntimeError(
            f"The Dask cluster at {client.scheduler.address} cannot use dask_limits: "
            f"{_failures(client) or error}. Install dask_limits, in the version that is used here,"
            " where the scheduler and all workers run, and restart the workers that failed."
        ) from error


def check_open(client: distributed.Client) -> None:
    """Raise an error if a client is closed, or has lost its scheduler."""
    if status_of(client) in ("closing", "closed"):
        raise RuntimeError("The Dask client is closed: make a new one")
    if status_of(client) != "running":  # any request would wait until the client gives up
        address = client.scheduler.address
        raise ClusterLostError(
            f"The Dask client has lost the connection to its scheduler at {address}. Try again"
            " when the scheduler answers, or use a new client.",
            address=address,
        )


def _failures(client: distributed.Client) -> str:
    """The workers that cannot import dask_limits, and what each of them raises."""
    answers = client.run(_answer, on_error="return")
    failures = {address: error for address, error in answers.items() if error is not None}
    workers = client.scheduler_info(n_workers=-1)["workers"]
    named = [
        f"worker {workers.get(address, {}).get('name', '?')} at {address} failed with {error}"
        for address, error in list(failures.items())[:_SHOWN]
    ]
    if len(failures) > _SHOWN:
        named.append(f"{len(failures) - _SHOWN} more workers failed")
    return "; ".join(named)


def _answer() -> None:
    """Called on each worker, which has to import this module to do so."""
