from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import itertools
import pickle
import sys
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import dask
import distributed
from distributed.comm import CommClosedError

from dask_limits.dask import (
    cluster_log,
    serialization,  # noqa: F401  # for outcomes
)
from dask_limits.dask.batch import (
    LEFT,
    TOLD_BYTES,
    BatchOutcome,
    call_name,
    numbers_left,
    opened_for_each,
    returned_or_raised,
    run_batch,
)
from dask_limits.dask.compat import worker as compat
from dask_limits.dask.compat.graphs import arguments_of, is_value
from dask_limits.dask.compat.joblib import failed_batch
from dask_limits.dask.nodes import JoblibBatch
from dask_limits.dask.progress_log import ProgressLog
from dask_limits.dask.reservations import annotation_error, request_of
from dask_limits.dask.topic import TOPIC
from dask_limits.dask.usage_log import UsageLog
from dask_limits.dask.worker.admission import AdmissionControl, Reservation
from dask_limits.dask.worker.batch_run import BatchRun
from dask_limits.dask.worker.careful import report_first
from dask_limits.dask.worker.ended import EndedHere
from dask_limits.dask.worker.error_messages import explain
from dask_limits.dask.worker.node_call import call_of, in_short
from dask_limits.dask.worker.relay import Relay
from dask_limits.dask.worker.running import RunningHere
from dask_limits.dask.worker.shown import Shown
from dask_limits.exceptions import CallCancelledError, CallError, GuardianLostError
from dask_limits.in_short import arguments_in_short
from dask_limits.limits import Limits, call_log
from dask_limits.limits.ipc import by_value
from dask_limits.limits.owner.guardian import Guardian
from dask_limits.limits.owner.preload import Preload
from dask_limits.limits.packed_outcome import PackedOutcome
from dask_limits.limits.shared import NotHereError
from dask_limits.placement.resources import WorkerResources

_REPORT_AFTER_S: Final = 0.1
"""How long a call runs before the scheduler is told that it has started. Until then the scheduler
assumes so; telling it at once would double the messages of calls that take a few ms. A batch that
runs as long starts no further call, and what has ended is told."""
_BEGUN_EVERY_S: Final = 0.02
"""How often the scheduler is told, until then, which call of a batch has begun last. It is to know
that if the worker is lost; telling it of each call would cost as much as the calls."""
_LATEST_REPORT_S: Final = 1.0
"""When a batch is reported although calls lie ready behind one that may take long. These come back
sooner, unless the machine is very busy; what comes back later waits here for that one to end."""


