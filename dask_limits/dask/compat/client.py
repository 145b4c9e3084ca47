"""The client's, and those of clusters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dask_limits.dask.compat.undocumented_name import Name

if TYPE_CHECKING:
    import distributed

_EXECUTOR: Final = "to accept what client.get_executor() returns"
_NOT_ACCEPTED: Final = "Pass the Client itself: what client.get_executor() returns is refused."
_LOST: Final = "to end calls at once when the connection to the scheduler is lost"
_CPU_COUNT: Final = Name(
    "dask",
    "dask.system:CPU_COUNT",
    "to start one worker for each CPU, as LocalCluster does",
    "2021.1",
    "As many workers are started as there are CPUs that this process may use.",
)
_GET_IP: Final = Name(
    "distributed",
    "distributed.utils:get_ip",
    "to have the scheduler of a batch system's cluster listen on one network only",
    "2021.1",
    "Starting a cluster of dask-jobqueue fails with ImportError.",
)
_GET_IP_INTERFACE: Final = Name(
    "distributed",
    "distributed.utils:get_ip_interface",
    _GET_IP.what_for,
    "2021.1",
    _GET_IP.without,
)
_CONNECTION: Final = Name(
    "distributed",
    "distributed.client:Client.scheduler_comm",
    _LOST,
    "2021.1",
    "DaskExecutor and Scheduler.with_dask() fail with ImportError.",
)
_DASKS_CLIENT: Final = "DaskExecutor and Scheduler.with_dask() fail with AttributeError."
NAMES: Final = (
    *(
        Name("distributed", f"distributed.client:Client.{name}", what_for, "2021.1", _DASKS_CLIENT)
        for name, what_for in (
            ("status", "to tell a client that is closed or has lost its scheduler"),
            ("id", "to have the scheduler send a client events"),
            ("loop", "to send calls from the client's own thread"),
        )
    ),
    _CONNECTION,
    _CPU_COUNT,
    _GET_IP,
    _GET_IP_INTERFACE,
    Name(
        "distributed",
        "distributed.client:Client._handle_report_task",
        _LOST,
        "2022.1.1",
        "Calls may end only when the client gives up, after distributed.comm.timeouts.connect.",
    ),
    Name(
        "distributed",
        "distributed.cfexecutor:ClientExecutor._client",
        _EXECUTOR,
        "2021.1",
        _NOT_ACCEPTED,
    ),
    Name(
        "distributed",
        "distributed.cfexecutor:ClientExecutor._kwargs",
        _EXECUTOR,
        "2021.1",
        _NOT_ACCEPTED,
    ),
)


def connection_of(client: distributed.Client) -> Any:
    """The connection of a client to its scheduler. Another one when it has reconnected."""
    _CONNECTION.get()
    return client.scheduler_comm


def status_of(client: distributed.Client) -> str:
    """Whether a client is "running", "connecting", "closing" or "closed"."""
    return str(client.status)


def id_of(client: distributed.Client) -> str:
    """What a client is called on its scheduler."""
    return str(client.id)


def call_in_loop(client: distributed.Client, function: Callable[..., Any], *args: Any) -> None:
    """Have a client call a function, or a coroutine function, soon and in its own thread."""
    client.loop.add_callback(function, *args)


def is_connected(client: distributed.Client, connection: Any) -> bool:
    """Whether a client still has a connection, and its scheduler has not closed it.

    Args:
        client: Dask's.
        connection: What `connection_of` gave.
    """
    stream = getattr(client, "_handle_report_task", None)
    return (
        client.status == "running"
        and client.scheduler_comm is connection
        and not connection.comm.closed()
        and not (stream is not None and stream.done())
    )


def executor_parts(executor: Any) -> tuple[Any, dict[str, Any]] | None:
    """The client of what `client.get_executor()` has returned, and the options it was given."""
    try:
        return executor._client, executor._kwargs
    except AttributeError:
        return None


def cpu_count() -> int:
    """How many workers a LocalCluster starts unless told otherwise, if each has one thread."""
    import os

    return int(_CPU_COUNT.find() or len(os.sched_getaffinity(0)))


def ip_address(interface: str | None) -> str:
    """The address of this machine on the network of an interface; by default, of the usual one."""
    return str(_GET_IP_INTERFACE.get()(interface) if interface else _GET_IP.get()())
