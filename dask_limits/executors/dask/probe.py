"""Whether a Dask scheduler is at an address: if not, Dask's client may wait without an end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from typing import Final

import dask
import distributed
from dask.utils import parse_timedelta
from distributed.comm import CommClosedError

_ASK_OTHERWISE: Final = "distributed.client.security-loader"
"""What gives Dask's client credentials for an address, if it is set; we have none to ask with."""
_ANSWER_S: Final = 2.0
"""How much longer it may take from being connected to being answered."""


def greet_scheduler(address: str, security: distributed.Security | None = None) -> None:
    """Return if a Dask scheduler answers at an address.

    Its client waits without an end for an answer of anything else that listens there: of the
    scheduler's dashboard, for instance.

    Args:
        address: Of the scheduler.
        security: Credentials; None for those that Dask is configured to use.

    Raises:
        OSError: if nothing answers within Dask's time for connecting, usually 30 seconds
            (`distributed.comm.timeouts.connect`), or something else does, or if it needs
            credentials and there are none.
        ValueError: if it is no address.
    """
    if security is None and dask.config.get(_ASK_OTHERWISE, None) is not None:
        return
    answer = concurrent.futures.Future[None]()

    def greet() -> None:
        try:
            answer.set_result(asyncio.run(_greet(address, security or distributed.Security())))
        except BaseException as error:
            answer.set_exception(error)

    # The loop of this thread may be running, as in Jupyter. And Ctrl-C waits for no answer.
    threading.Thread(target=greet, name="dask-limits-greet", daemon=True).start()
    answer.result()


async def _greet(address: str, security: distributed.Security) -> None:
    timeout_s = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
    options = security.get_connection_args("client")
    try:
        async with asyncio.timeout(timeout_s + _ANSWER_S):
            async with distributed.rpc(address, timeout_s, connection_args=options) as there:
                who = f"a {(await there.identity())['type']}"
    except TimeoutError:
        who = "something that accepts connections and does not answer"
    except TypeError as error:
        raise OSError(
            f"Nobody can connect to {address} without credentials: pass a distributed.Security, or"
            f" have Dask's configuration name them under distributed.comm.tls ({error})."
        ) from error
    except CommClosedError as error:  # which says nothing more
        raise OSError(
            f"The connection to {address} was closed before it was made"
            f" ({error.__cause__ or error}). Perhaps the credentials are those of another cluster."
        ) from error
    except (OSError, ValueError):
        raise
    except Exception as error:  # MemoryError, say: the first bytes are taken for a length
        who = f"something with another protocol ({type(error).__name__}: {error})"
    if who != "a Scheduler":
        raise OSError(
            f"There is no Dask scheduler at {address}, but {who}. Perhaps this is the address of"
            " its dashboard, or of a worker; its own is what client.scheduler.address says."
        )
