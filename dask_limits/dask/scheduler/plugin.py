from __future__ import annotations

import logging
import math
import time
from collections import defaultdict
from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any, Final

import distributed

from dask_limits.batch_systems.current_job import BatchJob
from dask_limits.dask.batch import LEFT, TOPIC, numbers_left
from dask_limits.dask.compat import scheduler as compat
from dask_limits.dask.compat.dashboard import add_page
from dask_limits.dask.compat.worker import listen
from dask_limits.dask.metrics_page import Gauge, publish, withdraw
from dask_limits.dask.progress_log import TOPIC as PROGRESS
from dask_limits.dask.progress_log import Value
from dask_limits.dask.reservations import request_of
from dask_limits.dask.scheduler import patches
from dask_limits.dask.scheduler.channels import Channels
from dask_limits.dask.scheduler.cluster import Cluster, TrackedWorker, removal_of
from dask_limits.dask.scheduler.draining import drain_idle, drain_in_time, stop_timer
from dask_limits.dask.scheduler.gather_log import LOGGER, GatherLog
from dask_limits.dask.scheduler.losses import Losses
from dask_limits.dask.scheduler.page.watch import Watch
from dask_limits.dask.scheduler.refusals import Refusals
from dask_limits.dask.scheduler.running import RunningOnCluster
from dask_limits.dask.scheduler.tasks import is_ours, order_of, where_of
from dask_limits.placement.policy import Start
from dask_limits.placement.queue import WaitingCall
from dask_limits.placement.resources import WorkerResources

logger = logging.getLogger(__name__)

_SETTLE_S: Final = 1.0
"""How long to wait for more workers, after one has come, before calls that none can run are
refused."""


