"""In a job: runs the driver, ends it before the job's wall time does, and submits the next job.

Only two things lead to another job: the time of this one is nearly up, or SLURM has preempted it
and does not start it again by itself. A job that a person cancels gets SIGTERM from SLURM while its
time is not up, and the chain ends.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Mapping
from signal import SIGCHLD, SIGKILL, SIGTERM, SIGUSR1
from typing import Final, NoReturn

import click

from dask_limits.batch_systems.sbatch import SlurmError, cancel, submit, unfinished
from dask_limits.batch_systems.slurm import show_now, time_left
from dask_limits.submit.driver_job import DriverJob

_SIGNALS: Final = {SIGCHLD, SIGTERM, SIGUSR1}
"""All that wakes the supervisor: the end of a process, of the job, and SLURM's "nearly over"."""
_KILL_BEFORE_S: Final = 5.0
"""How long before the end of the job its command is killed, if the margin is large enough."""
_LEFT_S: Final = 30.0
"""How long processes that a command leaves behind may take to end. The canceller of a `Scheduler`
on SLURM that was killed needs some seconds."""
_RETRY_S: Final = 5.0
"""How long to wait after SLURM has refused the next job."""
_CANNOT_RUN: Final = 127  # as shells have it
_PR_SET_PDEATHSIG: Final = 1  # man 2 prctl
_PR_SET_CHILD_SUBREAPER: Final = 36


