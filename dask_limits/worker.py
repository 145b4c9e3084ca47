"""Limits on a Dask worker: the plugin that brings them there, and how to ask for them."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

import dask
import distributed
from dask.utils import key_split

from dask_limits.exceptions import CallCancelledError, CallError
from dask_limits.limits import CancelToken, LimitedCall, Limits
from dask_limits.limits.units import Amount
from dask_limits.packed import PackedCall, pack_outcome, run_packed

if TYPE_CHECKING:
    from dask._task_spec import GraphNode

EXECUTOR: Final = "limits"
"""The name of our executor on a worker: the value of the annotation `executor`."""


def annotate(
    *,
    memory: Amount | None = None,
    cpu_time: Amount | None = None,
    wall_time: Amount | None = None,
    num_processes: int | None = None,
) -> AbstractContextManager[None]:
    """Put limits on every Dask task that is made inside of a `with` block.

    Each such task runs in a task process of the worker that Dask chooses for it, and a breach is
    raised as Dask raises what a task raises: from `future.result()`, or `compute()`. Blocks can
    be nested: an inner one adds its limits to those around it, and wins where both say something.

    The workers need the plugin: call `client.register_plugin(LimitsWorkerPlugin())` once. Without
    it Dask refuses the tasks (`Invalid executor 'limits'`).

    In a task process there is no Dask worker: `get_worker()` and `worker_client()` do not work.

    Args:
        memory: Bytes, or with a unit; see [Limits][dask_limits.Limits] for this and the others.
        cpu_time: Seconds, or with a unit.
        wall_time: Seconds, or with a unit.
        num_processes: A whole number, 1 or more.

    Raises:
        ValueError: for a limit of zero, a negative one, NaN, or an unknown unit.
        TypeError: for a limit of the wrong type.

    Example:
        >>> import dask
        >>> from dask_limits import annotate
        >>> with annotate(memory="2 GiB", wall_time="1 m"):
        ...     total = dask.delayed(sum)([1, 2])
    """
    limits = Limits(
        memory=memory, cpu_time=cpu_time, wall_time=wall_time, num_processes=num_processes
    )
    return _annotate(limits)


@contextlib.contextmanager
def _annotate(limits: Limits) -> Iterator[None]:
    with dask.annotate(**limits_annotations(limits, dask.get_annotations())):
        yield


def limits_annotations(limits: Limits, around: dict[str, Any]) -> dict[str, Any]:
    """The annotations that put limits on a task.

    Args:
        limits: What a call may use.
        around: Annotations that hold already; their limits hold on where `limits` has none.
    """
    own = {name: value for name, value in dataclasses.asdict(limits).items() if value is not None}
    return {"executor": EXECUTOR, "limits": around.get("limits", {}) | own}


class LimitsWorkerPlugin(distributed.WorkerPlugin):  # type: ignore[misc]
    """Brings limits to the workers of a Dask cluster, those too that join later.

    A `Scheduler` on Dask registers it by itself. Code that uses
    [annotate][dask_limits.annotate] registers it once a cluster; twice does no harm.

    Example:
        >>> from distributed import Client
        >>> from dask_limits import LimitsWorkerPlugin, annotate
        >>> with Client(n_workers=1, processes=False, dashboard_address=":0") as client:
        ...     _ = client.register_plugin(LimitsWorkerPlugin())
        ...     with annotate(wall_time=10):
        ...         client.submit(abs, -3).result()
        3
    """

    name = "dask-limits"
    idempotent = True

    def setup(self, worker: distributed.Worker) -> None:
        """Give the worker its "limits" executor."""
        self._tasks = worker.state.tasks
        self._executor = worker.executors[EXECUTOR] = LimitsExecutor(worker)

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """End the call of a task that nobody wants any more; Dask itself lets it run on."""
        if finish == "executing":
            task = self._tasks[key]
            if task.run_spec.is_coro and task.annotations.get("executor") == EXECUTOR:
                # Dask runs coroutine functions in its own loop and asks no executor, so they
                # would escape their limits.
                task.run_spec._is_coro = False
        elif finish == "released" and start in ("executing", "long-running"):
            self._executor.cancel(key)

    async def teardown(self, worker: distributed.Worker) -> None:
        """End what runs, and every process of ours."""
        del worker.executors[EXECUTOR]
        await asyncio.to_thread(self._executor.shutdown)


class LimitsExecutor(concurrent.futures.Executor):
    """Runs tasks of one Dask worker in task processes, under the limits in their annotations.

    The name of this class must not contain "ThreadPoolExecutor": Dask looks, and then calls
    `submit` in another way.
    """

    def __init__(self, worker: distributed.Worker) -> None:
        from dask_limits.limits.guardian import Guardian

        self._tasks = worker.state.tasks
        self._guardian = Guardian()
        # Dask gives no more tasks at a time than the worker has threads. Here they only wait.
        self._threads = ThreadPoolExecutor(worker.state.nthreads, thread_name_prefix="limits")
        self._tokens: dict[Any, CancelToken] = {}

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Any:
        """Run one task. Called by Dask, with its own function that runs a task.

        Args:
            fn: Calls the first of `args` with the second, and makes of it what Dask keeps: value
                or error, times and sizes.
            args: What to run (a node of the graph); the values that it depends on, by key; the
                difference of the worker's clock to the scheduler's, seconds.
        """
        node, data, delay = args
        limits = Limits(**self._tasks[node.key].annotations.get("limits", {}))
        token = self._tokens[node.key] = CancelToken()

        def run_in_task_process(data: dict[Any, Any]) -> Any:
            try:
                return self._run(node, data, limits, token)
            finally:
                del self._tokens[node.key]

        return self._threads.submit(fn, run_in_task_process, data, delay)

    def _run(
        self, node: GraphNode, data: dict[Any, Any], limits: Limits, token: CancelToken
    ) -> Any:
        fn: PackedCall | Node
        if ours := getattr(node, "func", None) is run_packed:
            # The dependencies go in here, so that the task process need not import Dask.
            fn, put_in = type(node)(node.key, _as_tuple, *node.args)(data)
            args = (put_in,)
        else:
            fn, args = Node(node), (data,)
        call = LimitedCall(fn, limits)
        outcome = self._guardian.run(call, args, {}, cancel=token)
        if isinstance(outcome.exception, CallCancelledError):
            # Nobody waits for it; should someone have asked for it again meanwhile, it runs again.
            raise distributed.Reschedule
        if ours:
            return pack_outcome(outcome, call.name)
        if isinstance(outcome.exception, CallError):
            # Of an error with a longer message Dask would send the message alone.
            longest = dask.config.get("distributed.admin.max-error-length")
            outcome.exception.args = (str(outcome.exception)[:longest],)
        return outcome.result()

    def cancel(self, key: Any) -> None:
        """End a task, if it is one of ours that runs."""
        if token := self._tokens.get(key):
            token.cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End what runs, and every process of ours."""
        for token in list(self._tokens.values()):
            token.cancel()
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        self._guardian.close()


class Node:
    """A node of a Dask graph as a function of what it depends on, with a name."""

    def __init__(self, node: GraphNode) -> None:
        self.__name__ = key_split(node.key)
        self._node = node

    def __call__(self, data: dict[Any, Any]) -> Any:
        """Run it with the values that it depends on, by key."""
        return self._node(data)


def _as_tuple(*args: Any) -> tuple[Any, ...]:
    return args
