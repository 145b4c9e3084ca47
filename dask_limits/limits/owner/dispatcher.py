"""Takes the steps of many calls in one thread, so that none of them costs a thread of its own."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

from dask_limits.limits.owner.heartbeat import INTERVAL_S
from dask_limits.limits.owner.steps import PAUSE_S, Steps, drive

_ONCE: Final = select.EPOLLIN | select.EPOLLONESHOT
_LIGHT_S: Final = 0.002
"""Seconds that the steps of a call may take here. Those of a call with large arguments take longer,
and the other calls wait: so after two such calls, the next ones of their kind have threads of their
own. One alone may have waited for a processor, or for the interpreter."""
_HEAVY_CALLS: Final = 16
"""So many of the next ones. With a larger value it takes longer to find that they are light now."""
_MOST_HEAVY: Final = 50  # kinds of calls to remember, before all are forgotten


class Job(Protocol):
    """A call for a dispatcher."""

    blocks: bool
    """Whether its steps block whatever they are told."""

    @property
    def kind(self) -> Hashable:
        """Calls of one kind are likely to take about as long to send and to receive."""

    def begin(self) -> Steps[Any] | None:
        """Its steps; None if it is not to begin any more."""

    def end(self, outcome: Any) -> None:
        """Take what its steps have returned."""

    def fail(self, error: BaseException) -> None:
        """Take what its steps have raised."""


class _Running:
    """A call that has begun."""

    __slots__ = ("busy", "files", "has_begun", "job", "steps")

    def __init__(self, job: Job, steps: Steps[Any]) -> None:
        self.job = job
        self.steps = steps
        self.has_begun = False
        self.files: tuple[int, ...] = ()  # for one of which it waits
        self.busy = 0.0  # seconds that its steps have taken


class Dispatcher:
    """Runs calls, at most so many at a time, in one thread.

    The thread is there as long as there are calls, and a program does not end before. It calls
    `begin_pass` before each look at what has come: all calls that begin in this pass were added
    before.
    """

    def __init__(self, most: int, begin_pass: Callable[[], object]) -> None:
        self._most = most
        self._begin_pass = begin_pass
        self._reset()
        _dispatchers.add(self)

    def _reset(self) -> None:
        """Begin without calls; in a fork of this process too, where those are its parent's."""
        self._threads = ThreadPoolExecutor(self._most + 1, thread_name_prefix="dask-limits")
        self._own_threads: set[int] = set()  # their numbers, while they work
        self._lock = threading.RLock()  # not Lock: a signal's handler may find it held
        self._is_asked = False  # whether the thread of the dispatcher is there, or about to be
        self._is_working = False
        self._is_idle = threading.Event()
        self._added: deque[Job] = deque()
        self._done_elsewhere: deque[_Running] = deque()
        self._is_asleep = False
        self._next_nudge = 0.0  # seconds of time.monotonic()
        # Of the dispatcher's thread alone:
        self._waiting: deque[Job] = deque()
        self._running: dict[_Running, None] = {}
        self._elsewhere: set[_Running] = set()  # those of them that have threads of their own
        self._pausing: deque[_Running] = deque()
        self._by_file: defaultdict[int, deque[_Running]] = defaultdict(deque)
        self._heavy: dict[Hashable, int] = {}
        self._slow: set[Hashable] = set()  # kinds of which the last call has taken long
        self._clock = 0.0  # seconds of time.perf_counter(), at the end of the last step
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._close = weakref.finalize(self, os.close, self._bell)

    def add(self, job: Job) -> None:
        """Run a call as soon as there is room, after those that were added before.

        Raises:
            RuntimeError: after `shutdown()`.
        """
        self._added.append(job)
        with self._lock:
            if not self._is_asked:
                self._start(job)
        self._wake()

    def _start(self, job: Job) -> None:
        """Start the thread. A signal's handler may have done so meanwhile: one of two works."""
        self._is_asked = True
        try:
            self._threads.submit(self._run)
        except BaseException:  # there may be no room for a thread
            self._is_asked = self._is_working
            with contextlib.suppress(ValueError):
                self._added.remove(job)
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
            self._close()
            self._epoll.close()

    def _wake(self) -> None:
        if not self._is_asleep:
            return
        with self._lock:
            if self._is_asleep:
                self._is_asleep = False
                os.eventfd_write(self._bell, 1)

    def _run(self) -> None:
        with self._lock:
            if self._is_working:
                return
            self._is_working = True
            self._is_idle.clear()
        self._own_threads.add(threading.get_ident())
        while self._goes_on():
            try:
                self._pass()
            except BaseException as error:  # no call may wait for ever, whatever is wrong here
                self._fail_all(error)

    def _goes_on(self) -> bool:
        """Whether there are calls. If not, the thread has no more work."""
        with self._lock:
            if self._running or self._waiting or self._added:
                return True
            self._own_threads.discard(threading.get_ident())
            self._is_working = self._is_asked = False
            self._is_idle.set()
            return False

    def _fail_all(self, error: BaseException) -> None:
        """Fail all calls but those that have threads of their own."""
        here = [running for running in self._running if running not in self._elsewhere]
        jobs = [running.job for running in here]
        for running in here:
            del self._running[running]
            with contextlib.suppress(BaseException):
                running.steps.close()
        self._by_file.clear()
        self._pausing.clear()
        for waiting in (self._waiting, self._added):
            while waiting:
                jobs.append(waiting.popleft())
        for job in jobs:
            self._end(job.fail, error)

    def _pass(self) -> None:
        """Wait for something, and take all steps that can be taken."""
        ready = self._wait()
        self._clock = time.perf_counter()
        while self._added:
            self._waiting.append(self._added.popleft())
        self._begin_pass()
        for running in ready:
            if running in self._running:
                self._forget_files(running)
                self._step(running)
        while self._done_elsewhere:
            running = self._done_elsewhere.popleft()
            self._elsewhere.discard(running)
            del self._running[running]
        while self._waiting and len(self._running) < self._most:
            self._begin(self._waiting.popleft())

    def _wait(self) -> Iterable[_Running]:
        """Wait until a step can be taken. Those that can take one."""
        patience = PAUSE_S if self._pausing else INTERVAL_S
        self._is_asleep = True
        if self._added or self._done_elsewhere or not self._next_nudge:
            patience = 0
        files = [fd for fd, _ in self._epoll.poll(patience)]
        self._is_asleep = False
        if self._bell in files:
            os.eventfd_read(self._bell)
        pausing, self._pausing = self._pausing, deque()
        if (now := time.monotonic()) >= self._next_nudge:
            self._next_nudge = now + INTERVAL_S
            return [running for running in self._running if running not in self._elsewhere]
        first = [self._by_file[fd][0] for fd in files if fd in self._by_file]
        return [*first, *pausing]

    def _begin(self, job: Job) -> None:
        steps = job.begin()
        if steps is None:
            return
        running = _Running(job, steps)
        self._running[running] = None
        if (job.blocks or self._is_heavy(job)) and self._goes_elsewhere(running):
            return
        self._step(running)

    def _is_heavy(self, job: Job) -> bool:
        if not self._heavy:
            return False
        kind = job.kind
        left = self._heavy.pop(kind, 0)
        if left > 1:
            self._heavy[kind] = left - 1
        return left > 0

    def _goes_elsewhere(self, running: _Running) -> bool:
        """Run a call in a thread of its own. False if the program is ending."""
        try:
            self._threads.submit(self._run_elsewhere, running)
        except RuntimeError:
            return False
        self._elsewhere.add(running)
        return True

    def _run_elsewhere(self, running: _Running) -> None:
        self._own_threads.add(threading.get_ident())
        try:
            outcome = drive(running.steps)
        except BaseException as error:
            self._end(running.job.fail, error)
        else:
            self._end(running.job.end, outcome)
        self._own_threads.discard(threading.get_ident())
        self._done_elsewhere.append(running)
        self._wake()

    def _step(self, running: _Running) -> None:
        """Take a step of a call; the next one when it is as far."""
        end: tuple[Callable[[Any], object], Any] | None = None
        try:
            running.files = running.steps.send(False) if running.has_begun else next(running.steps)
            running.has_begun = True
        except StopIteration as stop:
            end = running.job.end, stop.value
        except BaseException as error:
            end = running.job.fail, error
        before, self._clock = self._clock, time.perf_counter()
        running.busy += self._clock - before
        if end is None:
            self._wait_for_files(running)
            return
        del self._running[running]
        if running.busy > _LIGHT_S or self._slow:
            self._note_length(running.job.kind, running.busy > _LIGHT_S)
        self._end(*end)

    def _note_length(self, kind: Hashable, is_slow: bool) -> None:
        """Note whether the steps of a call of this kind have taken long."""
        if not is_slow:
            self._slow.discard(kind)
        elif kind in self._slow:
            self._heavy[kind] = _HEAVY_CALLS
        else:
            self._slow.add(kind)
        if len(self._slow) > _MOST_HEAVY:
            self._slow.clear()
            self._heavy.clear()

    @staticmethod
    def _end(tell: Callable[[Any], object], end: Any) -> None:
        with contextlib.suppress(BaseException):  # of a done-callback; see concurrent.futures
            tell(end)

    def _wait_for_files(self, running: _Running) -> None:
        if not running.files:
            self._pausing.append(running)
        for fd in running.files:
            self._by_file[fd].append(running)
            self._listen_to(fd)

    def _forget_files(self, running: _Running) -> None:
        for fd in running.files:
            waiting = self._by_file[fd]
            with contextlib.suppress(ValueError):
                waiting.remove(running)
            if waiting:
                self._listen_to(fd)
            else:
                del self._by_file[fd]
        running.files = ()

    def _listen_to(self, fd: int) -> None:
        """Be told once when this can be read. What waits for a file that was closed goes on."""
        try:
            try:
                self._epoll.modify(fd, _ONCE)
            except FileNotFoundError:
                self._epoll.register(fd, _ONCE)
        except (OSError, ValueError):  # closed by another thread, or when the guardian was lost
            self._pausing.extend(self._by_file.pop(fd))


_dispatchers: weakref.WeakSet[Dispatcher] = weakref.WeakSet()


def _reset_all() -> None:
    for dispatcher in list(_dispatchers):
        dispatcher._close()
        dispatcher._epoll.close()
        dispatcher._reset()


os.register_at_fork(after_in_child=_reset_all)