class LimitsExecutor(concurrent.futures.Executor):
    """Runs tasks of one Dask worker in task processes, under the limits in their annotations.

    The name of this class must not contain "ThreadPoolExecutor": Dask looks for that, and would
    call `submit` in another way.

    Attributes:
        is_placed: Whether the scheduler places calls. It is then told when they start.
        is_left: Whether its plugin has left it, and no other one has taken it over as yet.
        usage_log: What its tasks have used.
        progress_log: What calls of schedulers report, those without limits included.
        relay: By which its calls ask their drivers.
        running: What its calls have used so far.
        ended: How its calls have ended.
    """

    def __init__(
        self, worker: distributed.Worker, max_calls_per_process: int | None, preload: Preload
    ) -> None:
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        self._tasks = worker.state.tasks
        self._guardian = Guardian(max_calls_per_process, preload)
        # Dask submits no more tasks at a time than the worker has threads. Here they only wait.
        self._threads = ThreadPoolExecutor(worker.state.nthreads, thread_name_prefix="limits")
        self._executions: dict[Hashable, _Execution] = {}
        self.usage_log = UsageLog(worker)
        self.set_resources(WorkerResources(cores=worker.state.nthreads), "")
        self.is_placed = False
        self.is_left = False
        self.progress_log = ProgressLog(self._send_progress)
        self.relay = Relay(worker)
        self._shown = Shown(worker, self._guardian, lambda: self._admission)
        self.running = RunningHere(worker, self._guardian, self._executions, self._send)
        self.ended = EndedHere(str(worker.name), self._send)

    def preload(self, preload: Preload) -> None:
        """Have the calls that begin from now on run in processes that have done this."""
        if preload != self._guardian.preload:
            self._guardian.preload = preload

    def set_resources(self, resources: WorkerResources, job: str) -> None:
        """Set what all calls together may reserve, before the first one comes.

        `ends_at` is seconds from now. The batch job's id is empty if there is none.
        """
        self._size = WorkerResources(resources.memory, resources.cores)
        self._admission = AdmissionControl(resources.memory, resources.cores)
        self._job = self.usage_log.job = job
        worker, process = str(self._worker.name), call_log.this_process()
        name = cluster_log.worker_name(worker, self._worker.address, job)
        self._place = call_log.Place(name, process, worker, job)
        self._guardian.place = name
        # Half of the scheduler's margin: only calls that were delayed here are sent back.
        self._ends_at = time.monotonic() + resources.ends_at - resources.margin / 2

    def submit(self, fn: Callable[..., Any], /, *args: Any, **_: Any) -> Any:
        """Run one task. Called by Dask, with its own function that runs a task.

        That one calls the first of `args`, a node of the graph, with the second, the values that it
        depends on, and turns the outcome into what Dask keeps: value or error, times and sizes.
        """
        node, data, delay = args
        task = self._tasks[node.key]
        limits = task.annotations.get("limits", {})
        is_careful = "limits-careful" in task.annotations
        request = request_of(limits)
        reservation = self._admission.reserve(request, task.priority)
        batch = BatchRun(numbers_left(task.annotations), self._place)
        is_ours = getattr(node, "func", None) is run_batch
        execution = _Execution(node.key, batch, reservation, is_ours)
        self._executions[node.key] = execution
        # If the scheduler places calls, it has refused those already that this worker cannot hold.
        refused = annotation_error(call_name(node.key), limits, [self._size])
        # If it is not executing, it was cancelled between Dask's decision to run it and this call.
        # Dask has told us so already, and does not do so again.
        if refused is not None or task.state != "executing":
            execution.cancel(self._admission)
        if self.is_placed:
            self._loop.call_later(_REPORT_AFTER_S, self._report_start, execution)
            if len(batch.numbers) > 1:
                self._loop.call_later(_BEGUN_EVERY_S, self._report_begun, execution)

        def run_limited(data: dict[Any, Any]) -> Any:
            try:
                if refused is not None:
                    name, arguments = call_name(node.key), in_short(node, data)
                    call_log.refused_here(name, refused, arguments)
                    self.ended.refused(name, arguments, refused)
                    raise refused
                if not reservation.is_granted:
                    raise distributed.Reschedule
                if self.is_placed and time.monotonic() + request.seconds > self._ends_at:
                    raise distributed.Reschedule  # it was delayed, and has too little time left
                return self._run(node, data, Limits(**limits), batch)
            except KeyboardInterrupt as error:
                # The task raised it. Dask would take it for one of the worker, and run no more.
                name = call_name(node.key)
                raise RuntimeError(f"{name}() raised KeyboardInterrupt") from error

        def run_in_turn(run: Callable[[], Any]) -> Any:
            try:
                if reservation.wait() and is_careful:
                    report_first(self._loop, partial(self._report_start, execution))
                return run()
            finally:
                del self._executions[node.key]
                self._admission.release(reservation)

        if limits.get("isolation") == "thread":
            # Where Dask runs its own: in a thread that knows its worker and may secede.
            run = compat.thread_task(self._worker, run_limited, data, node.key, delay)
            return self._worker.executors["default"].submit(run_in_turn, run)
        return self._threads.submit(run_in_turn, lambda: fn(run_limited, data, delay))

    def _run(self, node: Any, data: dict[Any, Any], limits: Limits, batch: BatchRun) -> Any:
        if is_value(node):
            return node(data)  # this runs no code of a user: the value is there already
        if getattr(node, "func", None) is run_batch:
            return self._run_batch(node, data, limits, batch)
        fn, args, kwargs = call_of(node, data)
        is_joblibs = isinstance(fn, JoblibBatch)
        if isinstance(fn, JoblibBatch) and limits.isolation == "thread":
            fn = fn.function  # this process has a client, and other threads that use joblib
        (number,) = batch.numbers
        run = partial(self._guardian.run, fn, args, kwargs, limits, cancel=batch.tokens[number])
        with by_value.Receiving():  # in this thread, at isolation "thread"
            outcome = self._run_guarded(node.key, number, run, limits)
        failed = outcome.exception is not None
        arguments = arguments_in_short(args, kwargs) if failed else ""
        self.ended.add(call_name(node.key), arguments, outcome, limits)
        if isinstance(outcome.exception, CallCancelledError):
            raise _nobody_waits()
        self.usage_log.add(node.key, arguments, outcome, limits)
        if (error := outcome.exception) is None:
            return outcome.value
        if limits.isolation != "thread":
            error = explain(error)
        if is_joblibs:
            return failed_batch(error)
        if isinstance(error, CallError):
            # Of an error with a longer message Dask would send the message alone.
            longest = dask.config.get("distributed.admin.max-error-length")
            error.args = (str(error)[:longest],)
        raise error

    def _run_batch(
        self, node: Any, data: dict[Any, Any], limits: Limits, batch: BatchRun
    ) -> BatchOutcome:
        """Run the calls of a `Scheduler`, one after the other."""
        (packed, put_in), _ = arguments_of(node, data)  # type: ignore[misc]  # it is of our making
        try:
            put_in = opened_for_each(put_in)
        except NotHereError:
            return BatchOutcome({}, 0.0, lacks_shared=True)
        losses: Counter[int] = Counter()

        def runs_again(number: int, outcome: PackedOutcome[Any]) -> bool:
            losses[number] += 1
            if self._forgives(node.key, number, limits, outcome.exception, losses[number]):
                return True
            self.ended.add_packed(outcome, packed.arguments[number])
            return False

        def calls(number: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
            return packed.call(number), (put_in[number],)

        tell = partial(self.progress_log.add, node.key) if packed.tells else None
        with by_value.Receiving():  # in this thread, at isolation "thread"
            outcome = batch.run(calls, limits, self._guardian.steps, runs_again, tell)
        if batch.cancelled:
            raise _nobody_waits()
        if packed.tells:
            self.progress_log.send_soon()  # before the end is told
        outcome = returned_or_raised(packed, outcome)
        if self.is_placed and sys.getsizeof(outcome) <= TOLD_BYTES:
            self._tell_ended(node.key, outcome)
        return outcome

    def _tell_ended(self, key: Hashable, outcome: BatchOutcome) -> None:
        """Tell clients of the outcome of a task, which they need not fetch then."""
        ended = {"op": "dask-limits-started", "key": key, "left": [], "given_back": []}
        ended["outcome"] = pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)
        self._loop.call_soon_threadsafe(self._send, ended)

    def _run_guarded(
        self, key: Hashable, number: int, run: Callable[[], Any], limits: Limits
    ) -> Any:
        """Run a call; again, if that is forgiven."""
        for losses in itertools.count(1):
            outcome = run()
            if not self._forgives(key, number, limits, outcome.exception, losses):
                break
        return outcome

    def _forgives(
        self, key: Hashable, number: int, limits: Limits, error: BaseException | None, losses: int
    ) -> bool:
        """Whether a call runs again because its guardian was killed, as Dask forgives a worker."""
        if not isinstance(error, GuardianLostError):
            return False
        seconds = (limits.wall_time or 0) + limits.grace_period
        most = dask.config.get("distributed.scheduler.allowed-failures")
        if losses > most or time.monotonic() + seconds > self._ends_at:
            return False
        about = {"worker": str(self._worker.name), "address": self._worker.address}
        about |= {"process": call_log.this_process()}
        cause = "its guardian was killed, and the call with it"
        call_log.rerun_here(call_name(key), cause, losses + 1)
        event = {"op": "rerun", "key": key, "number": number, **about, "job": self._job}
        event |= {"cause": cause, "tries": losses}
        self._loop.call_soon_threadsafe(self._worker.log_event, TOPIC, event)
        return True

    def cancel(self, key: Any) -> None:
        """End a task, if it is one of ours that runs or waits to be admitted."""
        if execution := self._executions.get(key):
            execution.cancel(self._admission)

    def cancel_calls(self, key: Any, numbers: list[int]) -> None:
        """End some calls of a batch. Called on the worker's loop."""
        if execution := self._executions.get(key):
            execution.batch.cancel(numbers)
        elif (task := self._tasks.get(key)) is not None:  # it has not begun
            left = [n for n in numbers_left(task.annotations) if n not in numbers]
            task.annotations = {**task.annotations, LEFT: left}

    def give_back(self, key: Any) -> None:
        """Return a task that has not started to the scheduler. Called on the worker's loop."""
        task = self._tasks.get(key)
        if task is None:
            return
        if execution := self._executions.get(key):
            if not execution.reservation.is_granted:
                self._admission.release(execution.reservation)
        elif task.state in ("released", "waiting", "ready", "constrained"):
            stimulus_id = f"dask-limits-give-back-{time.time()}"
            if compat.free_key(self._worker, key, stimulus_id):
                self._send({"op": "reschedule", "key": key, "stimulus_id": stimulus_id})

    def runs_elsewhere(self, task: Any) -> None:
        """A call without limits, which the scheduler places too, starts in a thread of Dask's."""
        if self.is_placed:
            after = 0 if "limits-careful" in task.annotations else _REPORT_AFTER_S
            self._loop.call_later(after, self._report_thread, task, task.run_id)

    def _report_thread(self, task: Any, run_id: int) -> None:
        if task.state in ("executing", "long-running") and task.run_id == run_id:
            self._send({"op": "dask-limits-started", "key": task.key, "begun": 0})

    def seceded(self, task: Any) -> None:
        """A task in a thread has left Dask's pool, and needs its cores no more."""
        if execution := self._executions.get(task.key):
            self._admission.release_cores(execution.reservation)
        if self.is_placed and "limits" in task.annotations:
            self._send({"op": "dask-limits-seceded", "key": task.key})

    def _report_begun(self, execution: _Execution, before: int | None = None) -> None:
        """Tell the scheduler how far a batch has come, as long as this may change."""
        batch = execution.batch
        if self._executions.get(execution.key) is execution and len(batch.numbers) > 1:
            if (number := batch.last_begun) != before:
                self._send({"op": "dask-limits-begun", "key": execution.key, "number": number})
            self._loop.call_later(_BEGUN_EVERY_S, self._report_begun, execution, number)

    def _report_start(self, execution: _Execution) -> None:
        """Tell the scheduler that a call runs, if it does; otherwise look again later."""
        if self._executions.get(execution.key) is not execution:
            return
        batch = execution.batch
        if not execution.reservation.is_granted:
            self._loop.call_later(_REPORT_AFTER_S, self._report_start, execution)
        elif batch.may_get_some_back and batch.runs_for() < _LATEST_REPORT_S:
            self._loop.call_later(_BEGUN_EVERY_S, self._report_start, execution)
        else:
            self.progress_log.send()  # before the end of a call is told
            started: dict[str, Any] = {"op": "dask-limits-started", "key": execution.key}
            if execution.is_ours:
                started["begun"] = batch.numbers[0] if len(batch.numbers) == 1 else batch.last_begun
            self._send(started | batch.report())

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(CommClosedError):  # the worker is closing
            self._worker.batched_stream.send(message)

    def _send_progress(self, message: dict[str, Any]) -> None:
        if self.is_placed:  # else the scheduler may not know what to do with it
            self._send(message)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End what runs, and every process of ours."""
        for execution in list(self._executions.values()):
            execution.cancel(self._admission)
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        self._shown.stop()
        self._guardian.close()


@dataclass(eq=False)
class _Execution:
    """A task that runs on this worker, or waits to be admitted.

    One that `is_ours` has calls of an executor of ours, which is told that they have begun.
    """

    key: Hashable
    batch: BatchRun
    reservation: Reservation
    is_ours: bool

    def cancel(self, admission: AdmissionControl) -> None:
        self.batch.cancel()
        if not self.reservation.is_granted:
            admission.release(self.reservation)


def _nobody_waits() -> BaseException:
    """What ends a task that was cancelled. If someone has asked for it meanwhile, it runs again."""
    return distributed.Reschedule()  # type: ignore[no-any-return]
