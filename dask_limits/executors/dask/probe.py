"""Checks that a Dask scheduler answers at an address."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Final

import dask
import distributed
from dask.utils import parse_timedelta
from distributed.comm import CommClosedError

from dask_limits.units import Duration, format_seconds, parse_seconds

_ASK_OTHERWISE: Final = "distributed.client.security-loader"
"""If this is set, it gives Dask's client its credentials; we have none to probe with."""
_ANSWER_S: Final = 2.0
"""How long an answer may take once the connection is made."""
_SHORT_ANSWER_S: Final = 0.5
"""The same if there is a time limit to keep."""


def probe_scheduler(
    address: str,
    security: distributed.Security | None = None,
    timeout: Duration | None = None,
) -> None:
    """Check that a Dask scheduler answers at an address, before a `Client` connects to it.

    A `distributed.Client` waits for ever if something else listens there, such as the scheduler's
    dashboard. `Scheduler.with_dask(address)` makes this check by itself.

    Args:
        address: The address of the scheduler, "tcp://host:8786".
        security: Credentials; None for those of Dask's configuration.
        timeout: How long to wait at most, if Dask's time limit for connections is longer: seconds,
            `(5, "s")`, "1 minute".

    Raises:
        OSError: if nothing answers in time, by Dask's limit for connections usually 30 seconds
            (`distributed.comm.timeouts.connect`), if something other than a scheduler answers, or
            if the scheduler needs other credentials.
        ValueError: if `address` is not an address.

    Example:
        >>> from distributed import LocalCluster
        >>> with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        ...     probe_scheduler(cluster.scheduler_address)
    """
    if security is None and dask.config.get(_ASK_OTHERWISE, None) is not None:
        return
    connect_s = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
    most_s = connect_s + _ANSWER_S
    if timeout is not None:
        connect_s = min(parse_seconds(timeout, "timeout"), connect_s)
        most_s = min(connect_s + _SHORT_ANSWER_S, most_s)
    answer = concurrent.futures.Future[None]()

    def probe() -> None:
        try:
            its = security or distributed.Security()
            answer.set_result(asyncio.run(_probe(address, its, connect_s, most_s)))
        except BaseException as error:
            answer.set_exception(error)

    # In a thread of its own: an event loop may be running in this one, as in Jupyter, and Ctrl-C
    # does not wait for an answer.
    threading.Thread(target=probe, name="dask-limits-probe", daemon=True).start()
    concurrent.futures.wait([answer], most_s + 0.3)  # a look-up of a name may take long
    if not answer.done():
        raise OSError(f"No answer from {address} within {format_seconds(most_s)}")
    answer.result()


async def _probe(
    address: str, security: distributed.Security, connect_s: float, most_s: float
) -> None:
    options = security.get_connection_args("client")
    try:
        async with asyncio.timeout(most_s):
            async with distributed.rpc(
                address, timeout=connect_s, connection_args=options
            ) as there:
                who = f"a {(await there.identity())['type']}"
    except TimeoutError:
        who = "something that accepts connections and does not answer"
    except TypeError as error:
        raise OSError(
            f"The Dask scheduler at {address} needs credentials: pass a distributed.Security, or"
            f" set distributed.comm.tls in Dask's configuration ({error})."
        ) from error
    except CommClosedError as error:  # which says nothing more
        raise OSError(
            f"{address} closed the connection ({error.__cause__ or error}). Perhaps the credentials"
            " are those of another cluster."
        ) from error
    except (OSError, ValueError):
        raise
    except Exception as error:  # MemoryError, say: the first bytes are taken for a length
        who = f"something with another protocol ({type(error).__name__}: {error})"
    if who != "a Scheduler":
        raise OSError(
            f"There is no Dask scheduler at {address}, but {who}. Perhaps this is the address of"
            " the dashboard or of a worker. client.scheduler.address is the scheduler's."
        )