class LimitsSchedulerPlugin(distributed.SchedulerPlugin):  # type: ignore[misc]
    """Places limited calls on the workers of a Dask cluster, by what they reserve.

    `LimitsWorkerPlugin` brings it to the scheduler. It hears of tasks and workers, and has Dask act
    on what `dask_limits.placement` decides.
    """

    name = "dask-limits-scheduler"
    idempotent = True

    def start(self, scheduler: distributed.Scheduler) -> None:
        """Begin to place calls."""
        self._scheduler = scheduler
        self.cluster = Cluster(scheduler, self._place)
        self._placement = self.cluster.placement
        self._granted: dict[Hashable, str] = {}
        self._seen_running: set[Any] | None = None  # at the last look
        self._refusals = Refusals(self.cluster)
        self._gather_log = GatherLog(self.cluster)
        self._losses = Losses(self.cluster, self._gather_log, self._decide)
        self._channels = Channels(scheduler)
        self.running = RunningOnCluster(scheduler)
        self._watch = Watch(self.cluster, self.running)
        scheduler.handlers.update(
            self._channels.rpc_handlers | self.running.rpc_handlers,
            dask_limits_join=self._join,
            dask_limits_leave=self._leave,
            dask_limits_cancel_calls=self._cancel_calls,
            dask_limits_cores=self._cores,
        )
        started, seceded = self._call_started, self._call_seceded
        listen(scheduler, {"dask-limits-started": started, "dask-limits-seceded": seceded})
        listen(scheduler, {"dask-limits-begun": self._call_begun, PROGRESS: self._calls_get_on})
        listen(scheduler, self._channels.stream_handlers | self.running.stream_handlers)
        listen(scheduler, self.cluster.ended.stream_handlers)
        publish(self, self._gauges)
        self._remove_page = add_page(scheduler, "limits", self._fill_page)
        self._undo = patches.install(scheduler, self._decide)
        if self._undo is None:
            logger.warning(
                "This version of Dask does not let dask_limits choose workers. Each worker keeps"
                " limits, but Dask sends it calls without regard to free memory and cores there."
                " `dask-limits check` shows what is missing."
            )
            return
        LOGGER.addFilter(self._gather_log)
        for ts in [*scheduler.unrunnable, *scheduler.queued]:  # they came before this plugin
            if is_ours(ts):
                scheduler.transitions({ts.key: "released"}, f"dask-limits-start-{time.time()}")

    async def close(self) -> None:
        """Stop what runs in the background, when the scheduler closes."""
        self._stop()
        await self.cluster.stopped()

    def _stop(self) -> None:
        self.cluster.stop()
        withdraw(self)
        self._remove_page()
        LOGGER.removeFilter(self._gather_log)
        if self._undo is not None:
            self._undo()

    # -- workers ---------------------------------------------------------------------------

    def _join(self, worker: str, resources: Mapping[str, Any], job: Mapping[str, Any]) -> bool:
        """A worker reports what it has. Returns whether its calls are placed here."""
        state = self._scheduler.workers.get(worker)
        if state is None:
            return False
        self._channels.worker_came(worker)
        self.running.worker_came(worker)
        self.cluster.ended.worker_came(worker)
        if self._undo is None:
            return False
        reported = WorkerResources(**resources)
        here = replace(reported, ends_at=time.monotonic() + reported.ends_at)
        tracked = TrackedWorker(state, self._placement.add(worker, here), BatchJob(**job))
        self.cluster.add(tracked)
        self._seen_running = None
        drain_in_time(self.cluster, tracked)
        if tracked.job.job:
            self._refusals.new_worker_came(here)
        about = {"memory": here.memory, "cores": here.cores, "ends_in": reported.ends_at}
        self.cluster.log(tracked, "worker-added", **about)
        for ts in state.processing:  # Dask has sent them there before this plugin came
            if is_ours(ts) and self._placement.worker_of(ts.key) is None:
                self.cluster.ask_back(ts.key, worker)
        self.cluster.later("review", _SETTLE_S, self._refusals.review)
        self.cluster.place_soon()
        return True

    def _remove(self, worker: str) -> TrackedWorker | None:
        self._channels.worker_left(worker)
        self.running.worker_left(worker)
        self.cluster.ended.worker_left(worker)
        self._placement.remove(worker)
        stop_timer(self.cluster, worker)
        return self.cluster.remove(worker)

    def _leave(self, worker: str) -> None:
        """A worker's plugin is removed; the worker stays."""
        self._remove(worker)
        if not self.cluster.workers:  # no calls can be placed any more, so Dask places them again
            self._stop()
            self._scheduler.remove_plugin(self.name)
            held = filter(self.cluster.is_waiting, self._losses.held)
            waiting = dict.fromkeys([*self._placement.waiting, *held], "processing")
            self._scheduler.transitions(waiting, f"dask-limits-leave-{time.time()}")

    def remove_worker(
        self, scheduler: distributed.Scheduler, worker: str, *, stimulus_id: str, **_: Any
    ) -> None:
        """A worker has left, and Dask has taken its tasks back."""
        if (tracked := self._remove(worker)) is None:
            return
        removal = removal_of(scheduler, worker)
        resources = tracked.placed.resources
        if not removal.get("expected") and resources.ends_at == math.inf:
            self._refusals.may_come_back(resources)
        self.cluster.place_soon()
        self._losses.worker_left(tracked, removal)

    def remove_client(self, scheduler: distributed.Scheduler, client: str) -> None:
        """A client has left, or was lost."""
        self._channels.client_left(client)

    def _cores(self) -> int:
        """How many calls can run at a time; 0 if they are not placed here."""
        if self._undo is None:
            return 0
        there = [one for one in self.cluster.workers.values() if not one.leaves_because]
        return int(sum(worker.placed.resources.cores for worker in there))

    def _gauges(self) -> list[Gauge]:
        """What `/metrics` shows of the cluster."""
        there = [worker.placed for worker in self.cluster.workers.values()]
        reserved = sum(one.memory for one in there)
        of = "of all workers, for limited calls."
        return [
            Gauge("dask_limits_cluster_workers", "Workers for limited calls.", len(there)),
            Gauge(
                "dask_limits_cluster_waiting_tasks",
                "Tasks with limits that wait for room.",
                len(self._placement.waiting),
            ),
            Gauge("dask_limits_cluster_reserved_memory_bytes", f"Reserved memory {of}", reserved),
            Gauge(
                "dask_limits_cluster_free_memory_bytes",
                f"Memory that is not reserved {of}",
                sum(one.resources.memory for one in there) - reserved,
            ),
        ]

    def _fill_page(self, document: Any) -> None:
        """Make the page `/limits` of the dashboard, for someone who opens it."""
        from dask_limits.dask.scheduler.page.document import fill  # with bokeh, which is there then

        fill(document, self._watch)

    # -- tasks -----------------------------------------------------------------------------

    def update_graph(
        self, scheduler: distributed.Scheduler, *, tasks: list[Hashable], **_: Any
    ) -> None:
        """Refuse new tasks that can run nowhere, before what they depend on has run."""
        for key in tasks:
            ts = scheduler.tasks.get(key)
            if ts is not None and is_ours(ts) and ts.state == "released":
                self._refusals.refuse_if_too_large(ts)

    def _decide(self, ts: Any) -> Any:
        """The worker that a task goes to, asked by Dask; None to let it wait."""
        address = self._granted.get(ts.key)
        if address is not None:
            compat.forgive(ts)  # we count losses: Dask counts those of tasks that only waited too
            return self._scheduler.workers.get(address)
        if (
            ts.key not in self._placement.waiting
            and ts.key not in self._losses.held
            and not self._refusals.refuse_if_too_large(ts)
        ):
            request = request_of(ts.annotations["limits"])
            call = WaitingCall(ts.key, request, order_of(ts, request), where_of(ts))
            self._placement.enqueue(call)
            self.cluster.note_function(ts)
        self.cluster.place_soon()
        return None

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Keep account of what runs where."""
        if start == "processing" and finish != "processing":
            worker = self._placement.worker_of(key)
            if worker is not None:
                self._losses.call_left(key, worker)
                self._placement.finish(key, time.monotonic())
                self.cluster.place_soon()
        elif start == "no-worker" and finish not in ("no-worker", "processing"):
            self._placement.dequeue(key)
        if finish in ("memory", "erred", "forgotten"):
            self._losses.call_ended(key)
            self._refusals.forget(key)
            if finish == "forgotten":
                ts = self._scheduler.tasks.get(key)
                if ts is not None and is_ours(ts):
                    self._gather_log.leave_out(key)
        elif finish == "no-worker":
            ts = self._scheduler.tasks[key]
            if is_ours(ts) and self._scheduler.running:
                # It waits for memory or cores. Dask's time-out is for tasks that wait for workers.
                compat.wait_without_timeout(self._scheduler, ts)

    def _call_started(
        self, key: Hashable, worker: str, left: list[int] | None = None, **report: Any
    ) -> None:
        """A worker reports that a task runs; of a batch, what is left of it. Clients are told."""
        if self._placement.worker_of(key) != worker:
            return
        ts = self._scheduler.tasks[key]
        if left is None:
            self._losses.call_started(key)
        else:
            self._losses.batch_started(key)
            ts.annotations = {**ts.annotations, LEFT: left}
        if report:  # it is a task of an executor of ours, whose client listens
            compat.tell_clients(self._scheduler, ts, TOPIC, {"key": key, **report})

    def _call_begun(self, key: Hashable, worker: str, number: int) -> None:
        """A worker reports which call of a batch has begun last."""
        if self._placement.worker_of(key) == worker:
            self._losses.call_begun(key, number)

    def _calls_get_on(self, worker: str, values: list[Value]) -> None:
        """A worker reports how far calls are. The clients that want their tasks are told."""
        told: defaultdict[str, list[Value]] = defaultdict(list)
        for value in values:
            ts = self._scheduler.tasks.get(value[0])
            at = None if ts is None else ts.processing_on
            if at is not None and at.address == worker:  # else it has ended, or runs elsewhere
                for client in ts.who_wants or ():
                    told[client.client_key].append(value)
        for client, its in told.items():
            compat.tell_client(self._scheduler, client, PROGRESS, its)

    def _cancel_calls(self, key: Hashable, numbers: list[int]) -> bool:
        """A client wants some calls of a batch no more. False if the batch has not come yet."""
        if (ts := self._scheduler.tasks.get(key)) is None:
            return False
        left = [number for number in numbers_left(ts.annotations) if number not in numbers]
        ts.annotations = {**ts.annotations, LEFT: left}
        if ts.processing_on is not None:
            cancel = {"op": "dask-limits-cancel-calls", "key": key, "numbers": numbers}
            self._scheduler.worker_send(ts.processing_on.address, cancel)
        return True

    def _call_seceded(self, key: Hashable, worker: str) -> None:
        if self._placement.worker_of(key) == worker:
            self._placement.release_cores(key)
            self.cluster.place_soon()

    # -- placing ---------------------------------------------------------------------------

    def _place(self) -> None:
        """Place what can be placed."""
        self._refusals.fail_refused()
        self._look_at_running()
        now = time.monotonic()
        starts: list[Start] = []
        try:
            starts.extend(self._placement.place(now))
        except Exception:  # those before it are placed, and must not be forgotten
            logger.exception("dask_limits could not place some waiting calls")
        if starts:
            self._start(starts)
        for start in self._placement.recall(now):
            self.cluster.ask_back(start.key, start.worker)
        if self._placement.has_prefetched():
            self.cluster.later("recall", 0.1, self.cluster.place_soon)
        if self.cluster.new_worker is not None:  # else nobody would replace them
            drain_idle(self.cluster, now)

    def _look_at_running(self) -> None:
        """Place no calls on workers that are paused, or about to leave."""
        running = self._scheduler.running
        if running == self._seen_running:  # comparing a thousand takes some us
            return
        self._seen_running = set(running)
        for address, worker in self.cluster.workers.items():
            state = self._scheduler.workers.get(address)
            is_running = state is not None and state in running
            self._placement.set_open(address, is_running and not worker.leaves_because)

    def _start(self, starts: list[Start]) -> None:
        """Have Dask send tasks to the workers that they go to."""
        self._granted = {start.key: start.worker for start in starts}
        # Dask takes them from the end.
        wanted = {start.key: "processing" for start in reversed(starts)}
        self._scheduler.transitions(wanted, f"dask-limits-{time.time()}")
        for key in self._granted:
            ts = self._scheduler.tasks.get(key)
            if ts is None or ts.state != "processing":
                self._placement.finish(key)
        self._granted = {}


def plugin_of(scheduler: distributed.Scheduler) -> LimitsSchedulerPlugin:
    """The plugin of a scheduler in this process, added if it is not there yet.

    This is for clusters whose workers, which would bring it, are yet to come. Call it on the
    scheduler's loop.
    """
    plugin = compat.plugin_of(scheduler, LimitsSchedulerPlugin.name)
    if not isinstance(plugin, LimitsSchedulerPlugin):
        plugin = LimitsSchedulerPlugin()
        plugin.start(scheduler)
        scheduler.add_plugin(plugin, name=plugin.name)
    return plugin
