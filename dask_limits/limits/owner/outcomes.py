"""Makes outcomes of the messages that say how calls ended."""

from __future__ import annotations

import pickle
import signal
from typing import Final, Generic, TypeVar

from dask_limits.exceptions import (
    CallCancelledError,
    CallError,
    CallPicklingError,
    CrashError,
    ExitError,
    GuardianLostError,
    SystemMemoryError,
)
from dask_limits.limits.breaches import BREACHES, breach, where
from dask_limits.limits.ipc import messages
from dask_limits.limits.ipc.messages import Verdict
from dask_limits.limits.ipc.transport import Message
from dask_limits.limits.limits import Limits
from dask_limits.limits.outcome import Usage
from dask_limits.limits.owner.lease import Lease
from dask_limits.limits.packed_outcome import PackedOutcome
from dask_limits.limits.tracebacks import users_stacks
from dask_limits.units import format_bytes

R = TypeVar("R")

_ANSWERS: Final = {
    messages.RETURNED,
    messages.RAISED,
    messages.EXITED,
    messages.UNPICKLABLE,
    messages.BREACHED,
}


class Outcomes(Generic[R]):
    """Makes the outcome of one call.

    Args:
        name: The name of the function.
        limits: The limits of the call.
    """

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self.limits = limits

    def by_message(self, lease: Lease, message: Message) -> PackedOutcome[R]:
        """The outcome that a message tells of.

        Args:
            lease: The task process that ran the call. It is marked if it cannot run another.
            message: The message, from the task process or from the guardian.
        """
        if message.kind == messages.VERDICT:
            lease.reusable = False
            return self._by_verdict(lease, pickle.loads(message.body))
        if message.kind not in _ANSWERS or len(message.body) <= messages.ACCOUNT.size:
            lease.reusable = False
            return self.broken()
        usage, longest_step = _account(lease, message.body)
        head = message.body[messages.ACCOUNT.size :]
        end = PackedOutcome[R].of_answer(
            self.name, self.limits, usage, message.kind, head, message.fds
        )
        breached = _breached(self.limits, usage, longest_step)
        if not breached:
            return end
        # The call ended before the guardian saw that it was over a limit.
        return end.failed(breach(self.name, self.limits, breached, usage, ""), cause=end.exception)

    # -- from the guardian's verdict -----------------------------------------------------------

    def _by_verdict(self, lease: Lease, verdict: Verdict) -> PackedOutcome[R]:
        stdout, stderr = lease.output()
        usage = Usage(
            wall_time=verdict.wall_time,
            cpu_time=verdict.cpu_time,
            peak_memory=verdict.peak_memory,
            num_processes=verdict.peak_processes,
            exit_code=verdict.status,
            stdout=stdout,
            stderr=stderr,
        )
        stacks = users_stacks(verdict.stacks)
        error: CallError
        if verdict.cause in BREACHES:
            error = breach(self.name, self.limits, verdict.cause, usage, stacks, verdict.child)
            if verdict.status is None:
                undying = "its process does not end because it is in an uninterruptible sleep"
                error.args = (f"{error} ({undying})",)
        elif verdict.cause == "cancelled":
            return self.cancelled(usage)
        elif verdict.cause == "deaf":
            return self.broken(usage)
        elif verdict.cause == "mute":
            return self._mute(usage, stacks)
        elif verdict.status is not None and verdict.status >= 0:
            error = ExitError.of(self.name, verdict.status)
        else:
            error = self._crash_error(-(verdict.status or 0), verdict, usage, stacks)
        return self._failed(usage, error, stacks=stacks)

    def _crash_error(self, number: int, verdict: Verdict, usage: Usage, stacks: str) -> CrashError:
        try:
            name = signal.Signals(number).name
        except ValueError:
            name = f"signal {number}"
        if number == signal.SIGKILL and verdict.system_memory:
            kind: type[CrashError] = SystemMemoryError
            text = (
                f"{self.name}() was killed by the kernel because memory had run out; it used"
                f" {format_bytes(usage.peak_memory)}. Set a memory limit, or run fewer calls at a"
                " time"
            )
        elif number == signal.SIGKILL:
            kind = CrashError
            text = f"{self.name}() was killed from outside by {name}"
        else:
            kind = CrashError
            text = f"{self.name}() crashed with {name}"
        error = kind(text + where(stacks))
        error.signal = number
        return error

    # -- other ends ----------------------------------------------------------------------------

    def cancelled(self, usage: Usage | None = None) -> PackedOutcome[R]:
        """The outcome of a call that was cancelled."""
        return self._failed(usage, CallCancelledError(f"{self.name}() was cancelled"))

    def guardian_lost(self) -> PackedOutcome[R]:
        """The outcome of a call whose guardian was killed while it ran."""
        text = (
            f"{self.name}() was ended because the process that watches its limits was killed."
            " It may have done part of its work. The next call starts a new watching process"
        )
        return self._failed(None, GuardianLostError(text))

    def broken(self, usage: Usage | None = None) -> PackedOutcome[R]:
        """The outcome of a call that broke the socket for its answer."""
        text = (
            f"{self.name}() was ended, and its result is lost, because it closed or wrote to a file"
            " descriptor that is not its own: the socket of its process"
        )
        return self._failed(usage, CrashError(text))

    def _mute(self, usage: Usage, stacks: str) -> PackedOutcome[R]:
        text = (
            f"{self.name}() ended, but its process did not send the result and was killed: the call"
            " has stopped or damaged that process"
        )
        return self._failed(usage, CrashError(text + where(stacks)), stacks=stacks)

    def unpicklable(self, error: CallPicklingError) -> PackedOutcome[R]:
        """The outcome of a call that cannot be pickled."""
        return self._failed(None, error)

    def refused(self, why: str) -> PackedOutcome[R]:
        """The outcome of a call that was not started."""
        return self._failed(None, CallError(f"{self.name}() could not be started: {why}"))

    def _failed(
        self, usage: Usage | None, error: CallError, *, stacks: str = ""
    ) -> PackedOutcome[R]:
        """An outcome with this error, whose attributes are set."""
        used = usage or Usage(wall_time=0.0, cpu_time=0.0)
        end = PackedOutcome[R](self.name, self.limits, used)
        failed = end.failed(error, stacks=stacks, cause=error.__cause__)
        error.usage = usage
        return failed


def _account(lease: Lease, body: memoryview) -> tuple[Usage, float]:
    """The usage of a call, and the seconds of its longest step without progress."""
    wall_time, step, cpu_time, children, peak = messages.ACCOUNT.unpack_from(body)
    lease.children_cpu_time = children
    lease.peak_memory = peak
    seen_memory, seen_processes, seen_cpu_time = lease.seen()
    stdout, stderr = lease.output()
    usage = Usage(
        wall_time=wall_time,
        cpu_time=max(cpu_time, seen_cpu_time),
        peak_memory=max(peak, seen_memory),
        num_processes=seen_processes,
        stdout=stdout,
        stderr=stderr,
    )
    return usage, step


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
