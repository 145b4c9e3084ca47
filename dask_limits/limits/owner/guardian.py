from __future__ import annotations

import atexit
import contextlib
import operator
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, Self, TypeVar

from dask_limits.limits import call_log, trace_context
from dask_limits.limits.cancel import CancelToken
from dask_limits.limits.in_place import name_of
from dask_limits.limits.ipc import progress_values
from dask_limits.limits.ipc.messages import Verdict
from dask_limits.limits.limits import Limits
from dask_limits.limits.outcome import Outcome, Usage
from dask_limits.limits.owner import in_thread, reserving
from dask_limits.limits.owner.connection import Connection
from dask_limits.limits.owner.group import Call, Group
from dask_limits.limits.owner.hold import Hold
from dask_limits.limits.owner.lease import Lease
from dask_limits.limits.owner.preload import NOTHING, NotPreparedError, Preload
from dask_limits.limits.owner.received import MalformedError, Unbegun
from dask_limits.limits.owner.start import Start
from dask_limits.limits.owner.steps import Steps, drive
from dask_limits.limits.packed_outcome import PackedOutcome
from dask_limits.limits.task.process_state import Setting
from dask_limits.units import whole_number

R = TypeVar("R")

_NO_LIMITS: Final = Limits()
_MAX_STARTS = 3
"""How often to start a guardian that ends before the call begins."""
_MAX_TRIES = 20
"""How often to start one for a thread while other threads, which differ from it, do so too."""
_LOSS_WAIT_S = 2.0
"""A guardian that loses its reaper ends the task processes first, and then itself."""


