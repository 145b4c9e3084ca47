"""The guardian's record of a template, and of the task processes that it makes ahead of need."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import select
import signal
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NoReturn

from dask_limits.limits.guardian.strays import Parent
from dask_limits.limits.ipc import messages, task_cells, transport
from dask_limits.limits.linux import files, proctree
from dask_limits.limits.task.import_watch import Excluded
from dask_limits.units import format_bytes

_END_SHARE: Final = 0.7
"""What the end of a process costs, as a share of its start: 1.8 ms after 2.6 ms, with scikit-learn
imported."""
_MOST_AT_ONCE: Final = 8
"""Requests to a template that are not answered. More would not make it faster."""
_MOST_STARTS: Final = 3
"""How often to start a template that ends before it has made a task process."""
_OF_PREPARATION: Final = messages.PREPARED, messages.FAILED, messages.EXCLUDED
_MOST_UNTRUE: Final = 1000  # messages of a template that cannot be true
_NOTHING: Final = transport.Message(0, 0, memoryview(b""), [])
"""Stands for a message that is to be ignored."""
_serials = itertools.count(1)


@dataclass
class Spare:
    """A task process that the owner does not have yet."""

    owner_end: socket.socket  # of its socket
    own_end: socket.socket
    task_cells_fd: int
    pid: int = 0  # as the template says; 0 until then
    cost: float = 0.0  # seconds, of its start and its end
    is_settled: bool = False  # as it says itself
    must_be_ready_at: float = math.inf  # seconds of time.monotonic()

    def close(self) -> None:
        """Close its files. The process then ends by itself."""
        self.owner_end.close()
        self.own_end.close()
        os.close(self.task_cells_fd)


class Template:
    """A template, as its guardian sees it.

    `become` makes a new child of the guardian the template; it gets the socket. That of the
    guardian is registered with `poll`.

    Attributes:
        pid: Its process; 0 while there is none.
        wanted: How many task processes the owner waits for.
        ahead: How many more to have ready.
        spares: Those that are ready.
        living: The pids of all its task processes.
        is_prepared: Whether its process has imported what it is to import. From then on, calls may
            give it children.
        was_prepared: Whether this process or an earlier one has.
        is_retired: Whether another one has taken its place.
        overdue: Why it is used no more, if it or a task process of it was not ready in time.
    """

    def __init__(self, number: int, become: Callable[[int], NoReturn], poll: select.poll) -> None:
        self.number = number
        self.pid = 0
        self.sock: socket.socket | None = None
        self.wanted = self.ahead = 0
        self.spares: deque[Spare] = deque()
        self.living: set[int] = set()
        self.is_prepared = False
        self.was_prepared = number == 0
        self.is_retired = False
        self.overdue = ""
        self._become = become
        self._poll = poll
        self._forking: dict[int, Spare] = {}
        self._helpers: set[int] = set()  # processes that its imports have started
        self._prepare: tuple[bytes, list[int]] | None = None
        self._excluded = b""
        self._starts = self._untrue = 0
        self._is_failing = False  # the last task process has
        self._patience = math.inf  # seconds
        self._most_memory = 0  # bytes that its process may have until it is prepared; 0: any number
        self._asked_at = 0.0  # seconds of time.monotonic()
        self._must_be_ready_at = math.inf  # as well, as for each spare

    def prepare(self, body: bytes, fds: list[int]) -> None:
        """Start it, and have it import what this message, of kind PREPARE, asks for."""
        self._prepare = body, fds
        self._patience, self._most_memory = messages.PREPARE_BODY.unpack_from(body)
        self._asked_at = time.monotonic()
        self._must_be_ready_at = self._asked_at + self._patience
        self.start()

    def start(self) -> None:
        """Start its process."""
        self._starts += 1
        self.is_prepared = self._prepare is None
        ours, theirs = transport.pair()
        ours.setblocking(False)  # what is imported there must not keep us waiting
        with theirs:
            pid = os.fork()
            if pid == 0:
                self._become(theirs.fileno())
        self.pid, self.sock, self._receiver = pid, ours, transport.Receiver(ours)
        self._poll.register(ours, select.POLLIN)
        with contextlib.suppress(ConnectionError):  # it has ended, and is collected soon
            if self._excluded:
                transport.send(ours, messages.EXCLUDED, self.number, self._excluded)
            if self._prepare is not None:
                body, fds = self._prepare
                transport.send(ours, messages.PREPARE, self.number, body, fds=fds)

    def start_again(self, excluded: bytes) -> None:
        """Start it anew, with packages that it must not import."""
        self.lose()
        self._excluded = excluded
        self.start()

    def can_start(self) -> bool:
        """Whether it is worth a try; not if it has ended several times at its start."""
        return self._starts < _MOST_STARTS

    def ask(self) -> None:
        """Ask for as many task processes as are missing. Raises OSError if there is no room."""
        ahead = 0 if self._is_failing else self.ahead  # only the owner's need is worth another try
        missing = self.wanted + ahead - len(self._forking) - len(self.spares)
        if missing <= 0:
            return
        if self.sock is None:
            self.start()
        assert self.sock is not None
        for _ in range(min(missing, _MOST_AT_ONCE - len(self._forking))):
            with contextlib.ExitStack() as undo:
                owner_end, own_end = map(undo.enter_context, transport.pair())
                cells_fd = task_cells.make()
                undo.callback(os.close, cells_fd)
                serial = next(_serials)
                fds = [own_end.fileno(), cells_fd]
                transport.send(self.sock, messages.FORK, serial, fds=fds)
                undo.pop_all()
            ready_at = time.monotonic() + self._patience
            self._forking[serial] = Spare(owner_end, own_end, cells_fd, must_be_ready_at=ready_at)

    def has_message(self) -> bool:
        """Whether there is something to receive, if only that it has ended."""
        if self.sock is None:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def receive(self) -> transport.Message | None:
        """The next message; None if it has ended, or is to end.

        What it imports has its socket too. So nothing here waits; what cannot be true is of kind 0;
        and not much of that is borne.
        """
        try:
            message = self._receiver.receive()
        except ConnectionResetError:
            # It has ended without reading all. This error comes once, before what it has sent.
            message = self._receiver.receive()
        except BlockingIOError:
            return _NOTHING
        except transport.NonsenseError:
            return None
        if message is None:
            return None
        message.close()
        with contextlib.suppress(ValueError, TypeError, struct.error):
            if self._can_be_true(message):
                return message
        self._untrue += 1
        return None if self._untrue > _MOST_UNTRUE else _NOTHING

    def _can_be_true(self, message: transport.Message) -> bool:
        kind, number, body, _ = message
        if kind == messages.ENDED:
            status, *figures = messages.ENDED_BODY.unpack(body)
            os.waitstatus_to_exitcode(status)  # a ValueError if there is none
            return _are_amounts(figures) and not self._has_child(number)
        if kind == messages.FORKED:
            pid, seconds = messages.FORKED_BODY.unpack(body)
            is_its_own = self._has_child(pid) or proctree.read_process(pid) is None
            return is_its_own and pid not in self.living and _are_amounts([seconds])
        if kind == messages.SETTLED:
            bytes(body[messages.SETTLED_BODY.size :]).decode()
            return _are_amounts(messages.SETTLED_BODY.unpack_from(body))
        if kind in (messages.FAILED, messages.UNFORKED) and not bytes(body).decode():
            return False
        if kind == messages.UNFORKED:
            return number in self._forking
        if kind == messages.EXCLUDED and not self._excludes_more(bytes(body)):
            return False
        return kind in _OF_PREPARATION and not self.is_prepared

    def _excludes_more(self, excluded: bytes) -> bool:
        before, now = map(Excluded.unpacked, (self._excluded, excluded))
        return now != before and now == before | now

    def _has_child(self, pid: int) -> bool:
        process = proctree.read_process(pid)
        return process is not None and process.parent == self.pid

    @property
    def as_parent(self) -> Parent:
        """Its process, as one that calls may give children."""
        return Parent(self.pid, self.living | self._helpers, self._is_forking)

    def _is_forking(self, pid: int) -> bool:
        """Whether it has forked this task process, and not said so yet."""
        return any(task_cells.pid(spare.task_cells_fd) == pid for spare in self._forking.values())

    def prepared(self) -> tuple[float, int]:
        """Note that it has imported what it is to import. Returns the seconds and bytes it took."""
        self.is_prepared = self.was_prepared = True
        self._helpers = set(proctree.children_of(self.pid))
        return time.monotonic() - self._asked_at, self._memory()

    def _memory(self) -> int:
        """Resident bytes of its process, and of those below it."""
        if (root := proctree.read_process(self.pid)) is None:
            return 0
        return root.resident + sum(process.resident for process in proctree.descendants_of(root))

    @property
    def is_limited(self) -> bool:
        """Whether it must be looked at often."""
        return bool(self._most_memory and self.pid and not self.was_prepared)

    def take(self, message: transport.Message) -> str:
        """Note that a process was forked, or has settled in. Returns a report if it could not."""
        spare = self._forking.get(message.number)
        if message.kind == messages.FORKED:
            pid, seconds = messages.FORKED_BODY.unpack(message.body)
            self.living.add(pid)
        if spare is None:
            return ""  # it has failed to settle in before
        report = ""
        if message.kind == messages.FORKED:
            spare.pid = pid
        else:
            (seconds,) = messages.SETTLED_BODY.unpack_from(message.body)
            spare.is_settled = True
            self._starts = 0
            report = bytes(message.body[messages.SETTLED_BODY.size :]).decode()
            self._is_failing = bool(report)
        spare.cost += seconds * (1 + _END_SHARE)
        if report:
            self._forking.pop(message.number).close()
        elif spare.is_settled and spare.pid:
            self.spares.append(self._forking.pop(message.number))
        return report

    def not_forked(self, number: int) -> None:
        """Note that there was no room for a process."""
        self._is_failing = True
        self._forking.pop(number).close()

    def ended(self, pid: int, status: int) -> str:
        """Note that one of its processes has ended. Returns a report if it had not settled in."""
        self.living.discard(pid)
        self._helpers.discard(pid)
        for serial, spare in self._forking.items():
            if spare.pid == pid:
                self._is_failing = True
                self._forking.pop(serial).close()
                return f"a new task process {how_ended(status)} before it was ready"
        for spare in self.spares:
            if spare.pid == pid:
                self.spares.remove(spare)
                spare.close()
                break
        return ""

    def end_if_overdue(self, now: float) -> bool:
        """Kill what is not ready in time, or has too much memory. Whether that were task processes,
        and not its own.

        Those end alone: calls may run in others that it has forked.
        """
        late = [spare for spare in self._forking.values() if now > spare.must_be_ready_at]
        is_late = now > self._must_be_ready_at and not self.was_prepared
        is_large = self.is_limited and not self.overdue and self._memory() > self._most_memory
        if not (late or is_late or is_large):
            return False
        what = "a new task process" if late else "the process that imports the modules"
        why = f"was not ready after {self._patience:g} seconds"
        if is_large:
            why = f"took more than {format_bytes(self._most_memory)}"
        self.overdue = f"{what} {why}, and was ended"
        self._must_be_ready_at = math.inf  # once is enough
        for spare in late:
            spare.must_be_ready_at = math.inf
        # Else it forks no more.
        ends_alone = all(spare.pid for spare in late) and not (is_late or is_large)
        for pid in [spare.pid for spare in late] if ends_alone else [self.pid]:
            proctree.send_signal(pid, signal.SIGKILL)
        return ends_alone

    def unregister(self) -> None:
        """Look for no more messages."""
        if self.sock is not None:
            self._poll.unregister(self.sock)
            self.sock.close()
        self.sock = None

    def close_spares(self, but: int = 0) -> None:
        """End the task processes that are ready, but for so many."""
        while len(self.spares) > but:
            self.spares.pop().close()

    def lose(self) -> set[int]:
        """Its process has ended, and with it all that it has forked, whose pids are returned."""
        self.unregister()
        self.close_spares()
        self._helpers.clear()
        while self._forking:
            self._forking.popitem()[1].close()
        forked, self.living, self.pid = self.living, set(), 0
        return forked

    def close(self) -> None:
        """End it."""
        self.lose()
        if self._prepare is not None:
            files.close(self._prepare[1])


def _are_amounts(numbers: Iterable[float]) -> bool:
    return all(0 <= number < math.inf for number in numbers)


def how_ended(status: int) -> str:
    """How a process has ended, in words, by its wait status."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with exit code {code}"
    return f"was ended by signal {-code} ({signal.strsignal(-code)})"
