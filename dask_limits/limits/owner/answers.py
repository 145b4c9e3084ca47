"""Makes outcomes of the messages that say how calls ended."""

from __future__ import annotations

import signal
from dataclasses import replace
from typing import Any, Final

from dask_limits import exceptions
from dask_limits.limits.breaches import BREACHES, breach, is_in_import, where
from dask_limits.limits.ipc.messages import Verdict
from dask_limits.limits.limits import Limits
from dask_limits.limits.outcome import Usage
from dask_limits.limits.owner.lease import Lease
from dask_limits.limits.owner.received import Ended
from dask_limits.limits.packed_outcome import PackedOutcome
from dask_limits.limits.tracebacks import users_stacks
from dask_limits.units import format_bytes

_SIGNAL_NAMES: Final = {number.value: number.name for number in signal.Signals}
_NOTHING_RAN: Final = Usage(wall_time=0.0, cpu_time=0.0)
_ENDS: Final[dict[str, tuple[type[exceptions.CallError], str]]] = {
    "cancelled": (exceptions.CallCancelledError, "was cancelled"),
    "deaf": (
        exceptions.CrashError,
        "was ended, and its result is lost, because it closed or wrote to a file descriptor that is"
        " not its own: the socket of its process",
    ),
    "mute": (
        exceptions.CrashError,
        "ended, but its process did not send the result and was killed: the call has stopped or"
        " damaged that process",
    ),
    "guardian lost": (
        exceptions.GuardianLostError,
        "was ended because the process that watches its limits was killed. It may have done part of"
        " its work. The next call starts a new watching process",
    ),
}
"""Ends that are no breach, exit or signal: the causes of a verdict (see `Verdict`), and more."""


class Outcomes:
    """Makes the outcome of one call of the function of this name."""

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.limits = limits

    def of(self, lease: Lease, end: Ended | Verdict) -> PackedOutcome[Any]:
        """The outcome of a call that ended so, as the task process says, or the guardian.

        If the task process cannot run another call, its lease is marked.
        """
        if isinstance(end, Verdict):
            lease.reusable = False
            return self._of_verdict(lease, end)
        usage = lease.usage(end.account)
        outcome: PackedOutcome[Any] = PackedOutcome(self.name, self.limits, usage)
        outcome = outcome.with_answer(end.answer)
        breached = _breached(self.limits, usage, end.account.longest_step)
        if not breached:
            return outcome
        # The call ended before the guardian saw that it was over a limit.
        over = breach(self.name, self.limits, breached, usage, "")
        return outcome.failed(over, cause=outcome.exception)

    def ended(
        self,
        how: str,
        usage: Usage | None = None,
        stacks: str = "",
        cause: Exception | None = None,
    ) -> PackedOutcome[Any]:
        """The outcome of a call that ended in one of the ways in `_ENDS`."""
        make, text = _ENDS[how]
        shown = where(stacks) if how == "mute" else ""
        error = make(f"{self.name}() {text}{shown}")
        error.__cause__ = cause
        return self.failed(error, usage, stacks)

    def refused(self, why: str) -> PackedOutcome[Any]:
        """The outcome of a call that was not started."""
        return self.failed(exceptions.CallError(f"{self.name}() could not be started: {why}"))

    def unprepared(self, why: str, traceback: str) -> PackedOutcome[Any]:
        """The outcome of a call that was not started because no process could be prepared."""
        error = exceptions.PreloadError(
            f"{self.name}() could not be started, because what was to be done before it failed"
            f" (preload or initializer): {why}"
        )
        if traceback:
            error.__cause__ = exceptions.RemoteTraceback(traceback)
        return self.failed(error)

    def failed(
        self, error: exceptions.CallError, usage: Usage | None = None, stacks: str = ""
    ) -> PackedOutcome[Any]:
        """The outcome with this error; without usage if nothing is known of it."""
        end: PackedOutcome[Any] = PackedOutcome(self.name, self.limits, usage or _NOTHING_RAN)
        end = end.failed(error, stacks=stacks, cause=error.__cause__)
        error.usage = usage
        return end

    def _of_verdict(self, lease: Lease, verdict: Verdict) -> PackedOutcome[Any]:
        stdout, stderr = lease.output()
        usage = replace(verdict.usage, stdout=stdout, stderr=stderr)
        status = usage.exit_code
        stacks = users_stacks(verdict.stacks)
        if verdict.cause in _ENDS:
            return self.ended(verdict.cause, usage, stacks)
        error: exceptions.CallError
        if verdict.cause in BREACHES:
            modules = lease.looked_for if is_in_import(verdict.stacks) else ()
            its = stacks, verdict.child, modules
            error = breach(self.name, self.limits, verdict.cause, usage, *its)
            if status is None:
                undying = "its process does not end because it is in an uninterruptible sleep"
                error.args = (f"{error} ({undying})",)
        elif status is not None and status >= 0:
            error = exceptions.ExitError.of(self.name, status)
        else:
            error = self._crash_error(-(status or 0), verdict, stacks)
        return self.failed(error, usage, stacks)

    def _crash_error(self, number: int, verdict: Verdict, stacks: str) -> exceptions.CrashError:
        name = _SIGNAL_NAMES.get(number, f"signal {number}")
        kind, text = exceptions.CrashError, f"crashed with {name}"
        if number == signal.SIGKILL and verdict.system_memory:
            kind = exceptions.SystemMemoryError
            text = (
                "was killed by the kernel because memory had run out; it used "
                f"{format_bytes(verdict.usage.peak_memory)}. "
                "Set a memory limit, or run fewer calls at a time"
            )
        elif number == signal.SIGKILL:
            text = f"was killed by {name}, which dask_limits did not send"
        error = kind(f"{self.name}() {text}{where(stacks)}")
        error.signal = number
        return error


def _breached(limits: Limits, usage: Usage, longest_step: float) -> str:
    """The name of the first limit that this usage exceeds; empty if it exceeds none."""
    grace = limits.grace_period
    if limits.wall_time is not None and longest_step > limits.wall_time + grace:
        return "wall_time"
    if limits.cpu_time is not None and usage.cpu_time > limits.cpu_time + grace:
        return "cpu_time"
    if limits.memory is not None and usage.peak_memory > limits.memory:
        return "memory"
    if limits.num_processes is not None and usage.num_processes > limits.num_processes:
        return "num_processes"
    return ""
