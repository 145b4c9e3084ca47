"""The client's, and those of clusters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from dask_limits.dask.compat.undocumented_name import names

if TYPE_CHECKING:
    import distributed

_CLIENT: Final = names(
    "distributed.client:Client.id 2021.1",
    "distributed.client:Client.loop 2021.1",
    "distributed.client:Client.scheduler_comm 2021.1",
    "distributed.client:Client.status 2021.1",
    what_for="to send calls, to hear of workers, and to notice that the scheduler is lost",
    without="DaskExecutor and Scheduler.with_dask() fail with ImportError.",
)
_STREAM: Final = names(
    "distributed.client:Client._handle_report_task 2022.1.1",
    what_for="to end calls at once when the connection to the scheduler is lost",
    without="Calls may end only when the client gives up, after distributed.comm.timeouts.connect.",
)
_EXECUTOR: Final = names(
    "distributed.cfexecutor:ClientExecutor._client 2021.1",
    "distributed.cfexecutor:ClientExecutor._kwargs 2021.1",
    what_for="to accept what client.get_executor() returns",
    without="Pass the Client itself: what client.get_executor() returns is refused.",
)
_ADDRESSES: Final = names(
    "distributed.utils:get_ip 2021.1",
    "distributed.utils:get_ip_interface 2021.1",
    what_for="to have the scheduler of a batch system's cluster listen on one network only",
    without="Starting a cluster of dask-jobqueue fails with ImportError.",
)
_STATE: Final = names(
    "distributed.client:Future._state 2021.1",
    "distributed.client:FutureState.wait 2021.1",
    what_for="to know that a task has ended whose outcome was told before",
    without="Outcomes are fetched after they were told, which costs time.",
)
NAMES: Final = _CLIENT | _STREAM | _EXECUTOR | _ADDRESSES | _STATE


def status_of(client: distributed.Client) -> str:
    """Whether a client is "running", "connecting", "closing" or "closed"."""
    for name in _CLIENT.values():  # here, as nothing is done with a client without this question
        name.get()
    return str(client.status)


def id_of(client: distributed.Client) -> str:
    """What a client is called on its scheduler."""
    return str(client.id)


def call_in_loop(client: distributed.Client, function: Callable[..., Any], *args: Any) -> None:
    """Have a client call a function, or a coroutine function, soon and in its own thread."""
    client.loop.add_callback(function, *args)


async def ended(task: distributed.Future) -> None:
    """Wait until a task has ended, however it did. It may be lost again afterwards."""
    if all(name.is_there for name in _STATE.values()):
        await task._state.wait()


def connection_of(client: distributed.Client) -> Any:
    """The connection of a client to its scheduler. Another one when it has reconnected."""
    return client.scheduler_comm


def is_connected(client: distributed.Client, connection: Any) -> bool:
    """Whether a client still has this connection, and its scheduler has not closed it."""
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


def ip_address(interface: str | None) -> str:
    """The address of this machine on the network of an interface; by default, of the usual one."""
    if interface:
        return str(_ADDRESSES["distributed.utils:get_ip_interface"].get()(interface))
    return str(_ADDRESSES["distributed.utils:get_ip"].get()())