class Guardian:
    """Runs calls in task processes, under limits: the owner's side of the guardian process.

    The process is started when it is first needed, and again if it was killed. It is ended by
    `close()` or with the owner. All methods can be called from any thread.

    A task process is ended after `max_calls_per_process` calls, or when a call leaves it unfit for
    another. `reserves` is whether `run` and `run_packed` have calls reserve what they may use;
    others have done that.

    Attributes:
        preload: What to have done before calls come. Calls that begin from now on run in processes
            that have done it, and not what it was before.
        place: What the log says of where calls run; empty if this process says it.
    """

    def __init__(
        self,
        max_calls_per_process: int | None = None,
        preload: Preload = NOTHING,
        *,
        reserves: bool = False,
    ) -> None:
        if max_calls_per_process is not None:
            whole_number(max_calls_per_process, "max_calls_per_process", none="no limit")
        self._max_calls = max_calls_per_process
        self.preload = preload
        self.place = ""
        self._reserves = reserves
        self._moment: object = None
        self._lock = threading.RLock()  # not Lock: a signal's handler may find it held
        self._start: Start | None = None
        self._retired: list[Connection] = []  # they take no more calls
        _guardians.add(self)

    def begin_moment(self) -> None:
        """Have the calls that begin from now on share a look at what this process has changed.

        Without this, each call looks by itself.
        """
        self._moment = object()

    def run(
        self,
        fn: Callable[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        limits: Limits = _NO_LIMITS,
        *,
        cancel: CancelToken | None = None,
        on_progress: Callable[[progress_values.Load], object] | None = None,
    ) -> Outcome[R]:
        """Run one call, and raise nothing. `cancel` can end it from another thread.

        `on_progress` is called with what loads the latest value that it reports.
        """
        sent: dict[int, Any] = {}
        tell = progress_values.unpickled(on_progress, sent)
        call = Call(fn, args, kwargs, limits, cancel, sent, tell)
        if limits.isolation == "thread" and not call.cancel.cancelled:
            return self._run_in_thread(call)
        return self._run(call).unpack(sent)

    def run_packed(
        self,
        fn: Callable[..., R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        limits: Limits = _NO_LIMITS,
        *,
        cancel: CancelToken | None = None,
    ) -> PackedOutcome[R]:
        """Run one call as `run` does, and leave its value or exception pickled."""
        return self._run(Call(fn, args, kwargs, limits, cancel))

    def _run(self, call: Call) -> PackedOutcome[Any]:
        request = reserving.request_here(call.limits) if self._reserves else None
        if request is None:
            drive(self.steps(Group([call])))
        elif (error := reserving.refusal_error(name_of(call.fn), call.limits)) is not None:
            call.end(call.outcomes.failed(error))
            call_log.refused_here(name_of(call.fn), error, call.in_short())
        else:
            reserving.run(request, call.cancel, lambda: drive(self.steps(Group([call]))))
        assert call.outcome is not None  # of a single call nothing is left
        return call.outcome

    def steps(self, group: Group[Any]) -> Steps[None]:
        """Run calls in steps. What is left in the group then has not begun.

        With `isolation="thread"`, that of a single call, they block.
        """
        group.place = self.place
        try:
            if group.end_cancelled():
                return
            if group.limits.isolation == "thread":
                call = group.calls.popleft()
                call.begin()
                call.take(self._run_in_thread(call))
                return
            if not group.pack():
                return
            if _is_ending:
                self._end_with_program()
            yield from self._run_on_some_guardian(group)
            if _is_ending:
                self._end_with_program()
        finally:  # Ctrl-C may have interrupted a close() too
            group.close()

    def _run_in_thread(self, call: Call) -> Outcome[Any]:
        telling = progress_values.telling_pickled(call.on_progress)
        with telling, trace_context.attached(call.carrier):
            outcome = in_thread.run(call.fn, call.args, call.kwargs, call.limits)
        call_log.ended_in_thread(outcome, name_of(call.fn), self.place, call.in_short)
        return outcome

    def _run_on_some_guardian(self, group: Group[Any]) -> Steps[None]:
        """Run calls; with another guardian if this one is lost before the first one began."""
        why = "what its threads' children inherit differs, or changes all the time"
        try:
            lost = 0
            for _ in range(_MAX_TRIES):
                connection = yield from self._connect()
                connection.want(self.preload)
                try:
                    return (yield from self._run_on(connection, group))
                except ConnectionError:  # it was killed, or closed, before the call began
                    lost += connection.lost
                    self._disconnect(connection)
                    if lost == _MAX_STARTS:
                        why = "the guardian process ends as soon as it starts"
                        break
                finally:
                    self._close_unused()
        except NotPreparedError as error:
            return group.end_all(operator.methodcaller("unprepared", error.why, error.traceback))
        except OSError as error:  # no room for another process, or file
            why = str(error)
        group.end_all(operator.methodcaller("refused", why))

    def _run_on(self, connection: Connection, group: Group[Any]) -> Steps[None]:
        """Run calls in the first task process that begins one."""
        hold, stillborn = Hold(), 0
        try:
            connection.enter(hold, group)
            while stillborn < _MAX_STARTS:
                setting = connection.look_at_owner(self._moment)
                lease = yield from connection.acquire(hold, group)
                if lease is None:
                    return
                yield from self._run_in(lease, connection, group, setting)
                if group.ended:
                    connection.finish(hold, group)
                    return
                connection.drop(hold)  # it was killed while it was idle; take another
                stillborn += lease.calls == 0
            why = "new task processes end before they can run it"
            group.end_first(group.calls[0].outcomes.refused(why))  # others may fare better
        except BaseException:  # Ctrl-C: nothing waits for these calls any more
            connection.drop(hold)
            raise
        finally:
            connection.leave(hold)

    def _run_in(
        self, lease: Lease, connection: Connection, group: Group[Any], setting: Setting
    ) -> Steps[None]:
        """Run calls in this task process, as many as it begins."""
        if not connection.begin(lease, group, setting):
            return
        malformed: MalformedError | None = None
        while group.calls:
            try:
                ended = yield from lease.wait()
            except MalformedError as why:
                lease.reusable = False
                if len(group.calls) == 1:
                    return group.end_first(group.calls[0].outcomes.ended("deaf", cause=why))
                if malformed is None:
                    connection.cancel(lease.row, lease.number)  # then it is known how far it was
                malformed = why
                continue
            if isinstance(ended, Unbegun):
                if ended.number == lease.number:
                    return
                group.give_back_after(ended.number - lease.number)
            elif ended is None:
                lease.reusable = False
                how = yield from self._how_lost(connection)
                return group.end_first(group.calls[0].outcomes.ended(how))
            else:
                outcomes = group.calls[0].outcomes
                if malformed is None:
                    group.end_first(outcomes.of(lease, ended))
                else:
                    group.end_first(outcomes.ended("deaf", cause=malformed))
                malformed = None
                if isinstance(ended, Verdict) or (group.calls and not lease.go_on()):
                    return

    def _how_lost(self, connection: Connection) -> Steps[str]:
        """Why the socket of a process was closed, with neither answer nor verdict."""
        if (yield from connection.wait_for_loss(_LOSS_WAIT_S)):
            self._disconnect(connection)
            return "guardian lost"
        return "cancelled" if connection.closed else "deaf"

    def _connect(self) -> Steps[Connection]:
        start = self._start
        if start is None:
            new = Start(self._max_calls)
            with self._lock:  # no call is in here: so no handler runs here either
                if self._start is None:
                    self._start = new
                start = self._start
        try:
            return (yield from start.wait())
        except Exception:
            with self._lock:
                if self._start is start:
                    self._start = None
            raise

    @property
    def _connection(self) -> Connection | None:
        """The guardian, if it has started."""
        return None if self._start is None else self._start.connection

    @property
    def pids(self) -> list[int]:
        """The processes of ours right below this one, which have all others below them."""
        return [one.pid for one in (self._connection, *self._retired) if one is not None]

    @property
    def n_task_processes(self) -> int:
        """How many task processes this has, busy or idle."""
        there = (self._connection, *self._retired)
        return sum(one.n_task_processes for one in there if one is not None)

    def running(self) -> list[tuple[Call, Usage]]:
        """The calls that run in task processes, with what each has used so far."""
        there = (self._connection, *self._retired)
        return [call for one in there if one is not None for call in one.running()]

    def _disconnect(self, connection: Connection) -> None:
        """Release a guardian that is lost, or is not as its owner is now: calls use it no more."""
        with self._lock:
            start = self._start
            if start is not None and start.connection is connection:
                self._start = None
                self._retired.append(connection)
        if connection.lost:
            connection.close()

    def _close_unused(self) -> None:
        """Close the retired guardians whose last call has ended."""
        if self._retired:
            with self._lock:
                unused = [connection for connection in self._retired if not connection.is_in_use]
            for connection in unused:
                connection.close()
                with contextlib.suppress(ValueError):  # another thread has
                    self._retired.remove(connection)

    def close(self) -> None:
        """End the guardian and every process below it. Running calls end as cancelled."""
        with self._lock:
            start, self._start = self._start, None
        for connection in self._retired.copy():
            connection.close()
        if start is not None:
            with contextlib.suppress(OSError):  # it has not started
                drive(start.wait()).close()

    def _end_with_program(self) -> None:
        """Close this guardian, if it has started since all were closed because the program ends.

        And end this thread, unless it is the main thread. All others are daemon threads, which the
        program does not wait for. Their calls were ended: their errors would be printed, but
        SystemExit is not.
        """
        self.close()
        if threading.get_ident() != threading.main_thread().ident:
            raise SystemExit

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _forget(self) -> None:
        """In a fork of the owner: this guardian belongs to the parent."""
        self._lock = threading.RLock()
        connections = [self._connection, *self._retired]
        self._start, self._retired = None, []
        for connection in connections:
            if connection is not None:
                connection.abandon()


_guardians: weakref.WeakSet[Guardian] = weakref.WeakSet()
_default = Guardian(reserves=True)


def default_guardian() -> Guardian:
    """The guardian of this process, for calls without one of their own."""
    return _default


_is_ending = False  # the program


@atexit.register
def _close_all() -> None:
    global _is_ending
    _is_ending = True
    for guardian in list(_guardians):
        guardian.close()


def _forget_all() -> None:
    for guardian in list(_guardians):
        guardian._forget()


os.register_at_fork(after_in_child=_forget_all)
