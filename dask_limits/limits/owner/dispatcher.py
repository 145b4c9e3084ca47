"""Takes the steps of many calls in one thread, so that none of them costs a thread of its own."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from dask_limits.limits.ipc import messages
from dask_limits.limits.owner import reserving
from dask_limits.limits.owner.account import LOOK_S, account_here
from dask_limits.limits.owner.group import Group
from dask_limits.limits.owner.heartbeat import INTERVAL_S
from dask_limits.limits.owner.job import Job, Running
from dask_limits.limits.owner.kinds import Kinds
from dask_limits.limits.owner.lines import Lines
from dask_limits.limits.owner.progress_watch import LOOK_EVERY_S
from dask_limits.limits.owner.ready_files import ReadyFiles
from dask_limits.limits.owner.reservation import Reservation, Slots, numbers
from dask_limits.limits.owner.steps import PAUSE_S, Steps, drive

_LOOK_EVERY_S: Final = 0.01
"""How often, at least, to have a look taken at what this process has changed."""
_MOST_BEGINNINGS: Final = 1000
"""Calls that begin, or are put into line, at one time. It takes some us to put one into line."""


class Dispatcher:
    """Runs calls, at most so many groups at a time, in one thread.

    The thread is there as long as there are calls, and a program does not end before. Calls of a
    kind that has taken little time share a process, and the way there.

    `steps` are those of a group. `begin_moment` is called before calls begin that were added since
    it was last called. A call that reserves something begins when that is free, and those behind it
    that reserve less, or nothing, do not wait for it.
    """

    def __init__(
        self,
        most: int,
        steps: Callable[[Group[Job]], Steps[None]],
        begin_moment: Callable[[], object],
    ) -> None:
        self._most = most
        self._steps = steps
        self._begin_moment = begin_moment
        self._reset()
        _dispatchers.add(self)

    def _reset(self) -> None:
        """Begin without calls; in a fork of this process too, where those are its parent's."""
        self._threads = self._new_threads()
        self._own_threads: set[int] = set()  # their numbers, while they work
        self._lock = threading.RLock()  # not Lock: a signal's handler may find it held
        self._is_asked = False  # whether the thread of the dispatcher is there, or about to be
        self._is_working = self._is_closed = False
        self._is_idle = threading.Event()
        self._added: deque[Job] = deque()
        self._ended: deque[Job] = deque()
        self._done_elsewhere: deque[Running] = deque()
        self._slots = Slots(self._most)  # of groups that may begin
        self._is_asleep = False
        self._next_nudge = 0.0  # seconds of time.monotonic()
        # Of the dispatcher's thread alone:
        self._waiting: deque[Job] = deque()
        self._lines = Lines[Job](account_here(), self._slots, self._wake)
        self._unseen = 0  # so many of them, the last ones, were added after the last moment
        self._next_moment = 0.0  # seconds of time.perf_counter()
        self._kinds = Kinds()
        self._running: dict[Running, None] = {}
        self._elsewhere: set[Running] = set()  # those of them that have threads of their own
        self._pausing: list[Running] = []
        self._clock = 0.0  # seconds of time.perf_counter(), at the end of the last step
        self._files = ReadyFiles[Running]()

    def _new_threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._most + 1, thread_name_prefix="dask-limits")

    def add(self, job: Job) -> None:
        """Run a call as soon as there is room, after those that were added before.

        Raises:
            RuntimeError: after `shutdown()`.
        """
        if self._is_closed:
            raise RuntimeError("calls cannot be added after shutdown()")
        job.ended = self._ended
        job.order = next(numbers)
        self._added.append(job)
        with self._lock:
            if not self._is_asked:
                self._start(job)
        if self._has_room:
            self._wake()

    def _start(self, job: Job) -> None:
        """Start the thread. A signal's handler may have done so meanwhile: one of two works."""
        self._is_asked = True
        try:
            self._run_in_thread(self._run)
        except BaseException:
            self._is_asked = self._is_working
            with contextlib.suppress(ValueError):
                self._added.remove(job)
            raise

    def _run_in_thread(self, fn: Callable[..., object], *args: Any) -> None:
        """Run something in a thread. A `RuntimeError` if there is no room for one."""
        try:
            self._threads.submit(fn, *args)
        except BaseException:
            # It has kept this, and counts the thread that it could not start.
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = self._new_threads()
            raise

    def nudge(self) -> None:
        """Have each call take a step: it was told something by other ways than by a file."""
        self._next_nudge = 0.0
        self._wake()

    @property
    def is_this_thread(self) -> bool:
        """Whether this is one of its threads: of a done-callback, for example."""
        return threading.get_ident() in self._own_threads

    def shutdown(self) -> None:
        """Wait until there are no calls, and take no more. Not in a thread of its own."""
        while self._is_asked:
            self._is_idle.wait(INTERVAL_S)
        self._threads.shutdown()
        with self._lock:
            self._is_closed = True
            self._files.close()

    @property
    def _has_room(self) -> bool:
        """Whether a call can begin now. If not, one that is added is found when others end."""
        return bool(self._slots.free)

    def _wake(self) -> None:
        if not self._is_asleep:
            return
        with self._lock:
            if self._is_asleep and not self._is_closed:
                self._is_asleep = False
                self._files.ring()

    def _run(self) -> None:
        with self._lock:
            if self._is_working:
                return
            self._is_working = True
            self._is_idle.clear()
        self._be_own_thread(True)
        while self._goes_on():
            try:
                self._pass()
            except BaseException as error:  # no call may wait for ever, whatever is wrong here
                self._fail_all(error)

    def _goes_on(self) -> bool:
        """Whether there are calls. If not, the thread has no more work."""
        with self._lock:
            if self._running or self._waiting or self._added or self._lines:
                return True
            self._is_working = self._is_asked = False
            if self._added:  # by a finalizer, which has found a thread that was about to end
                self._is_working = self._is_asked = True
                return True
            self._be_own_thread(False)
            self._is_idle.set()
            return False

    def _be_own_thread(self, is_one: bool) -> None:
        """Note that this thread is one of the dispatcher, or is not any more."""
        for threads in (self._own_threads, reserving.needed):
            (threads.add if is_one else threads.discard)(threading.get_ident())

    def _fail_all(self, error: BaseException) -> None:
        """Fail all calls but those that have threads of their own."""
        here = [running for running in self._running if running not in self._elsewhere]
        jobs = [job for running in here for job in running.group.calls]
        for running in here:
            self._end(running)
            with contextlib.suppress(BaseException):
                running.steps.close()
        self._files.forget_all()
        self._pausing.clear()
        for waiting in (self._waiting, self._added):
            while waiting:
                jobs.append(waiting.popleft())
        self._fail([*jobs, *self._lines.take_all()], error)
        self._tell()

    def _pass(self) -> None:
        """Wait for something, and take all steps that can be taken."""
        ready = self._wait()
        self._clock = time.perf_counter()
        while self._added:
            self._waiting.append(self._added.popleft())
            self._unseen += 1
        for running in ready:
            if running in self._running:
                self._files.forget(running, running.files)
                self._step(running)
        while self._done_elsewhere:
            running = self._done_elsewhere.popleft()
            self._elsewhere.discard(running)
            self._end(running)
        self._begin_all()
        self._tell()

    def _end(self, running: Running) -> None:
        """Some calls do not run any more."""
        del self._running[running]
        self._slots.free.append(None)
        if running.reservation is not None:
            account_here().give_back(running.reservation)
        elif self._lines:
            account_here().look(at_once=True)

    def _begin_all(self) -> None:
        """Begin what can begin now; no more than so many, as others wait for their next steps."""
        if self._lines:
            account_here().look()
        for _ in range(_MOST_BEGINNINGS):
            if self._lines.granted:
                line = self._lines.granted.popleft()
                self._begin(self._take_from(line.calls), line.take_reservation())
                self._lines.go_on(line)
            elif self._waiting and self._has_room:
                self._begin(self._take_waiting())
            else:
                break

    def _tell(self) -> None:
        """Tell which calls have ended: when no process waits, and all at once.

        Who is told takes the interpreter from this thread as soon as this makes a system call.
        """
        while self._ended:
            with contextlib.suppress(BaseException):  # of a done-callback; see concurrent.futures
                self._ended.popleft().tell()

    def _wait(self) -> Iterable[Running]:
        """Wait until a step can be taken. Those that can take one."""
        self._pausing += self._files.stranded
        self._files.stranded.clear()
        self._is_asleep = True
        patience = PAUSE_S if self._pausing else max(self._next_nudge - time.monotonic(), 0)
        may_begin = (self._added or self._waiting) and self._has_room
        if may_begin or self._lines.granted or self._done_elsewhere:
            patience = 0
        elif self._lines:
            patience = min(patience, LOOK_S)
        ready = self._files.wait(patience)
        self._is_asleep = False
        pausing, self._pausing = self._pausing, []
        if (now := time.monotonic()) >= self._next_nudge:
            tells = any(running.group.tells for running in self._running)
            self._next_nudge = now + (LOOK_EVERY_S if tells else INTERVAL_S)
            self._lines.drop_cancelled()
            return [running for running in self._running if running not in self._elsewhere]
        return [*ready, *pausing]

    def _begin(self, jobs: list[Job], reservation: Reservation | None = None) -> None:
        """Begin calls together, which have what they reserve, or are to reserve it."""
        jobs = [job for job in jobs if not job.cancel.cancelled]
        if len(self._waiting) < self._unseen or self._clock >= self._next_moment:
            self._begin_moment()
            self._unseen, self._next_moment = 0, self._clock + _LOOK_EVERY_S
        if not jobs:
            self._return(reservation)
            return
        first = jobs[0]
        if reservation is None:
            try:
                if first.reserves is None:
                    self._slots.free.pop()
                elif (reservation := self._lines.reserve(first.reserves, jobs)) is None:
                    return
            except IndexError:  # a call that has waited for what it reserves has just got it
                self._take_back(jobs)
                return
            except Exception as error:  # no call may wait for ever, whatever is wrong here
                self._fail(jobs, error)
                return
        group = Group(jobs, self._take_back)
        running = Running(first.kind, group, self._steps(group), reservation)
        self._running[running] = None
        if group.tells:
            self._next_nudge = min(self._next_nudge, time.monotonic() + LOOK_EVERY_S)
        is_slow = first.blocks or self._kinds.is_heavy(first.kind)
        if not (is_slow and self._goes_elsewhere(running)):
            self._step(running)

    def _return(self, reservation: Reservation | None) -> None:
        """Return what calls have got that do not begin."""
        if reservation is not None:
            self._slots.free.append(None)
            account_here().give_back(reservation)

    def _take_waiting(self) -> list[Job]:
        """Take the first call that waits, and those after it that can go with it."""
        return self._take_from(self._waiting)

    def _take_from(self, waiting: deque[Job]) -> list[Job]:
        if not waiting:
            return []
        jobs = [first := waiting.popleft()]
        if first.shares:
            share = len(waiting) // (2 * self._most)  # so that there are some for all, twice
            most = min(share, self._kinds.group_size(first.kind), messages.MOST_CALLS)
            while len(jobs) < most and waiting[0].goes_with(first):
                jobs.append(waiting.popleft())
        return jobs

    def _take_back(self, jobs: Iterable[Job]) -> None:
        """Have these calls begin next: their process has not begun them."""
        self._waiting.extendleft(reversed([*jobs]))

    def _goes_elsewhere(self, running: Running) -> bool:
        """Run a call in a thread of its own. False if there is no room, or the program ends."""
        self._elsewhere.add(running)
        try:
            self._run_in_thread(self._run_elsewhere, running)
        except RuntimeError:
            self._elsewhere.remove(running)
            return False
        return True

    def _run_elsewhere(self, running: Running) -> None:
        self._be_own_thread(True)
        try:
            drive(running.steps)
        except BaseException as error:
            self._fail(running.group.calls, error)
        self._tell()
        self._be_own_thread(False)
        self._done_elsewhere.append(running)
        self._wake()

    def _step(self, running: Running) -> None:
        """Take a step of some calls; the next one when they are as far."""
        is_over, error = True, None
        try:
            running.files = running.steps.send(False) if running.has_begun else next(running.steps)
            running.has_begun, is_over = True, False
        except StopIteration:
            pass
        except BaseException as why:
            error = why
        before, self._clock = self._clock, time.perf_counter()
        running.busy += self._clock - before
        if not is_over:
            self._files.expect(running, running.files)
            if not running.files:
                self._pausing.append(running)
            return
        self._end(running)
        group = running.group
        self._kinds.note(running.kind, group.ended, group.seconds, running.busy)
        if error is None:
            self._take_back(group.calls)
        else:
            self._fail(group.calls, error)

    @staticmethod
    def _fail(jobs: Iterable[Job], error: BaseException) -> None:
        for job in jobs:
            with contextlib.suppress(BaseException):  # of a done-callback; see concurrent.futures
                job.fail(error)


_dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


def _reset_all() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher._files.close()
        dispatcher._reset()


os.register_at_fork(after_in_child=_reset_all)
