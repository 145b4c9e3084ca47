from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Final

from dask_limits.limits.ipc import messages, owner_cells, payload, transport
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.ipc.messages import Verdict
from dask_limits.limits.ipc.payload import Payload, pack
from dask_limits.limits.ipc.progress_values import Tell
from dask_limits.limits.limits import Limits
from dask_limits.limits.linux import proctree
from dask_limits.limits.linux.standard_output import Capture
from dask_limits.limits.outcome import Usage
from dask_limits.limits.owner import received
from dask_limits.limits.owner.heartbeat import INTERVAL_S, Heartbeat
from dask_limits.limits.owner.progress_watch import LOOK_EVERY_S, ProgressWatch
from dask_limits.limits.owner.steps import Steps
from dask_limits.limits.owner.versions import Folders
from dask_limits.limits.task import enclosing
from dask_limits.limits.task.process_state import Setting

_MOST_MESSAGES: Final = 1000
"""Of one call, beside its answer: some for each 100 KB of what it has imported. A call that sends
them all the time must not keep its owner busy."""
_numbers = itertools.count(messages.MOST_CALLS, messages.MOST_CALLS)
"""Of the first calls of the requests of this process; those of the others follow."""


class Lease:
    """A task process in its owner's hands, for the calls of one request at a time.

    Attributes:
        number: Of the call that runs, or ran last.
    """

    def __init__(
        self,
        cells: Cells,
        row: int,
        pid: int,
        sock: transport.Socket,
        wake: Callable[[], object],
        heartbeat: Heartbeat,
    ) -> None:
        self._owner_cells = cells
        self.row = row
        self.pid = pid
        self.sock = sock
        self._wake_guardian = wake
        self._heartbeat = heartbeat
        self._patience = INTERVAL_S  # seconds
        transport.set_patience(sock, INTERVAL_S)
        self._receiver = transport.Receiver(sock)
        self._seen_setting: Setting | None = None
        self._state = Payload()  # of which the setting is sent
        self._capture: Capture | None = None
        self._progress: ProgressWatch | None = None
        self._shared: list[int] = []  # inodes that the guardian was told
        self._first_memory = 0  # bytes that it had before its first call
        self._waits_since = 0.0  # seconds of time.monotonic()
        self._held_at_most = 0  # bytes that calls have left there, beyond that
        self.number = 0
        self._first = self._last = 0  # numbers of the calls of the current or the last request
        self.calls = 0  # that it has run
        self.spent = 0.0  # seconds, in these
        self.loading = 0.0  # seconds of them, for modules that another process would load again
        self._is_for_one = False  # request
        self.key = b""  # of verdicts
        self.cost = 0.0  # seconds, of another process
        self.template = 0  # the number of the one that it was forked from
        self.epoch = 0  # of what it has imported; see Templates
        self.changes = 0  # of modules before the current or the last request
        self.folders: Folders = [], ""  # where the owner looked for modules then
        self.prepared: dict[str, str | None] = {}  # what it had imported before its first call
        self.imported: dict[str, str | None] = {}  # by calls of the current or the last request
        self.looked_for: list[str] = []  # modules, by the call that has ended without an answer
        self.since = 0  # when that request was sent, in nanoseconds since 1970
        self.versions: dict[str, int] = {}  # of what it has imported: `changes` before that
        self.reusable = True

    def begin(
        self,
        limits: Limits,
        calls: Sequence[Payload],
        setting: Setting,
        seconds: float,
        tell: Tell | None = None,
    ) -> bool:
        """Send calls that get this setting; the next one begins until they have taken `seconds`.
        With none, the process is for the first of them alone.

        What a single call reports of its progress goes to `tell`.

        False if the process had ended before and cannot have begun any.
        """
        row, cells = self.row, self._owner_cells
        self._is_for_one = seconds <= 0
        self.number = self._first = next(_numbers)
        self._last = self._first + len(calls) - 1
        self.imported, self.loading = {}, 0.0
        self.since = time.time_ns()
        start_method = messages.START_METHODS.index(
            (limits.context or "fork") if limits.isolation == "fresh" else ""
        )
        about_call = owner_cells.ABOUT_CALL.pack(
            time.monotonic(),
            limits.wall_time or 0.0,
            limits.cpu_time or 0.0,
            min(limits.memory or 0, 2**63),
            min(limits.num_processes or 0, 2**63),
            limits.grace_period,
            start_method,
            limits.isolation == "warm",
        )
        cells.put_all(row, owner_cells.START, about_call)
        self._tell_shared(calls[0].shared)  # a call with files goes alone
        cells.put(row, owner_cells.LAST, self._last)
        cells.put(row, owner_cells.CALL, self.number)
        if owner_cells.is_asleep(cells):
            self._wake_guardian()
        self._progress = None if tell is None else ProgressWatch(tell)
        self._have_patience(INTERVAL_S if tell is None else LOOK_EVERY_S)
        try:
            self._send_setting(setting)
            self._send_request(limits, calls, start_method, seconds)
        except ConnectionError:
            return False
        cells.put(row, owner_cells.SENT, self._last)
        return True

    def _tell_shared(self, inodes: list[int]) -> None:
        """Tell the guardian which files do not count as memory of the call."""
        if inodes != self._shared:
            self._shared = inodes
            told = owner_cells.SHARED.pack(*inodes, *[0] * (payload.MOST_SHARED - len(inodes)))
            self._owner_cells.put_all(self.row, owner_cells.SHARED_AT, told)

    def _send_request(
        self, limits: Limits, calls: Sequence[Payload], start_method: int, seconds: float
    ) -> None:
        orders = messages.ORDERS.pack(
            limits.wall_time or 0.0,
            limits.cpu_time or 0.0,
            limits.grace_period,
            start_method,
            limits.capture_output > 0,
            limits.isolation in ("warm", "fresh"),
            self._progress is not None,
            limits.reserves or enclosing.has_reserved(),
            seconds,
            min(limits.memory or 0, 2**63) // 2,
        )
        parts = [orders]
        for call in calls:
            parts += messages.SIZE.pack(len(call.head)), call.head
        fds = calls[0].fds
        if self._progress is not None:
            self._progress.open()
            fds = [*fds, *self._progress.fds]
        if limits.capture_output:
            self._capture = Capture(limits.capture_output)
            self._capture.open()
            fds = [*fds, *self._capture.fds]
        transport.send(self.sock, messages.REQUEST, self.number, *parts, fds=fds)
        if self._capture is not None:
            self._capture.sent()
        if self._progress is not None:
            self._progress.close()

    def _have_patience(self, seconds: float) -> None:
        """Have each wait for its socket end after so many seconds."""
        if seconds != self._patience:
            transport.set_patience(self.sock, seconds)
            self._patience = seconds

    def _send_setting(self, setting: Setting) -> None:
        """Send the owner's setting if it has changed: module path, directory, environment. With
        it goes whether the process is for one request: the first one comes after a setting.
        """
        if setting != self._seen_setting:
            self._seen_setting = setting = setting.copy()
            what = setting.for_another_process(), self._is_for_one
            state = pack(what, pickle.Pickler, self._state)
            transport.send(self.sock, messages.SETTING, self.number, state.head, fds=state.fds)
            state.close()

    def wait(self) -> Steps[received.End | None]:
        """Wait for the end of the call that runs: its answer, or the guardian's verdict.

        The answer of a process that is condemned for this call does not count: the call was not
        done in time, and may have ended only because a signal interrupted a system call.

        None if the guardian or the socket is lost.

        Raises:
            MalformedError: if something came that none of our processes sends.
        """
        sock, capture = self.sock, self._capture
        files = (sock.fileno(),) if capture is None else (sock.fileno(), *capture.listens_to)
        left = _MOST_MESSAGES
        is_there = self.number != self._first  # more answers may be, then
        while left:
            may_block = False if is_there else (yield files)
            try:
                if capture is not None:
                    capture.take_until_readable(sock, self._patience if may_block else 0)
                    may_block = False
                message = self._receiver.receive(0 if may_block else transport.DO_NOT_WAIT)
            except BlockingIOError:  # there is no answer yet
                self._look_for_progress()
                if not is_there:
                    self._note_silence()
                is_there = False
                continue
            except OSError:
                message = None
            if message is None:
                self._look_for_progress()
                return None
            try:
                if (end := self._take(message)) is not None:
                    self._look_for_progress()
                    return end
            finally:
                message.close()
            self._heartbeat.check()
            left -= 1
        raise received.MalformedError("messages without end")

    def go_on(self) -> bool:
        """Begin to wait for the next call of the request.

        False if the process is condemned for the last one: then the next one has not begun.
        """
        ended = self.number
        self.number += 1
        self._owner_cells.put(self.row, owner_cells.CALL, self.number)
        return self._owner_cells.get(self.row, owner_cells.CONDEMNED) != ended

    def _look_for_progress(self) -> None:
        """Tell what the call has reported last. This is also done before its end is told."""
        if self._progress is not None:
            self._progress.look()

    def _note_silence(self) -> None:
        """Tell the guardian that there is no answer: a call can say that it has sent one.

        What is true is when the last wait for it began, not its end: this thread may have waited
        for the interpreter since.
        """
        self._owner_cells.put_float(self.row, owner_cells.SILENT, self._waits_since)
        self._waits_since = time.monotonic()
        self._heartbeat.check()

    def _take(self, message: transport.Message) -> received.End | None:
        """Take a message. None if it does not end a call of the current request."""
        is_early = message.number < self.number
        if message.number > self._last or (is_early and message.kind != messages.VERDICT):
            return None  # of an earlier request, or of none
        if message.kind == messages.SKIPPED and message.number == self._first:
            raise received.MalformedError("the first call of a request is never skipped")
        condemned = self._owner_cells.get(self.row, owner_cells.CONDEMNED) == self.number
        if condemned and message.kind in messages.ANSWERS:
            return None
        what = received.read(message, self.key)
        if is_early:  # it has ended after its answer, so the next one has not begun
            return received.Unbegun(self.number) if message.number >= self._first else None
        if message.number > self.number and not isinstance(what, Verdict | received.Unbegun):
            return None  # it cannot have begun
        if not isinstance(what, dict):
            self.looked_for = received.looked_for(what)
            return what
        if message.kind == messages.IMPORTED:
            self.imported |= what
        else:
            self.prepared |= what
        return None

    def output(self) -> tuple[str | None, str | None]:
        """Standard output and standard error of the call; None if they are not captured."""
        return (None, None) if self._capture is None else self._capture.texts()

    def spend(self, seconds: float) -> float:
        """Note what calls have taken. Returns that without the import of the user's modules, which
        is no time of theirs but what another process costs too.
        """
        seconds -= self.loading
        self.cost += self.loading
        self.spent += seconds
        return seconds

    def usage(self, account: messages.Account) -> Usage:
        """The usage of the call: as its task process says, and as the guardian has seen."""
        wall_time, _, loading, cpu_time, peak, self._first_memory = account
        if self.number == self._first and self.imported and all(self.imported.values()):
            # Modules of the user's are not in templates.
            self.loading = loading
        self._held_at_most += peak
        seen_cpu_time, seen_peak, processes = self._seen()
        cpu_time, peak = max(cpu_time, seen_cpu_time), max(peak, seen_peak)
        stdout, stderr = self.output()
        started = max(time.time() - wall_time, self.since / 1e9)
        return Usage(wall_time, cpu_time, peak, processes, None, stdout, stderr, started)

    def usage_so_far(self, before: float) -> Usage | None:
        """The usage of the call that runs, as the guardian saw at its last look; None if none runs.

        Those before it in its request have taken `before` seconds. From any thread.
        """
        cells, row = self._owner_cells, self.row
        if cells.get(row, owner_cells.CALL) == 0:
            return None
        wall_time = time.monotonic() - cells.get_float(row, owner_cells.START) - before
        started = time.time() - wall_time
        return Usage(max(wall_time, 0.0), *self._seen(), started=started)

    def _seen(self) -> tuple[float, int, int]:
        """CPU time, peak memory and processes, if the guardian has looked at the call."""
        cells, row = self._owner_cells, self.row
        if cells.get(row, owner_cells.SEEN) != self.number:
            return 0.0, 0, 1
        return (
            cells.get_float(row, owner_cells.CPU_USED),
            cells.get(row, owner_cells.PEAK_MEMORY),
            cells.get(row, owner_cells.PEAK_PROCESSES),
        )

    @property
    def memory(self) -> int:
        """The limit of the current or the last calls, in bytes; 0 is none."""
        return self._owner_cells.get(self.row, owner_cells.MEMORY)

    @property
    def has_ended(self) -> bool:
        """Whether the process has ended, as the guardian has seen."""
        return self._owner_cells.get(self.row, owner_cells.GONE) != 0

    def finish(self, calls: int) -> bool:
        """End a request, of which so many calls have run. True if the process is fit for more."""
        self._forget_call()
        self.calls += calls
        for name, file in self.imported.items():
            if file or "." not in name:
                self.versions.setdefault(name, self.changes)
        is_fit = self.reusable and not self._is_for_one
        return is_fit and not self._owner_cells.get(self.row, owner_cells.CONDEMNED)

    def _forget_call(self) -> None:
        if self._capture is not None:
            self._capture.close()
            self._capture = None
        if self._progress is not None:
            self._progress.close()
            self._progress = None
        self._owner_cells.put(self.row, owner_cells.CALL, 0)

    def has_room_for(self, memory: int | None) -> bool:
        """Whether it holds at most half of this limit, in bytes, from earlier calls."""
        if memory is None or 2 * self._held_at_most <= memory:
            return True
        process = proctree.read_process(self.pid)
        if process is None:
            return False
        self._held_at_most = max(process.resident - self._first_memory, 0)
        return 2 * self._held_at_most <= memory

    def close(self) -> None:
        """Release the process, also while a call runs. If this is interrupted, call it again."""
        self._forget_call()
        self._state.close()
        self._receiver.close()
        self.sock.close()
