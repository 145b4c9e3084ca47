"""Keeps what there is to see of a run, and has it shown."""

from __future__ import annotations

import heapq
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Final, NamedTuple, Protocol, Self

from dask_limits.display.in_words import FROM_JOURNAL
from dask_limits.display.run_view import Amount, EndedRow, LiveView, RunningRow, RunView
from dask_limits.exceptions import WorkerLostError
from dask_limits.executors import Call, Future
from dask_limits.executors.cluster import ClusterState
from dask_limits.executors.running import RunningCall
from dask_limits.in_short import arguments_in_short
from dask_limits.limits import LimitedCall, Limits, Usage, name_of
from dask_limits.limits.call_log import in_a_line
from dask_limits.limits.endings import Ending
from dask_limits.printable import printable, repr_of
from dask_limits.report.endings import End
from dask_limits.scheduler.feed import Feeds

logger = logging.getLogger("dask_limits.run")

_MOST_FAILURES: Final = 20
"""More than a terminal shows; fewer than would take memory."""
_SAMPLE_S: Final = 1.0
_MOST_SAMPLES: Final = 600
"""So the rate is that of the last ten minutes at most."""
_LEAST_S: Final = 10.0
_LEAST_ENDINGS: Final = 10
"""The rate is that of the last calls of at least so many seconds, and at least so many calls."""
_LEAST_FOR_REST, _LEAST_FOR_REST_S = 5, 3.0
"""From so many calls and seconds on it is said how long the rest will take."""
_NO_LIMITS: Final = Limits()
_NO_USAGE: Final = Usage(wall_time=0.0, cpu_time=0.0, num_processes=0)


class Watched(Protocol):
    """What is asked of a run."""

    queue: dict[Future[Any], Call]
    cluster: ClusterState

    feeds: Feeds

    def state(self) -> str: ...  # noqa: D102
    def running_calls(self) -> Iterable[RunningCall]: ...  # noqa: D102


class _Running(NamedTuple):
    """A call that runs, before anything is said of its arguments."""

    share: float
    age: float
    future: Future[Any]
    call: Call
    usage: Usage
    worker: str