def supervise(job: DriverJob) -> int:
    """Run the command of this job, and return the job's exit code."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    # What the command leaves behind becomes a child of this process, which can then wait for it.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    return _Supervisor(job, os.environ["SLURM_JOB_ID"]).run()


class _Supervisor:
    def __init__(self, job: DriverJob, id_: str) -> None:
        self._job = job
        self._id = id_
        self._pid = 0  # of the command
        self._code: int | None = None  # the exit code of the command, when it has ended
        self._next = ""  # the id of the next job
        now = time.monotonic()
        self._ends = float("inf") if job.walltime_s is None else now + job.walltime_s

    def run(self) -> int:
        self._say(f"job {self._id}, {self._job.number} of at most {self._job.times}")
        self._pid = os.fork()
        if self._pid == 0:
            self._become_command()
        is_up = self._wait_until_time_is_up()
        ended = self._code
        if ended is None:
            os.kill(self._pid, SIGTERM)
        if is_up:
            self._say("the time of this job is nearly up")
        elif ended == 0 or not self._is_preempted():
            self._wait_for_the_rest(time.monotonic() + _LEFT_S)
            return self._end_of_chain()
        if self._job.is_last:
            self._say(f"--times {self._job.times} is reached: no further job is submitted")
        else:
            self._submit_next()
        if not self._wait_for_the_rest(self._kill_at) or (self._next and self._is_cancelled()):
            return self._end_of_chain()
        if self._next:
            self._say(f"job {self._next} goes on")
            return 0
        return self._code or 1  # it has not come to its end, whatever it says

    @property
    def _kill_at(self) -> float:
        return self._ends - min(_KILL_BEFORE_S, self._job.margin_s / 4)

    def _wait_until_time_is_up(self) -> bool:
        """Wait; return False if the command has ended, or SLURM has ended the job, before."""
        self._ask_for_end()
        while True:
            self._collect()
            if self._code is not None:
                return False
            left = self._ends - self._job.margin_s - time.monotonic()
            if left <= 0:
                self._ask_for_end()  # somebody may have given the job more time
                if self._ends - self._job.margin_s <= time.monotonic():
                    return True
                continue
            received = _wait_for_signal(left)
            if received == SIGTERM:
                return False
            if received == SIGUSR1:  # somebody may have given it less; it may come a minute early
                self._ask_for_end()

    def _ask_for_end(self) -> None:
        """Ask SLURM when the job ends, which can be changed; keep what is known if it is silent."""
        if (left := time_left(self._id)) is not None:
            self._ends = time.monotonic() + left

    def _submit_next(self) -> None:
        """Submit the next job, unless this one has done so before SLURM started it again."""
        while True:
            try:
                others = [id_ for id_ in unfinished(self._job.name) if id_ != self._id]
                job = self._job.next()
                self._next = (
                    others[0] if others else submit(job.script(), job.sbatch_options(self._id))
                )
                return
            except SlurmError as error:
                self._say(f"the next job is not submitted: {error}")
            if time.monotonic() + _RETRY_S > self._kill_at:
                return
            if signal.sigtimedwait({SIGTERM}, _RETRY_S) is not None:
                return

    def _end_of_chain(self) -> int:
        """Return the exit code of the command, and see to it that no job follows."""
        try:
            for id_ in unfinished(self._job.name):
                if id_ != self._id:
                    cancel(id_)
        except SlurmError as error:
            self._say(f"a next job may be left in the queue: {error}")
        code = 128 + SIGTERM if self._code is None else self._code
        self._say(f"ended with exit code {code}: no further job is submitted")
        return code

    def _become_command(self) -> NoReturn:
        """In the child: become the command, in a process group that can be ended as a whole."""
        try:
            os.setsid()
            # Not all SLURMs find what is left when the first process of a job is killed.
            _prctl(_PR_SET_PDEATHSIG, SIGKILL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # which Python ignores
                signal.signal(number, signal.SIG_DFL)
            os.execvp(self._job.command[0], self._job.command)
        except OSError as error:
            self._say(f"cannot run {self._job.command[0]}: {error.strerror}")
        finally:
            os._exit(_CANNOT_RUN)

    # -- what SLURM has done with the job ----------------------------------------------------

    def _is_preempted(self) -> bool:
        """Whether SLURM has preempted the job, and does not start it again by itself."""
        about = show_now("job", self._id)
        return about is not None and _is_preempted(about)

    def _is_cancelled(self) -> bool:
        """Whether a person has cancelled the job, also after its time was nearly up."""
        about = show_now("job", self._id) or {}
        return is_cancelled(about, _restarts())

    # -- processes -----------------------------------------------------------------------------

    def _wait_for_the_rest(self, until: float) -> bool:
        """Wait for the end of the command and all that it has started, and then kill it.

        Return False, at once, if a person cancels the job: SLURM kills it in some seconds.
        """
        told = False
        while self._collect():
            if (left := until - time.monotonic()) <= 0:
                self._signal_group(SIGKILL)
                while self._code is None:
                    _wait_for_signal(1)
                    self._collect()
                return True
            if self._code is not None and not told:
                told = True
                self._signal_group(SIGTERM)  # for what it has left behind
            if _wait_for_signal(left) == SIGTERM and self._next and self._is_cancelled():
                return False
        return True

    def _collect(self) -> bool:
        """Take note of children that have ended. Return whether there are others."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                code = os.waitstatus_to_exitcode(status)
                self._code = code if code >= 0 else 128 - code  # as shells have it

    def _signal_group(self, number: int) -> None:
        try:
            os.killpg(self._pid, number)
        except ProcessLookupError:
            pass  # nothing is left of it

    def _say(self, what: str) -> None:
        click.echo(f"dask-limits submit: {what}")


def is_cancelled(about: Mapping[str, str], restarts: int) -> bool:
    """Whether a person has cancelled the job that these fields of `scontrol show job` are of.

    SLURM itself ends jobs whose time is up, preempted ones, and those that it starts again, more
    than `restarts` times.

    Example:
        >>> is_cancelled({"JobState": "COMPLETING", "Reason": "None", "Restarts": "0"}, 0)
        True
        >>> is_cancelled({"JobState": "COMPLETING", "Reason": "TimeLimit", "Restarts": "0"}, 0)
        False
    """
    if about.get("JobState", "RUNNING") in ("RUNNING", "SUSPENDED"):
        return False
    by_slurm = about.get("Reason") == "TimeLimit" or _is_preempted(about)
    return not by_slurm and int(about.get("Restarts", 0)) <= restarts


def _is_preempted(about: Mapping[str, str]) -> bool:
    # One that SLURM starts again has no time of preemption any more.
    return about.get("PreemptTime", "None") not in ("None", "Unknown", "N/A")


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, value)


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def _wait_for_signal(seconds: float) -> int | None:
    """Wait for one of our signals; return its number, or None when the time is over."""
    received = signal.sigtimedwait(_SIGNALS, min(max(seconds, 0), 3600))
    return None if received is None else received.si_signo
