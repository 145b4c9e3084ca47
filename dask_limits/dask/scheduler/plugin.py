from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Container, Coroutine, Hashable
from typing import Any, Final

import cloudpickle
import distributed
from distributed import Status

from dask_limits.dask.compat import scheduler as compat
from dask_limits.dask.compat.graphs import function_name
from dask_limits.dask.compat.worker import answer, listen
from dask_limits.dask.reservations import margin, refused, request_of
from dask_limits.dask.scheduler import patches
from dask_limits.dask.scheduler.draining import leave_in_time
from dask_limits.dask.scheduler.losses import Loss, Losses, cause_of_loss, had_begun
from dask_limits.dask.scheduler.tasks import addresses, is_ours, order_of, where_of
from dask_limits.dask.scheduler.workers import Capacity, Member, removal_of
from dask_limits.dask.topic import TOPIC
from dask_limits.placement.policy import Placement, Start
from dask_limits.placement.queue import Call
from dask_limits.placement.resources import Room, refusal

logger = logging.getLogger(__name__)

_QUICK_S: Final = 0.25
"""Calls that take less, on average, are sent to a busy worker ahead of their turn: the way there
takes some 10 ms, in which it would be idle."""
_SETTLE_S: Final = 1.0
"""After a worker has come, how long to wait for others before what none can grant is refused."""
_BACK_S: Final = 30.0
"""For how long a worker that was lost may come back, restarted by its nanny."""
_IDLE_S: Final = 5.0
"""How long a worker is idle, with too little time left for all that waits, before it goes."""


