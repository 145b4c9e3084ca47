from __future__ import annotations

import contextlib
import functools
import math
import os
import pickle
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from dask_limits.limits.ipc import messages, owner_cells, transport
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.ipc.payload import pack
from dask_limits.limits.linux import files, proctree
from dask_limits.limits.outcome import Usage
from dask_limits.limits.owner import interpreter
from dask_limits.limits.owner.group import Call, Group
from dask_limits.limits.owner.heartbeat import INTERVAL_S, Heartbeat
from dask_limits.limits.owner.hold import Hold
from dask_limits.limits.owner.idle import IdleProcesses
from dask_limits.limits.owner.inherited import Inherited
from dask_limits.limits.owner.lease import Lease
from dask_limits.limits.owner.preload import Preload
from dask_limits.limits.owner.steps import Steps
from dask_limits.limits.owner.templates import Templates
from dask_limits.limits.owner.use import LeastTimes
from dask_limits.limits.task.process_state import Setting
from dask_limits.limits.task.temporary_folder import parent_here

_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[4:]; from dask_limits.limits.guardian.reaper import main;"
    " main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])"
)
_END_WAIT_S = 15.0
"""How long to wait for all our processes to end. They take milliseconds; for one in an
uninterruptible sleep, the guardian gives up after 10 s."""
_WORTH: Final = 25
"""How many times as long as a new process costs all calls in a clean one may take together. So new
processes cost 4 % at most. A smaller value replaces them sooner, at a higher cost."""


class OwnerHasChanged(ConnectionError):
    """A new child of the owner would inherit something else than its guardian has."""


