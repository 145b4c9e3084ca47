from __future__ import annotations

import concurrent.futures
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import dask
import distributed
from dask._task_spec import Alias, DataNode
from dask.utils import key_split
from distributed.worker import _run_task

from dask_limits.exceptions import CallCancelledError, CallError
from dask_limits.limits import CancelToken, LimitedCall, Limits
from dask_limits.limits.guardian import Guardian
from dask_limits.nodes import JoblibBatch, failed_joblib_batch
from dask_limits.packed import pack_outcome, run_packed
from dask_limits.worker.calls import call_of
from dask_limits.worker.explained import explained
from dask_limits.worker.usage_log import UsageLog

if TYPE_CHECKING:
    from dask._task_spec import GraphNode


class LimitsExecutor(concurrent.futures.Executor):
    """Runs tasks of one Dask worker in task processes, under the limits in their annotations.

    The name of this class must not contain "ThreadPoolExecutor": Dask looks, and then calls
    `submit` in another way.

    Args:
        worker: Whose tasks they are.
        max_calls_per_process: As for `LimitsWorkerPlugin`.

    Attributes:
        usage_log: What its tasks did use.
    """

    def __init__(
        self, worker: distributed.Worker, max_calls_per_process: int | None = None
    ) -> None:
        self._worker = worker
        self._tasks = worker.state.tasks
        self._guardian = Guardian(max_calls_per_process)
        # Dask gives no more tasks at a time than the worker has threads. Here they only wait.
        self._threads = ThreadPoolExecutor(worker.state.nthreads, thread_name_prefix="limits")
        self._tokens: dict[Any, CancelToken] = {}
        self.usage_log = UsageLog(worker)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Any:
        """Run one task. Called by Dask, with its own function that runs a task.

        Args:
            fn: Calls the first of `args` with the second, and makes of it what Dask keeps: value
                or error, times and sizes.
            args: What to run (a node of the graph); the values that it depends on, by key; the
                difference of the worker's clock to the scheduler's, seconds.
        """
        node, data, delay = args
        task = self._tasks[node.key]
        limits = task.annotations.get("limits", {})
        in_thread = limits.get("isolation") == "thread"
        token = self._tokens[node.key] = CancelToken()
        if task.state != "executing":
            # Nobody wants it any more. Dask has said so already, between its decision to run it
            # and this call, and does not say so again.
            token.cancel()

        def run_limited(data: dict[Any, Any]) -> Any:
            try:
                return self._run(node, data, Limits(**limits), token)
            except KeyboardInterrupt as error:
                # It was the task's own. Dask would take it for one of the worker, and run no more.
                name = key_split(node.key)
                raise RuntimeError(f"{name}() raised KeyboardInterrupt") from error
            finally:
                del self._tokens[node.key]

        if in_thread:
            return self._submit_to_dask(run_limited, data, node.key, delay)
        return self._threads.submit(fn, run_limited, data, delay)

    def _submit_to_dask(self, run: Callable[[Any], Any], data: Any, key: Any, delay: float) -> Any:
        """Run a task where Dask runs its own, in a thread that knows its worker and may secede."""
        worker = self._worker
        return worker.executors["default"].submit(
            contextvars.copy_context().run,
            _run_task,
            run,
            data,
            worker.execution_state,
            key,
            worker.active_threads,
            worker.active_threads_lock,
            delay,
        )

    def _run(
        self, node: GraphNode, data: dict[Any, Any], limits: Limits, token: CancelToken
    ) -> Any:
        if isinstance(node, Alias | DataNode):
            return node(data)  # nothing of a user's runs: a value is there already
        fn, args, kwargs = call_of(node, data)
        is_joblibs = isinstance(fn, JoblibBatch)
        if isinstance(fn, JoblibBatch) and limits.isolation == "thread":
            fn = fn.batch  # there is a client here, and other threads that use joblib
        call = LimitedCall(fn, limits)
        outcome = self._guardian.run(call, args, kwargs, cancel=token)
        if isinstance(outcome.exception, CallCancelledError):
            # Nobody waits for it; should someone have asked for it again meanwhile, it runs again.
            raise distributed.Reschedule
        if getattr(node, "func", None) is run_packed:
            return pack_outcome(outcome, call.name)
        self.usage_log.add(node.key, outcome.usage)
        error = outcome.exception
        if limits.isolation != "thread":
            error = explained(error)
        if error is None:
            return outcome.value
        if is_joblibs:
            return failed_joblib_batch(error)
        if isinstance(error, CallError):
            # Of an error with a longer message Dask would send the message alone.
            longest = dask.config.get("distributed.admin.max-error-length")
            error.args = (str(error)[:longest],)
        raise error

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