class LimitsSchedulerPlugin(distributed.SchedulerPlugin):  # type: ignore[misc]
    """Places limited calls on the workers of a Dask cluster, by what they reserve.

    `LimitsWorkerPlugin` brings it to the scheduler. What it decides is in
    [placement][dask_limits.placement.policy]; here it hears of tasks and workers, and has Dask act.

    Attributes:
        capacity: What is to be had from a queue, set by a cluster in the same process. With None,
            the default, what no present worker can grant is refused.
    """

    name = "dask-limits-scheduler"
    idempotent = True

    capacity: Capacity | None = None

    # -- coming and going of the plugin itself ---------------------------------------------

    def start(self, scheduler: distributed.Scheduler) -> None:
        """Begin to place calls."""
        self._scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._placement = Placement(self._allowed, self._cost, self._is_quick)
        self._losses = Losses(compat.allowed_failures(scheduler))
        self._members: dict[str, Member] = {}
        self._gone: list[tuple[float, Room]] = []
        self._begun: set[Hashable] = set()
        self._granted: dict[Hashable, str] = {}
        self._refused: dict[Hashable, Exception] = {}
        self._held: dict[Hashable, bool] = {}  # until they are told of; whether they end then
        self._lost: dict[str, list[tuple[Hashable, bool, bool]]] = {}
        self._is_due = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._background: set[asyncio.Task[None]] = set()  # asyncio holds them weakly
        answer(scheduler, {"dask_limits_join": self._join, "dask_limits_leave": self._leave})
        listen(
            scheduler,
            {"dask-limits-begun": self._has_begun, "dask-limits-seceded": self._has_seceded},
        )
        self._undo = patches.install(scheduler, is_ours, self._decide)
        if self._undo is None:
            logger.warning(
                "This version of Dask does not let dask_limits choose workers. Each worker keeps"
                " limits, but Dask sends it calls without regard to free memory and cores there."
                " `dask-limits check` shows what is missing."
            )
            return
        for ts in [*scheduler.unrunnable, *scheduler.queued]:  # of before this plugin was here
            if is_ours(ts):
                scheduler.transitions({ts.key: "released"}, f"dask-limits-start-{time.time()}")

    async def close(self) -> None:
        """Stop what runs in the background, at the end of the scheduler."""
        self._stop()
        # They may have to end a command that they wait for.
        await asyncio.gather(*self._background, return_exceptions=True)

    def _stop(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        for task in list(self._background):
            task.cancel()
        if self._undo is not None:
            self._undo()

    # -- workers ---------------------------------------------------------------------------

    def _join(self, worker: str, introduction: dict[str, Any]) -> bool:
        """A worker tells what it has. Returns whether calls are placed."""
        state = self._scheduler.workers.get(worker)
        if state is None or self._undo is None:
            return False
        member = self._members[worker] = Member(state, str(state.name), worker, **introduction)
        room = Room(math.inf if member.memory is None else member.memory, member.cores)
        if member.ends_in is not None:
            room.length = max(member.ends_in + member.age, 0)
            room.margin = margin(room.length)
            room.ends_at = time.monotonic() + member.ends_in
            left = room.ends_at - room.margin - time.monotonic()
            self._later(f"end-{worker}", left, lambda: self._retire(member, "its time is up"))
        if self.capacity is not None and member.job:
            self.capacity = self.capacity.after(member)
        self._placement.add(worker, room)
        about = {"memory": member.memory, "cores": member.cores, "ends_in": member.ends_in}
        self._log(member.event("worker-added", **about))
        for ts in state.processing:  # what Dask has sent there before this plugin was here
            if is_ours(ts) and self._placement.worker_of(ts.key) is None:
                self._ask_back(ts.key, worker)
        self._later("review", _SETTLE_S, self._review)
        self._soon()
        return True

    def _leave(self, worker: str) -> None:
        """A worker's plugin is taken away; the worker stays."""
        self._placement.remove(worker)
        self._members.pop(worker, None)
        self._cancel_timer(f"end-{worker}")
        if not self._members:  # nobody to place calls on: all is as if we had never been here
            self._stop()
            self._scheduler.remove_plugin(self.name)
            held = [key for key in self._held if self._waits(key)]
            waiting = dict.fromkeys([*self._placement.waiting, *held], "processing")
            self._scheduler.transitions(waiting, f"dask-limits-leave-{time.time()}")

    def remove_worker(
        self, scheduler: distributed.Scheduler, worker: str, *, stimulus_id: str, **_: Any
    ) -> None:
        """A worker has gone, and Dask has moved its tasks on."""
        member = self._members.pop(worker, None)
        lost = self._lost.pop(worker, [])
        room = self._placement.room(worker)
        self._placement.remove(worker)
        self._cancel_timer(f"end-{worker}")
        if member is None:
            return
        removal = removal_of(scheduler, worker)
        was_expected = bool(removal.get("expected"))
        if room is not None and not was_expected and member.ends_in is None:
            self._gone.append((time.monotonic() + _BACK_S, room))
        self._soon()
        rerun = []
        for key, ran, was_blamed in lost:
            ts = scheduler.tasks.get(key)
            if ts is None or ts.state in ("memory", "erred", "forgotten"):
                continue
            if not ran:
                if was_blamed:  # had it begun after all, the next worker is to say so in time
                    ts.annotations = {**ts.annotations, "limits-careful": True}
                continue
            counts = not was_expected or member.time_is_up
            # Not to be placed before its client has heard of it, or it may be done before that.
            self._held[key] = counts and self._losses.count(key)
            self._placement.leave(key)
            rerun.append((key, counts))
        for key in removal.get("lost-computed-tasks", ()):
            # Done, and not fetched yet: such a one runs again, but the worker is to blame for that.
            ts = scheduler.tasks.get(key)
            if ts is not None and is_ours(ts) and ts.state in ("waiting", "no-worker"):
                self._held[key] = False
                self._placement.leave(key)
                rerun.append((key, False))
        self._in_background(self._tell_of_loss(member, was_expected, rerun))

    async def _tell_of_loss(
        self, member: Member, was_expected: bool, rerun: list[tuple[Hashable, bool]]
    ) -> None:
        """Find out why a worker has gone, and say so of it and of all calls that it ran."""
        cause = member.cause
        if member.time_is_up:
            cause = f"the time of its job {member.job} was up" if member.job else cause
        elif was_expected:
            cause = cause or "it was retired"
        else:
            try:
                cause = await cause_of_loss(member.system, member.job)
            except Exception as why:  # what is held here must go on, whatever is wrong
                logger.exception("dask_limits could not find out why a worker was lost")
                cause = f"its process ended, or the connection to it broke ({why!r})"
        self._log(member.event("worker-removed", reason=cause))
        for key, counts in rerun:
            if counts:
                self._losses.explain(key, Loss(member.name, member.job, cause))
            ends = self._held.pop(key, False)
            if not ends and key in self._scheduler.tasks:
                tries = self._losses.tries(key)
                self._log(member.event("rerun", key=key, cause=cause, tries=tries))
            if ends:  # though it may wait for what it depends on, which was lost with the worker
                self._err({key: self._losses.error(key, function_name(key))})
            elif self._waits(key):
                self._decide(self._scheduler.tasks[key])

    def _retire(self, member: Member, why: str) -> None:
        """Let a worker take no more calls, and go when those that it has are done."""
        room = self._placement.room(member.address)
        if room is None or member.cause:
            return
        member.cause = why
        self._placement.set_open(member.address, False)
        self._log(member.event("worker-retiring", reason=why))
        for key in self._placement.calls_at(member.address):
            if self._placement.is_ahead(key):
                self._ask_back(key, member.address)
        self._soon()

        async def retire() -> None:
            def is_busy() -> bool:
                return any(
                    not self._placement.is_ahead(key)
                    for key in self._placement.calls_at(member.address)
                )

            def time_is_up() -> None:
                member.time_is_up = True

            await leave_in_time(self._scheduler, member.address, room, is_busy, time_is_up)

        self._in_background(retire())

    # -- tasks -----------------------------------------------------------------------------

    def update_graph(
        self, scheduler: distributed.Scheduler, *, tasks: list[Hashable], **_: Any
    ) -> None:
        """Refuse at once, of what has just come, what can run nowhere."""
        for key in tasks:
            ts = scheduler.tasks.get(key)
            if ts is not None and is_ours(ts) and ts.state == "released":
                self._refuse_if_too_large(ts)

    def _decide(self, ts: Any) -> Any:
        """The worker that a task goes to, asked by Dask; None to let it wait."""
        address = self._granted.get(ts.key)
        if address is not None:
            compat.forgive(ts)  # Dask counts losses of tasks that only waited too: we count ours
            return self._scheduler.workers.get(address)
        if (
            ts.key not in self._placement.waiting
            and ts.key not in self._held
            and not self._refuse_if_too_large(ts)
        ):
            request = request_of(ts.annotations.get("limits", {}))
            self._placement.wait(Call(ts.key, request, order_of(ts, request), where_of(ts)))
        self._soon()
        return None

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        """Keep account of what runs where."""
        if start == "processing" and finish != "processing":
            worker = self._placement.worker_of(key)
            if worker is not None:
                if worker not in self._scheduler.workers:
                    self._note_loss(key, worker)
                self._begun.discard(key)
                self._placement.finish(key, time.monotonic())
                self._soon()
        elif start == "no-worker" and finish not in ("no-worker", "processing"):
            self._placement.leave(key)
        if finish in ("memory", "erred", "forgotten"):
            self._losses.forget(key)
            self._refused.pop(key, None)
        elif finish == "no-worker":
            ts = self._scheduler.tasks[key]
            if is_ours(ts) and self._scheduler.running:
                # It waits for room, not for a worker: Dask's time-out is not for that.
                compat.wait_without_timeout(self._scheduler, ts)

    def _note_loss(self, key: Hashable, worker: str) -> None:
        since = self._placement.since(key)
        heard = self._members[worker].state.last_seen - time.time() + time.monotonic()
        ran = had_begun(key in self._begun, since, heard)
        self._lost.setdefault(worker, []).append((key, ran, since is not None))

    def _has_begun(self, key: Hashable, worker: str) -> None:
        if self._placement.worker_of(key) == worker:
            self._begun.add(key)

    def _has_seceded(self, key: Hashable, worker: str) -> None:
        if self._placement.worker_of(key) == worker:
            self._placement.give_cores(key)
            self._soon()

    # -- placing ---------------------------------------------------------------------------

    def _soon(self) -> None:
        """Place what can be placed, once Dask is through with what it is doing."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._place)

    def _place(self) -> None:
        self._is_due = False
        scheduler = self._scheduler
        if self._refused:
            refused, self._refused = self._refused, {}
            self._err(refused)
        for address in self._members:
            state = scheduler.workers.get(address)
            self._placement.set_open(
                address,
                state is not None
                and state in scheduler.running
                and not self._members[address].cause,
            )
        now = time.monotonic()
        starts: list[Start] = []
        try:
            starts.extend(self._placement.place(now))
        except Exception:  # those before it are placed, and must not be forgotten
            logger.exception("dask_limits could not place some of the calls that wait")
        if starts:
            self._granted = {start.key: start.worker for start in starts}
            # Dask takes them from the end.
            wanted = {start.key: "processing" for start in reversed(starts)}
            scheduler.transitions(wanted, f"dask-limits-{time.time()}")
            for key in self._granted:
                ts = scheduler.tasks.get(key)
                if ts is None or ts.state != "processing":
                    self._placement.finish(key)
            self._granted = {}
        for start in self._placement.recall(now):
            self._ask_back(start.key, start.worker)
        if self._placement.has_ahead():
            self._later("recall", 0.1, self._soon)
        self._send_idle_away(now)

    def _send_idle_away(self, now: float) -> None:
        """Retire workers that are idle only because what waits needs more time than they have."""
        if self.capacity is None or not self._placement.waiting:
            return  # nobody would replace them
        for address, member in self._members.items():
            state = self._scheduler.workers.get(address)
            if state is None or state.processing or not self._placement.is_too_late(address, now):
                member.idle_since = None
            elif member.idle_since is None:
                member.idle_since = now
                self._later(f"idle-{address}", _IDLE_S, self._soon)
            elif now >= member.idle_since + 0.9 * _IDLE_S:
                self._retire(member, "it has too little time left for the calls that wait")

    def _ask_back(self, key: Hashable, worker: str) -> None:
        """Have a worker give back a call that it has not begun; it then waits here again."""
        self._scheduler.worker_send(worker, {"op": "dask-limits-give-back", "key": key})

    def _allowed(self, where: Hashable) -> Container[str] | None:
        return addresses(self._scheduler, where)

    def _cost(self, key: Hashable, worker: str) -> float:
        """Seconds until a call could begin on a worker, as far as Dask's own tasks matter."""
        ts, state = self._scheduler.tasks[key], self._scheduler.workers[worker]
        others = len(state.processing) - len(self._placement.calls_at(worker))
        cost = 0.5 * max(others, 0) / state.nthreads
        if ts.dependencies:
            cost += self._scheduler.get_comm_cost(ts, state)
        return float(cost)

    def _is_quick(self, key: Hashable) -> bool:
        ts = self._scheduler.tasks.get(key)
        return ts is not None and 0 <= ts.prefix.duration_average < _QUICK_S

    # -- refusing --------------------------------------------------------------------------

    def _refuse_if_too_large(self, ts: Any) -> bool:
        limits = ts.annotations.get("limits", {})
        why = refusal(request_of(limits), self._rooms_for(where_of(ts)))
        if why is None:
            return False
        self._refused[ts.key] = refused(function_name(ts.key), limits, why)
        self._soon()
        return True

    def _rooms_for(self, where: Hashable) -> list[Room]:
        """What is there, or may come, for such calls; nothing if that cannot be said."""
        workers = self._scheduler.workers
        if not workers and self.capacity is None:
            return []
        if len(self._members) < len(workers):
            return []  # some have yet to say what they have
        allowed = self._allowed(where)
        rooms = self._placement.rooms()
        if allowed:
            return [room for address, room in rooms.items() if address in allowed]
        now = time.monotonic()
        self._gone = [(until, room) for until, room in self._gone if until > now]
        to_be_had = [self.capacity.room()] if self.capacity is not None else []
        return [*rooms.values(), *to_be_had, *(room for _, room in self._gone)]

    def _review(self) -> None:
        """Refuse what waits, and cannot be granted by the workers that have come."""
        for key in list(self._placement.waiting):
            if self._refuse_if_too_large(self._scheduler.tasks[key]):
                self._placement.leave(key)

    def _err(self, errors: dict[Hashable, Exception]) -> None:
        """End tasks that wait, in whichever state, with an error each."""
        ended = {}
        for key, error in errors.items():
            ts = self._scheduler.tasks.get(key)
            if ts is None or ts.state not in ("released", "waiting", "no-worker"):
                continue
            ts.exception, ts.exception_text = cloudpickle.dumps(error), repr(error)
            ts.exception_blame = ts
            ended[key] = "erred"
        self._scheduler.transitions(ended, f"dask-limits-error-{time.time()}")

    # -- small things ----------------------------------------------------------------------

    def _waits(self, key: Hashable) -> bool:
        """Whether a task is one that Dask could send to a worker now, if we let it."""
        ts = self._scheduler.tasks.get(key)
        return ts is not None and ts.state == "no-worker"

    def _log(self, event: dict[str, Any]) -> None:
        self._scheduler.log_event(TOPIC, event)

    def _later(self, name: str, seconds: float, do: Any) -> None:
        """Do something after some time; what has the same name, and is not done, stays as it is."""

        def run() -> None:
            del self._timers[name]
            do()

        if name not in self._timers:
            self._timers[name] = self._loop.call_later(max(seconds, 0), run)

    def _cancel_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        if self._scheduler.status in (Status.closing, Status.closed):
            work.close()
            return
        task = self._loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def bring(scheduler: distributed.Scheduler) -> LimitsSchedulerPlugin:
    """The plugin of a scheduler in this process; to be called on its loop.

    For clusters whose workers are yet to come, which will bring it if it is not there.
    """
    plugin = compat.plugin_of(scheduler, LimitsSchedulerPlugin.name)
    if not isinstance(plugin, LimitsSchedulerPlugin):
        plugin = LimitsSchedulerPlugin()
        plugin.start(scheduler)
        scheduler.add_plugin(plugin, name=plugin.name)
    return plugin