class Connection:
    """One guardian process, and the task processes that it has handed out.

    Started by `subprocess` and not by `multiprocessing`, which forbids daemonic processes, as
    Dask's workers are, to have children. Only inherited sockets connect the two: there is no
    port and no file name by which others could reach it.
    """

    # There is no lock, but for new templates: a signal's handler, or the finalizer of an object,
    # may call a function with limits while the same thread is anywhere in here. Each change is one
    # step (see `Hold`).

    def __init__(self, max_calls: int | None) -> None:
        if why := proctree.why_not_readable():
            raise OSError(f"no limit can be enforced, because {why}")
        command = interpreter.command()
        self._max_calls = max_calls
        self._templates = Templates()
        self._renewing = threading.RLock()
        self._idle = IdleProcesses(self.drop)
        self._least_times = LeastTimes()
        self._leases: set[Lease] = set()
        self._unanswered: list[None] = []  # one for each question of a call that was interrupted
        self.closed = False
        self._lost = False
        self._holds: dict[Hold, Group[Any]] = {}  # of the calls that use this
        self._inherited = Inherited()
        self._control, theirs = transport.pair()
        cells_fd = files.above_standard(owner_cells.make())
        self._owner_cells = Cells(owner_cells.ROWS, cells_fd)
        fds = [theirs.fileno(), cells_fd]
        setting = Setting.here()
        here = setting.for_another_process()
        self._seen: tuple[object, Setting] = None, setting  # at the last look, and its moment
        try:
            self._process = subprocess.Popen(
                [*command, "-c", _PROGRAM, *map(str, fds), parent_here(), *here.path],
                env=here.environment,  # other threads may be changing this process's own, in C
                stdin=subprocess.DEVNULL,
                pass_fds=fds,
                start_new_session=True,  # Ctrl-C in a terminal is for the owner alone
            )
        except BaseException:
            self._control.close()
            self._inherited.close()
            raise
        finally:
            theirs.close()
            os.close(cells_fd)
        self.pid = self._process.pid  # of the reaper, which is the parent of the guardian
        self._heartbeat = Heartbeat(self._owner_cells, self.pid)
        transport.set_patience(self._control, INTERVAL_S)

    @property
    def lost(self) -> bool:
        """Whether the guardian has ended although its owner has not closed it."""
        if not self._lost and not self.closed and self._has_hung_up() and not self.closed:
            self._lost = True  # for good: another thread may close it at this moment
        return self._lost

    def _has_hung_up(self) -> bool:
        """Whether the guardian has ended, if messages of it are left to be read or not."""
        poll = select.poll()
        try:
            poll.register(self._control, 0)
        except (OSError, ValueError):  # it was closed
            return True
        return bool(poll.poll(0))

    def wait_for_loss(self, seconds: float) -> Steps[bool]:
        """Wait some time for the guardian to end; as `lost`."""
        deadline = time.monotonic() + seconds
        while not self.lost and not self.closed and time.monotonic() < deadline:
            yield ()
        return self.lost

    def want(self, preload: Preload) -> None:
        """Have what the user asks for from now on; if it is the same object, nothing is done."""
        self._templates.want(preload)

    def look_at_owner(self, moment: object) -> Setting:
        """Find out what has changed in this process since the last call, and in its modules.

        One look serves all calls of the same `moment`; None is of one call alone.

        Returns:
            What a call takes from this thread.

        Raises:
            OwnerHasChanged: if the guardian is no longer as its owner is.
        """
        seen_at, setting = self._seen
        if moment is not None and moment is seen_at:
            return setting
        if self._inherited.has_changed():
            raise OwnerHasChanged
        self._renew_template()
        setting = Setting.here(self._inherited.umask)
        self._idle.tidy_up()
        self._seen = moment, setting
        return setting

    def acquire(self, hold: Hold, group: Group[Any]) -> Steps[Lease | None]:
        """Take an idle task process that is fit for these calls, or a new one; None if all are
        cancelled.

        It is in `hold`, whatever interrupts this. A process that holds more than half of the limit
        on memory from earlier calls is ended instead.

        Raises:
            ConnectionError: if the guardian has ended.
            BlockingIOError: if the system has no room for another process.
            NotPreparedError: if a process cannot be prepared as the user wants it.
        """
        self._templates.check()
        templates = self._templates
        while not (self.closed or group.end_cancelled()):
            try:
                self._idle.take(group.use, hold)
            except IndexError:
                yield from self._wait_for_imports(group)
                return (yield from self._take_over(hold, group))
            lease = hold.lease
            is_stale = lease.epoch != templates.epoch or templates.are_stale(lease.versions)
            lease.changes, lease.folders = templates.versions
            if not lease.has_ended and not is_stale and lease.has_room_for(group.limits.memory):
                return lease
            self.drop(hold)
        if group.end_cancelled():
            return None
        raise ConnectionError("the guardian was closed")

    def begin(self, lease: Lease, group: Group[Any], setting: Setting) -> bool:
        """Have a task process run these calls; as many as it may have, the others are given back.

        False if it had ended before.
        """
        if self._max_calls is not None:
            group.give_back_after(self._max_calls - lease.calls)
        seconds = math.inf if group.use.is_kept else _WORTH * lease.cost - lease.spent
        loading = 0.0 if lease.calls else self._least_times.loading(group.use)  # is to come
        if seconds + _WORTH * loading < self._least_times.of(group.use):
            seconds = 0.0  # it runs no other call: so it need not note what it is like before this
        requests = [call.request for call in group.calls]
        tell = group.calls[0].on_progress
        if not lease.begin(group.limits, requests, setting, seconds, tell):
            return False
        group.calls[0].begin()
        for number, call in enumerate(group.calls, lease.number):
            end = functools.partial(self.cancel, lease.row, number)
            if not call.cancel.on_cancel(end):
                end()
        return True

    def _renew_template(self) -> None:
        """Have another template made if there is to be one, or if modules have changed."""
        self._templates.look_for_changes()
        self._make_template()

    def _make_template(self) -> None:
        self._look_for_ready()
        if self._templates.is_due:
            with self._renewing:  # the other threads need the number of the new one
                self._prepare_template()

    def _look_for_ready(self) -> None:
        """Have new task processes come from the template that has become ready, if one has."""
        self._templates.prepared(*owner_cells.ready_template(self._owner_cells))

    def _prepare_template(self) -> None:
        if (wanted := self._templates.to_prepare()) is None:
            return
        packed = pack(wanted.preparation, pickle.Pickler)
        most = wanted.preparation.patience, wanted.preparation.most_memory
        body = messages.PREPARE_BODY.pack(*most) + packed.head
        try:
            self._tell(messages.PREPARE, wanted.number, body, packed.fds)
        finally:
            packed.close()
        self._templates.asked(wanted)

    def _wait_for_imports(self, group: Group[Any]) -> Steps[None]:
        """Wait for a template that is being made, if the last call of this use was ended without.

        No longer than that may take, see `Doubts`.
        """
        while number := self._templates.awaited_by(group.use):
            is_made = owner_cells.last_template(self._owner_cells) >= number
            if is_made or group.end_cancelled() or self.closed or self.lost:
                return
            yield ()
            self._heartbeat.check()

    def _take_over(self, hold: Hold, group: Group[Any]) -> Steps[Lease | None]:
        """Receive a new task process from the guardian."""
        templates = self._templates
        while not group.end_cancelled():
            self._look_for_ready()
            templates.check()
            wanted = transport.record(messages.SPAWN, templates.number)
            try:
                hold.ask(self._control.send, wanted, self._unanswered)
                message = yield from self._next_message(hold, group)
            except OSError as error:
                raise ConnectionError("the guardian was closed") from error
            if message is None:
                break
            if message.kind == messages.REFUSED:
                if self._idle.make_room():
                    yield ()
                    continue
                raise BlockingIOError(bytes(message.body).decode())
            if message.kind == messages.UNPREPARED:
                templates.process_failed(message.number, str(message.body, errors="replace"))
                self._renew_template()
                continue
            if not message.fds:
                self.drop(hold)
                if self._idle.make_room():
                    yield ()
                    continue
                raise BlockingIOError("this process has too many open files to receive another")
            lease = self._become_lease(hold, message)
            if templates.suits(lease.template):
                return lease
            self.drop(hold)  # there is another template by now, or is to be
            self._renew_template()
        return None

    def _become_lease(self, hold: Hold, message: transport.Message) -> Lease:
        row = message.number
        pid, cost, template, key = messages.SPAWNED_BODY.unpack(message.body)
        wake = functools.partial(self._tell, messages.WAKE, 0)

        def make(sock: transport.Socket) -> Lease:
            lease = Lease(self._owner_cells, row, pid, sock, wake, self._heartbeat)
            lease.cost, lease.template, lease.epoch = cost, template, self._templates.epoch
            lease.changes, lease.folders = self._templates.versions
            lease.key = key
            return lease

        lease = hold.become_lease(message, make)
        self._leases.add(lease)
        return lease

    def _next_message(self, hold: Hold, group: Group[Any]) -> Steps[transport.Message | None]:
        """The answer of the guardian to a question; None if all calls are cancelled."""
        while not group.end_cancelled():
            may_block = yield (self._control.fileno(),)
            try:
                message = hold.receive(self._control, 0 if may_block else transport.DO_NOT_WAIT)
            except BlockingIOError:
                self._heartbeat.check()
                continue
            if message is None:
                raise ConnectionError("the guardian has ended")
            if not self._templates.take(message):
                return message
        return None

    def finish(self, hold: Hold, group: Group[Any]) -> None:
        """End calls that have run: keep the task process for the next ones, if it is fit, and have
        what they have imported ready for those in other processes.
        """
        lease, use = hold.lease, group.use
        seconds = lease.spend(group.seconds)
        self._templates.note_calls(lease, use, group.seconds)
        self._least_times.note(use, seconds / group.ended)
        if lease.reusable and not lease.calls:
            self._least_times.note_loading(use, lease.loading)
        pays = use.is_kept or lease.spent < _WORTH * lease.cost
        if lease.finish(group.ended) and lease.calls != self._max_calls and pays:
            self._idle.add(use, hold)
            if self.closed:
                self._idle.drop_all()
        else:
            self.drop(hold)
        with contextlib.suppress(OSError):  # no room for files: the next call tries again
            self._make_template()

    def drop(self, hold: Hold) -> None:
        """End the task process that is held, if any, and everything below it, without waiting.

        It can be called again if it was interrupted.
        """
        hold.leave_question(self._unanswered)
        if (row := hold.close()) is not None:
            self._leases.difference_update(hold.leases)
            hold.end_by(self._control.send, transport.record(messages.END, row))

    def enter(self, hold: Hold, group: Group[Any]) -> None:
        """Note that calls use this."""
        self._holds[hold] = group

    def leave(self, hold: Hold) -> None:
        """Note that they do not use this any more."""
        self._holds.pop(hold, None)

    def running(self) -> Iterator[tuple[Call, Usage]]:
        """The calls that run, with what each has used so far. From any thread."""
        for hold, group in self._holds.copy().items():
            with contextlib.suppress(IndexError):  # there is no process yet, or the last has ended
                call, usage = group.calls[0], hold.lease.usage_so_far(group.seconds)
                if usage is not None:
                    yield call, usage

    @property
    def is_in_use(self) -> bool:
        """Whether a call uses this."""
        return bool(self._holds)

    @property
    def n_task_processes(self) -> int:
        """How many task processes it has handed out, busy or idle."""
        return len(self._leases)

    def cancel(self, row: int, number: int) -> None:
        """End the task process in this row if it runs this call, or keep it from beginning it."""
        self._tell(messages.CANCEL, row, struct.pack("=Q", number))

    def _tell(self, kind: int, row: int, body: bytes = b"", fds: Sequence[int] = ()) -> None:
        try:
            transport.send(self._control, kind, row, body, fds=fds)
        except OSError:
            pass  # the guardian has ended, and all task processes with it

    def close(self) -> None:
        """End the guardian and everything below it, and wait until it is gone."""
        self.closed = True
        if self._process.returncode is None:
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)  # this ends each wait for it too
            give_up_at = time.monotonic() + _END_WAIT_S
            while self._process.returncode is None and time.monotonic() < give_up_at:
                self._heartbeat.end()  # again and again: what is left of a call may stop them
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(INTERVAL_S)
            self._control.close()
            self._inherited.close()
        self._idle.drop_all()

    def abandon(self) -> None:
        """Release a guardian that belongs to the process that we were forked from."""
        self.closed = True
        self._process.returncode = 0  # not our child: nothing to wait for
        self._control.close()
        self._inherited.close()
        for lease in self._leases.copy():
            lease.sock.close()  # its process and its cells are still the owner's
