from __future__ import annotations

import concurrent.futures
import contextlib
import math
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import dask
import distributed
from distributed.comm import CommClosedError

from dask_limits.dask.compat import worker as compat
from dask_limits.dask.compat.graphs import function_name, is_value
from dask_limits.dask.compat.joblib import failed_batch
from dask_limits.dask.nodes import JoblibBatch
from dask_limits.dask.packed import pack_outcome, run_packed
from dask_limits.dask.reservations import Introduction, margin, refused, request_of
from dask_limits.dask.topic import TOPIC
from dask_limits.dask.usage_log import UsageLog
from dask_limits.dask.worker.admission import Gate, Ticket
from dask_limits.dask.worker.error_messages import explained
from dask_limits.dask.worker.graph_calls import call_of
from dask_limits.exceptions import CallCancelledError, CallError, GuardianLostError
from dask_limits.limits import CancelToken, LimitedCall, Limits, Outcome
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.placement.resources import Room, refusal

if TYPE_CHECKING:
    from distributed.worker_state_machine import TaskState

_SAY_AFTER_S: Final = 0.1
"""How long a call runs until the scheduler is told that it has begun. Until then it believes so
anyway; to say so at once would double the messages of calls that take a few ms."""
_CAREFUL_S: Final = 0.05
"""How long a call that may bring its worker down waits when it has been said that it begins. Dask
sends what is to be sent every 2 ms."""
_NOT_BEGUN: Final = {"released", "waiting", "ready", "constrained"}
_RUNS: Final = {"executing", "long-running"}


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
        self._calls: dict[Hashable, _Call] = {}
        self._gate = Gate(math.inf, worker.state.nthreads)
        self._ends_at = math.inf
        self._job = ""
        self._is_placed = False
        self.usage_log = UsageLog(worker)

    def set_room(self, introduction: Introduction) -> None:
        """Say what all calls together may reserve, before the first one comes."""
        memory = math.inf if introduction.memory is None else introduction.memory
        self._gate = Gate(memory, introduction.cores)
        self._job = introduction.job
        if introduction.ends_in is not None:
            # Less of a margin than the scheduler's: only what was held up here is sent back.
            left = introduction.ends_in - margin(introduction.ends_in + introduction.age) / 2
            self._ends_at = time.monotonic() + left

    def set_placed(self) -> None:
        """Say that the scheduler places calls, and wants to hear when they begin."""
        self._is_placed = True

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
        is_careful = "limits-careful" in task.annotations
        request = request_of(limits)
        call = _Call(node.key, CancelToken(), self._gate.ask(request, task.priority))
        self._calls[node.key] = call
        if task.state != "executing":
            # Nobody wants it any more. Dask has said so already, between its decision to run it
            # and this call, and does not say so again.
            call.cancel(self._gate)
        if self._is_placed:
            self._worker.loop.call_later(_SAY_AFTER_S, self._say_begun, call)

        def run_limited(data: dict[Any, Any]) -> Any:
            try:
                if call.refused is not None:
                    raise call.refused
                if not call.ticket.entered:
                    raise distributed.Reschedule
                if self._is_placed and time.monotonic() + request.seconds > self._ends_at:
                    raise distributed.Reschedule  # it was held up, and has no time here any more
                return self._run(node, data, Limits(**limits), call.token)
            except KeyboardInterrupt as error:
                # It was the task's own. Dask would take it for one of the worker, and run no more.
                name = function_name(node.key)
                raise RuntimeError(f"{name}() raised KeyboardInterrupt") from error

        def run_in_turn(run: Callable[[], Any]) -> Any:
            try:
                if call.ticket.wait() and is_careful:
                    self._worker.loop.add_callback(self._say_begun, call)
                    time.sleep(_CAREFUL_S)
                return run()
            finally:
                del self._calls[node.key]
                self._gate.leave(call.ticket)

        if why := refusal(request, [Room(self._gate.memory, self._gate.cores)]):
            # Only where the scheduler places no calls, or else it has refused it.
            call.refused = refused(function_name(node.key), limits, why)
            call.cancel(self._gate)
        if limits.get("isolation") == "thread":
            return self._submit_to_dask(run_in_turn, run_limited, data, node.key, delay)
        return self._threads.submit(run_in_turn, lambda: fn(run_limited, data, delay))

    def _submit_to_dask(
        self,
        run_in_turn: Callable[[Callable[[], Any]], Any],
        run: Callable[[Any], Any],
        data: Any,
        key: Any,
        delay: float,
    ) -> Any:
        """Run a task where Dask runs its own, in a thread that knows its worker and may secede."""
        run_in_thread = compat.thread_task(self._worker, run, data, key, delay)
        return self._worker.executors["default"].submit(run_in_turn, run_in_thread)

    def _run(self, node: Any, data: dict[Any, Any], limits: Limits, token: CancelToken) -> Any:
        if is_value(node):
            return node(data)  # nothing of a user's runs: a value is there already
        fn, args, kwargs = call_of(node, data)
        is_joblibs = isinstance(fn, JoblibBatch)
        if isinstance(fn, JoblibBatch) and limits.isolation == "thread":
            fn = fn.batch  # there is a client here, and other threads that use joblib
        call = LimitedCall(fn, limits)
        outcome = self._run_guarded(node.key, call, args, kwargs, token)
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
            return failed_batch(error)
        if isinstance(error, CallError):
            # Of an error with a longer message Dask would send the message alone.
            longest = dask.config.get("distributed.admin.max-error-length")
            error.args = (str(error)[:longest],)
        raise error

    def _run_guarded(
        self,
        key: Hashable,
        call: LimitedCall[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        token: CancelToken,
    ) -> Outcome[Any]:
        """Run a call; again, if its guardian was killed, as often as Dask forgives lost workers."""
        seconds = (call.limits.wall_time or 0) + call.limits.grace_period
        for tries in range(1, 1 + dask.config.get("distributed.scheduler.allowed-failures")):
            outcome = self._guardian.run(call.fn, args, kwargs, call.limits, cancel=token)
            if not isinstance(outcome.exception, GuardianLostError):
                return outcome
            if time.monotonic() + seconds > self._ends_at:
                return outcome
            about = {"worker": str(self._worker.name), "address": self._worker.address}
            cause = "its guardian was killed, and the call with it"
            event = {"op": "rerun", "key": key, **about, "job": self._job, "cause": cause}
            self._worker.loop.add_callback(self._worker.log_event, TOPIC, event | {"tries": tries})
        return self._guardian.run(call.fn, args, kwargs, call.limits, cancel=token)

    def cancel(self, key: Any) -> None:
        """End a task, if it is one of ours that runs."""
        if call := self._calls.get(key):
            call.cancel(self._gate)

    def give_back(self, key: Any) -> None:
        """Let the scheduler have a task back that has not begun. Called on the worker's loop."""
        task = self._tasks.get(key)
        if task is None:
            return
        if call := self._calls.get(key):
            if not call.ticket.entered:
                self._gate.leave(call.ticket)
        elif task.state in _NOT_BEGUN:
            stimulus_id = f"dask-limits-give-back-{time.time()}"
            if compat.free_key(self._worker, key, stimulus_id):
                self._send({"op": "reschedule", "key": key, "stimulus_id": stimulus_id})

    def runs_elsewhere(self, task: TaskState) -> None:
        """A task without limits, that is to be accounted for, begins in one of Dask's threads."""
        if self._is_placed:
            say_after = 0 if "limits-careful" in task.annotations else _SAY_AFTER_S
            self._worker.loop.call_later(say_after, self._say_runs, task, task.run_id)

    def _say_runs(self, task: TaskState, run_id: int) -> None:
        if task.state in _RUNS and task.run_id == run_id:
            self._send({"op": "dask-limits-begun", "key": task.key})

    def seceded(self, task: TaskState) -> None:
        """A task in a thread has left Dask's pool, and needs its cores no more."""
        if call := self._calls.get(task.key):
            self._gate.give_cores(call.ticket)
        if self._is_placed and "limits" in task.annotations:
            self._send({"op": "dask-limits-seceded", "key": task.key})

    def _say_begun(self, call: _Call) -> None:
        """Tell the scheduler that a call runs, if it does; otherwise look again later."""
        if self._calls.get(call.key) is not call:
            return
        if call.ticket.entered:
            self._send({"op": "dask-limits-begun", "key": call.key})
        else:
            self._worker.loop.call_later(_SAY_AFTER_S, self._say_begun, call)

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(CommClosedError):  # the worker is closing
            self._worker.batched_stream.send(message)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End what runs, and every process of ours."""
        for call in list(self._calls.values()):
            call.cancel(self._gate)
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        self._guardian.close()


@dataclass(eq=False)
class _Call:
    """A call that runs, or waits for its turn."""

    key: Hashable
    token: CancelToken
    ticket: Ticket
    refused: Exception | None = None

    def cancel(self, gate: Gate) -> None:
        self.token.cancel()
        if not self.ticket.entered:
            gate.leave(self.ticket)
