"""The guardian: a single-threaded process that starts task processes, watches and ends them.

It does not fork task processes itself: it has a template for that, and more templates for what
calls import.
"""

from __future__ import annotations

import functools
import gc
import os
import resource
import select
import signal
import socket
import struct
import time
import traceback
from collections.abc import Callable
from typing import Final, NoReturn

from dask_limits.limits.guardian import template as template_process
from dask_limits.limits.guardian.leftovers import Leftovers
from dask_limits.limits.guardian.monitor import TICK_S
from dask_limits.limits.guardian.remains import Remains
from dask_limits.limits.guardian.strays import Parent, Strays
from dask_limits.limits.guardian.task_process import TaskProcess
from dask_limits.limits.guardian.template import ChildSignal, EndedProcess, collect_ended
from dask_limits.limits.guardian.templates import Template, how_ended
from dask_limits.limits.ipc import messages, owner_cells, transport
from dask_limits.limits.ipc.cells import Cells
from dask_limits.limits.linux import proctree

_IDLE_TICKS: Final = 50
"""Ticks without a new call before the guardian sleeps until a look at a call is due. Waking it
costs the owner a message, 10 us."""
_LONGEST_SLEEP_S: Final = 1.0
"""How often, at least, the guardian checks that its reaper lives."""
_MIN_WAIT_S: Final = 0.001
_CHECK_S: Final = 0.05
"""How often, while calls run, the guardian checks that a call has not stopped our other processes.
It takes 10 us."""
_STRAYS_S: Final = TICK_S / 2
"""How often to look for strays at most, so that each look at a call has had one before. It takes
9 us with a template."""
_IDLE_S: Final = 10.0
"""How long a task process may be idle before it is ended. A new one costs a millisecond, an idle
one some memory."""
_KEPT_WARM: Final = len(os.sched_getaffinity(0))
"""How many idle processes of warm calls are kept for longer: those that a steady load uses."""