class RunWatch:
    """Has a view show a run while it goes on. All of it is used in the thread of the run.

    A view that fails does not end the run: the run goes on without it.

    Args:
        view: What shows it.
        run: The run.
        executor: What its executor is called.
        total: How many calls there will be, if that is known.
    """

    def __init__(
        self, view: LiveView, run: Watched, executor: str, total: int | None = None
    ) -> None:
        self.n_retries = 0
        self._view: LiveView | None = view
        self._run = run
        self._executor = printable(executor)
        self._total = total
        self._began_at = time.monotonic()
        self._due = 0.0  # seconds of time.monotonic()
        self._counts: Counter[str] = Counter()
        self._n_ended = 0
        self._n_from_journal = 0
        self._failures: deque[EndedRow] = deque(maxlen=_MOST_FAILURES)
        self._arguments: dict[Future[Any], str] = {}  # of those that were shown
        self._samples = deque([(self._began_at, 0)], maxlen=_MOST_SAMPLES)

    def __enter__(self) -> Self:
        try:
            self._guard(lambda view: view.__enter__())
            self.step(None)
        except BaseException:  # Ctrl-C
            self._leave()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._guard(lambda view: view.end(self.moment(0)))
        self._guard(lambda view: view.__exit__(kind, error, traceback))

    def step(self, wait_s: float | None) -> float | None:
        """Show what is to be shown by now. Return for how long the run may wait, `wait_s` or less;
        None is for any time.
        """
        if self._view is None:
            return wait_s
        now = time.monotonic()
        if now >= self._due:
            self._due = now  # it is asked again, if the view fails
            self._guard(self._show)
        left_s = max(self._due - time.monotonic(), 0.0)
        return left_s if wait_s is None else min(wait_s, left_s)

    def _show(self, view: LiveView) -> None:
        wait_s = view.show(self.moment)
        self._due = time.monotonic() + wait_s

    def ended(self, future: Future[Any], call: Call, end: End) -> None:
        """Note that a call has ended, before its events are emitted."""
        if future.from_journal:  # it has ended in an earlier run
            self._n_from_journal += 1
            ending = FROM_JOURNAL
        else:
            self._n_ended += 1
            ending = end.cause if end.ending is Ending.BREACH else end.ending.name.lower()
            self._counts[ending] += 1
        row = partial(self._ended_row, future, call, end, ending)
        has_failed = ending not in ("returned", "cancelled", FROM_JOURNAL)
        self._guard(lambda view: self._show_end(view, ending, row, has_failed=has_failed))
        self._arguments.pop(future, None)

    def _show_end(
        self, view: LiveView, ending: str, row: Callable[[], EndedRow], *, has_failed: bool
    ) -> None:
        if has_failed:
            failure = row()
            self._failures.append(failure)
            view.ended(ending, lambda: failure)
        else:
            view.ended(ending, row)

    def _ended_row(self, future: Future[Any], call: Call, end: End, ending: str) -> EndedRow:
        error = None if future.cancelled() else future.exception()
        name, usage = name_of(_function(call)), future.usage
        return EndedRow(
            at=time.time(),
            task=name,
            arguments=self._in_short(future, call),
            ending=ending,
            cause="" if error is None else in_a_line(error).removeprefix(f"{name}() "),
            where=printable(end.where),
            worker=printable(error.worker if isinstance(error, WorkerLostError) else future.worker),
            attempts=future.attempts,
            wall_time=None if usage is None else usage.wall_time,
            peak_memory=0 if usage is None else usage.peak_memory,
        )

    def moment(self, most_running: int) -> RunView:
        """What there is to see now, with so many of the running calls at most."""
        run, now = self._run, time.monotonic()
        running = self._running()
        state = str(run.state())
        rate, n_left = self._rate(now), self._n_left()
        is_known = rate > 0 and state == "running" and self._tells_enough(now, len(running))
        view = RunView(
            executor=self._executor,
            state=state,
            elapsed=now - self._began_at,
            running=tuple(map(self._row, _nearest(running, most_running))),
            n_running=len(running),
            n_waiting=len(run.queue) - len(running),
            counts=dict(self._counts),
            rate=rate,
            n_left=n_left,
            time_left=n_left / rate if n_left is not None and is_known else None,
            cluster=tuple(map(printable, run.cluster.lines())),
            failures=tuple(self._failures),
            n_reruns=run.cluster.n_reruns,
            n_retries=self.n_retries,
            n_from_journal=self._n_from_journal,
        )
        if view.is_over:  # what it has cancelled in the end says nothing of how fast it went
            n_ended = view.n_ended - self._counts["cancelled"]
            view = replace(view, rate=n_ended / view.elapsed)
        return view

    def _tells_enough(self, now: float, n_running: int) -> bool:
        """Whether the rate tells how long the rest will take.

        The first calls wait for processes to start, and those that end first are the short ones.
        """
        least = max(_LEAST_FOR_REST, 2 * n_running)
        return self._n_ended >= least and now - self._began_at >= _LEAST_FOR_REST_S

    def _running(self) -> list[_Running]:
        """The calls that run, in the order of their submission."""
        if not self._run.queue:
            return []
        told = {call.future.attempt_of or call.future: call for call in self._run.running_calls()}
        now, found = time.time(), []
        for future, call in self._run.queue.items():
            since, its = future.started_at if future.running() else None, told.get(future)
            if since is None and its is None:
                continue
            usage, worker = (_NO_USAGE, "") if its is None else (its.usage, its.worker)
            age = usage.wall_time if since is None else max(now - since, 0.0)
            amounts = _amounts(call, usage, age)
            share = max(amount.share for amount in amounts)
            found.append(_Running(share, age, future, call, usage, worker))
        return found

    def _row(self, it: _Running) -> RunningRow:
        return RunningRow(
            name_of(_function(it.call)),
            self._in_short(it.future, it.call),
            it.age,
            printable(it.worker),
            it.future.attempts,
            *_amounts(it.call, it.usage, it.age),
        )

    def _in_short(self, future: Future[Any], call: Call) -> str:
        text = self._arguments.get(future)
        if text is None:
            text = self._arguments[future] = arguments_in_short(call[1], call[2])
        return text

    def _rate(self, now: float) -> float:
        """How many calls have ended a second lately."""
        samples = self._samples
        if now - samples[-1][0] >= _SAMPLE_S:
            samples.append((now, self._n_ended))
        at, n = samples[0]
        for at, n in reversed(samples):
            if now - at >= _LEAST_S and self._n_ended - n >= _LEAST_ENDINGS:
                break
        return (self._n_ended - n) / (now - at) if now > at else 0.0

    def _n_left(self) -> int | None:
        n_queued = len(self._run.queue)
        if self._total is not None:
            return max(self._total - self._n_ended - self._n_from_journal, n_queued)
        n_items = self._run.feeds.n_left()
        return None if n_items is None else n_items + n_queued

    def _guard(self, show: Callable[[LiveView], object]) -> None:
        """Have the view do something; do without it from then on if it fails."""
        if (view := self._view) is None:
            return
        try:
            show(view)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # what shows a user's objects may do anything
            self._leave()
            logger.warning("Cannot show the run any more: %s", repr_of(error), exc_info=error)

    def _leave(self) -> None:
        """Do without the view from now on."""
        view, self._view = self._view, None
        if view is not None:
            with suppress(Exception):
                view.__exit__(None, None, None)


def _nearest(running: list[_Running], most: int) -> list[_Running]:
    """Those nearest to a limit, so many at most; the oldest first."""
    some = heapq.nlargest(most, running, key=lambda it: it[:2])
    return sorted(some, key=lambda it: -it.age)


def _function(call: Call) -> Callable[..., Any]:
    return call[0].fn if isinstance(call[0], LimitedCall) else call[0]


def _amounts(call: Call, usage: Usage, age: float) -> tuple[Amount, Amount, Amount, Amount]:
    """Wall time, CPU time, memory and processes. What is 0, nobody has measured."""
    limits = call[0].limits if isinstance(call[0], LimitedCall) else _NO_LIMITS
    return (
        Amount(usage.wall_time or age, limits.wall_time),
        Amount(usage.cpu_time or None, limits.cpu_time),
        Amount(usage.peak_memory or None, limits.memory),
        Amount(usage.num_processes or None, limits.num_processes),
    )