class GuardianProcess:
    """The guardian's loop; `control` is its socket with the owner."""

    def __init__(self, control: socket.socket, cells: Cells, remains: Remains, reaper: int) -> None:
        self._control = control
        self._receiver = transport.Receiver(control)
        self._owner_cells = cells
        self._by_row: dict[int, TaskProcess] = {}
        self._by_pid: dict[int, TaskProcess] = {}
        # Task processes get the owner's own limit.
        self._open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._open_files[1],) * 2)
        self._free_rows = list(range(owner_cells.ROWS - 1, 0, -1))
        self._idle_ticks = 0
        self._next_tidying = 0.0
        self._orphans: set[int] = set()  # what calls have detached, and is still there
        self._leftovers = Leftovers()
        self._strays = Strays()
        self._remains = remains
        self._next_stray_look = 0.0
        self._reaper = reaper
        self._next_check = 0.0
        self._children = ChildSignal()
        self._poll = select.poll()
        self._poll.register(control, select.POLLIN)
        self._poll.register(self._children, select.POLLIN)
        gc.freeze()  # what exists by now stays in pages that the children share
        self._templates: dict[int, Template] = {}
        self._current = self._add_template(0)  # the one that was asked for last
        self._current.start()

    def run(self) -> None:
        """Watch until the owner or the reaper ends."""
        try:
            while os.getppid() == self._reaper and self._step():
                pass
        except ConnectionError:
            pass  # the owner has ended while it was sent an answer
        finally:
            signal.set_wakeup_fd(-1)

    def _step(self) -> bool:
        """Wait for an event, and act on it. False if the owner has ended."""
        ready = {fd for fd, _ in self._poll.poll(self._patience_ms())}
        if self._children.fileno() in ready:
            self._children.clear()
        for child in collect_ended():
            self._bury(child)
        for template in list(self._templates.values()):
            if template.has_message():  # not by `ready`: a new template may have an old number
                self._take_from(template)
        if self._orphans or time.monotonic() >= self._next_stray_look:
            self._end_strays()
        if self._control.fileno() in ready and not self._take_message():
            return False
        owner_cells.count_step(self._owner_cells)
        now = time.monotonic()
        self._continue_others(now)
        self._look(now)
        return True

    def _continue_others(self, now: float) -> None:
        """Continue reaper and templates if a call has stopped them; the reaper does it for us."""
        if now < self._next_check:
            return
        self._next_check = now + _CHECK_S
        for pid in (self._reaper, *(template.pid for template in self._templates.values())):
            if proctree.is_stopped(pid):
                proctree.send_signal(pid, signal.SIGCONT)

    def _patience_ms(self) -> float:
        """How long to wait for an event, in milliseconds."""
        wait = TICK_S
        if self._idle_ticks > _IDLE_TICKS:
            if owner_cells.is_asleep(self._owner_cells):
                wait = _LONGEST_SLEEP_S
            else:
                # The owner may be starting a call, having seen that we are awake: look once more.
                owner_cells.set_asleep(self._owner_cells, True)
        now = time.monotonic()
        for process in self._by_row.values():
            wait = min(wait, max(process.next_look - now, _MIN_WAIT_S))
        return wait * 1000

    def _take_message(self) -> bool:
        """Handle one message of the owner. False if it has ended."""
        message = self._receiver.receive()
        if message is None:
            return False
        kind, row, body, fds = message
        if kind == messages.SPAWN:
            self._want(row)
        elif kind == messages.PREPARE:
            template = self._add_template(row)
            self._start(template, functools.partial(template.prepare, bytes(body), fds))
        elif kind == messages.WAKE:
            owner_cells.set_asleep(self._owner_cells, False)
            self._idle_ticks = 0
        elif (process := self._by_row.get(row)) is None:
            pass  # a call to cancel that has ended, and whose process was released, before
        elif kind == messages.END:
            self._release(process)
        elif kind == messages.CANCEL:
            (number,) = struct.unpack("=Q", body)
            process.cancel(number)
        return True

    def _add_template(self, number: int) -> Template:
        template = Template(number, self._become_template, self._poll)
        self._templates[number] = template
        return template

    def _become_template(self, fd: int) -> NoReturn:
        """In a new child: keep nothing of ours in memory."""
        self._owner_cells.close()
        for process in self._by_row.values():
            process.close()
        template_process.run(fd, self._open_files)

    def _want(self, number: int) -> None:
        """The owner waits for a task process of this template."""
        # One that was retired meanwhile has a successor, and may end at any moment.
        in_use = {n: t for n, t in self._templates.items() if not t.is_retired}
        template = in_use.get(number) or in_use[max(in_use)]
        before, self._current = self._current, template
        template.wanted += 1
        self._serve(template)
        if before is not template:
            self._serve(before)  # which closes its spares

    def _serve(self, template: Template) -> None:
        """Give the owner the task processes that it waits for, and keep one ready for the next."""
        try:
            while template.wanted and template.spares:
                if not self._free_rows and any(p.released for p in self._by_row.values()):
                    break  # one is free as soon as its process has ended
                self._hand_out(template)
                template.wanted -= 1
            template.ahead = int(template is self._current and bool(self._by_row))
            template.close_spares(template.ahead)
            template.ask()
        except ConnectionError:
            pass  # it has ended, and is collected soon, or the owner has
        except OSError as error:
            self._refuse_all(template, str(error))

    def _hand_out(self, template: Template) -> None:
        """Give the owner a task process."""
        spare, cells = template.spares[0], self._owner_cells
        if not self._free_rows:
            self._refuse(f"{owner_cells.ROWS - 1} calls are running, the maximum")
            return
        row = self._free_rows[-1]
        cells.clear(row)
        process = TaskProcess(row, spare, cells, self._remains.groups, self._leftovers)
        self._free_rows.pop()
        template.spares.popleft()
        self._strays.add(process.family)
        self._by_row[row] = self._by_pid[spare.pid] = process
        body = messages.SPAWNED_BODY.pack(spare.pid, spare.cost, template.number, process.key)
        with spare.owner_end as end:  # also if the owner has ended
            transport.send(self._control, messages.SPAWNED, row, body, fds=[end.fileno()])

    def _refuse(self, why: str) -> None:
        transport.send(self._control, messages.REFUSED, 0, why.encode())

    def _refuse_all(self, template: Template, why: str) -> None:
        while template.wanted:
            template.wanted -= 1
            self._refuse(why)

    def _refuse_one(self, template: Template, report: str) -> None:
        """A task process has failed before it was ready: so has the call that waits for it."""
        if report and template.wanted:
            template.wanted -= 1
            body = report.encode()
            transport.send(self._control, messages.UNPREPARED, template.number, body)

    def _take_from(self, template: Template) -> None:
        """Handle one message of a template, or of a task process that has settled in."""
        message = template.receive()
        if message is None:
            template.unregister()  # it is collected soon, or ends because of this
        elif message.kind == messages.PREPARED:
            self._prepared(template)
        elif message.kind == messages.FAILED:
            self._failed(template, bytes(message.body).decode())
        elif message.kind == messages.EXCLUDED:
            excluded = bytes(message.body)
            self._start(template, functools.partial(template.start_again, excluded))
        elif message.kind == messages.ENDED:
            ended = EndedProcess(message.number, *messages.ENDED_BODY.unpack(message.body))
            if ended.pid in template.living or ended.pid not in self._by_pid:
                self._bury(ended)
        elif message.kind == messages.UNFORKED:
            template.not_forked(message.number)
            self._refuse_all(template, bytes(message.body).decode())
        else:
            self._refuse_one(template, template.take(message))
            self._serve(template)

    def _start(self, template: Template, start: Callable[[], None]) -> None:
        """Start a template that is to import something, if there is room for it."""
        try:
            start()
        except OSError as error:
            self._failed(template, str(error))

    def _failed(self, template: Template, report: str) -> None:
        """A template, or each of its task processes, is never ready."""
        owner_cells.note_template(self._owner_cells, template.number)
        transport.send(self._control, messages.FAILED, template.number, report.encode())
        while template.wanted:
            self._refuse_one(template, report)
        self._retire(template)

    def _prepared(self, template: Template) -> None:
        """A template has imported what it was to import."""
        owner_cells.note_ready(self._owner_cells, template.number, *template.prepared())
        for other in list(self._templates.values()):
            if 0 < other.number < template.number:
                template.wanted, other.wanted = template.wanted + other.wanted, 0
                self._retire(other)
        self._serve(template)

    def _retire(self, template: Template) -> None:
        """End a template when the task processes that it has forked have ended."""
        template.is_retired = True
        template.close_spares()
        self._end_if_retired(template)

    def _end_if_retired(self, template: Template) -> None:
        if template.is_retired and not template.living:
            template.close()
            self._templates.pop(template.number, None)

    def _release(self, process: TaskProcess) -> None:
        """The owner needs this process no more: only now another one may have its row."""
        process.released = True
        if process.dead:
            self._forget(process)
        elif not process.cause:
            process.kill("released")

    def _forget(self, process: TaskProcess) -> None:
        del self._by_row[process.row]
        self._free_rows.append(process.row)
        self._strays.remove(process.family)
        process.close()
        for template in list(self._templates.values()):
            if template.wanted:
                self._serve(template)

    def _look(self, now: float) -> None:
        """Look at each task process, and take the next step in ending those that are to end."""
        busy = False
        for process in list(self._by_row.values()):
            try:
                busy |= process.look(now)
            except Exception:  # an error with one process must not end all others
                traceback.print_exc()
                process.kill(process.cause or "died")
        for template in list(self._templates.values()):
            if template.end_if_overdue(now) and not template.is_retired:
                self._failed(template, template.overdue)
            busy |= template.is_limited
        if now >= self._next_tidying:
            self._next_tidying = now + _LONGEST_SLEEP_S
            self._give_back(now)
        if busy:
            self._idle_ticks = 0
            owner_cells.set_asleep(self._owner_cells, False)
        else:
            self._idle_ticks += 1

    def _give_back(self, now: float) -> None:
        """End the task processes that have been idle for long, and the spare after the last."""
        idle = [p for p in self._by_row.values() if not p.released and p.idle_s(now) > _IDLE_S]
        warm = sorted((p for p in idle if p.is_warm), key=lambda p: p.idle_s(now))
        for process in idle:
            if process not in warm[:_KEPT_WARM]:
                process.let_go()
        if not self._by_row:
            self._current.close_spares()

    def _bury(self, ended: EndedProcess) -> None:
        """A process has ended: if it is a task process, judge the call that it ran, if any."""
        for template in list(self._templates.values()):
            while ended.pid == template.pid and template.has_message():
                self._take_from(template)  # what it has sent before it ended
            if ended.pid == template.pid:
                self._lost(template, ended.status)
            else:
                if report := template.ended(ended.pid, ended.status):
                    self._refuse_one(template, report)
                    self._serve(template)
                self._end_if_retired(template)
        self._remains.note_end(ended.pid)
        process = self._by_pid.pop(ended.pid, None)
        if process is None:
            self._strays.note_end(ended)
            return  # a spare, or a stray of a call
        self._next_stray_look = 0.0  # what it has detached is ours now
        process.bury(ended)
        if process.released:
            self._forget(process)

    def _lost(self, template: Template, status: int) -> None:
        """A template has ended by itself. All that it has forked ends with it."""
        forked = template.lose()
        for pid in forked:
            if proctree.read_process(pid) is None:  # it had been collected, and not reported
                self._bury(EndedProcess(pid, status=signal.SIGKILL, cpu_time=0.0, peak_memory=0))
        if not template.was_prepared or template.overdue:
            how = f"the process that imported the modules {how_ended(status)}"
            self._failed(template, template.overdue or how)
        elif template.is_retired:
            self._end_if_retired(template)
        elif not template.can_start():
            self._refuse_all(template, "the process that makes task processes ends at once")
        else:
            self._serve(template)

    def _end_strays(self) -> None:
        """End what calls have put beside their processes, once they are over.

        Their sessions tell whose they are, unless they have made one of their own. Then one that we
        see first now has come from a task process that has ended just now, or from another orphan:
        calls that have no answer yet wait for it.
        """
        self._next_stray_look = time.monotonic() + _STRAYS_S
        templates = [template for template in self._templates.values() if template.pid]
        own = self._remains.helpers.pids.union(template.pid for template in templates)
        parents = (template.as_parent for template in templates if template.is_prepared)
        orphans = self._strays.look([Parent(os.getpid(), own), *parents])
        new = orphans.keys() - self._orphans
        # A template may not have told us yet that a task process has ended, or has ended itself.
        sessions = {orphans[pid].session for pid in new} & self._by_pid.keys()
        self._leftovers.note_end(s for s in sessions if s in orphans or proctree.has_ended(s))
        self._leftovers.end(orphans)
        if orphans or self._orphans:
            for process in self._by_row.values():
                process.note_orphans(orphans, self._orphans)
        else:
            self._remains.remove()
        self._orphans = set(orphans)
