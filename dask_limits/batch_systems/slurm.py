"""What SLURM says of jobs: the commands `squeue` and `scontrol`, and what they print."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from dask_limits.batch_systems.job_state import JobState
from dask_limits.batch_systems.walltimes import walltime_seconds

_ANSWER_S: Final = 5.0
"""How long a command of SLURM may take. A busy controller answers in one or two seconds. A dead one
makes the command wait for minutes; then we go on without an answer."""
_LOG_BYTES: Final = 8192
"""How much of the end of a job's log is read: SLURM's messages are the last in it."""


async def job_state(system: str, job: str) -> JobState | None:
    """The state of a job now. SLURM knows ended jobs too, for some minutes.

    None if the batch system is not SLURM, does not answer, or does not know the job.
    """
    fields = await show("job", job) if system == "slurm" and job else None
    return None if fields is None else state_of(fields)


async def job_states(jobs: Iterable[str]) -> dict[str, JobState] | None:
    """The states of several jobs by their ids, from one `squeue`; None if SLURM does not answer.

    Jobs that SLURM does not know are left out.
    """
    # squeue fails for a single id that it does not know, but not for several.
    ids = ",".join(job for job in jobs for _ in range(2))
    if not ids:
        return {}
    text = await _answer("squeue", "--noheader", "--states=all", "--jobs", ids, "-o", "%F|%T|%r")
    return None if text is None else parse_squeue(text)


async def show(kind: str, name: str) -> dict[str, str] | None:
    """What `scontrol show` says of a "job" or a "partition"; None if SLURM does not answer."""
    # In a thread: if the loop closes meanwhile, asyncio would leave the process behind.
    return await asyncio.to_thread(show_now, kind, name)


def show_now(kind: str, name: str) -> dict[str, str] | None:
    """The same, for a program without an event loop."""
    text = _run("scontrol", "--oneliner", "show", kind, name)
    return None if text is None else parse_scontrol(text)


def time_left(job: str) -> float | None:
    """Seconds until SLURM ends a job; None if it has no end, or SLURM does not answer."""
    # Not the end time: it would need the time zone and the clock of another machine.
    text = _run("squeue", "--noheader", "--jobs", job, "-o", "%L")
    try:
        return walltime_seconds((text or "").strip(), "slurm")
    except ValueError:
        return None


def parse_squeue(text: str) -> dict[str, JobState]:
    """The states in the output of `squeue -o "%F|%T|%r"`; other lines are ignored.

    The tasks of an array share an id: one that has not ended wins.

    Example:
        >>> parse_squeue("17|PENDING|Resources")["17"].reason
        'Resources'
    """
    found: dict[str, JobState] = {}
    for line in text.splitlines():
        job, _, rest = line.strip().partition("|")
        state, _, reason = rest.partition("|")
        if job and state and (job not in found or found[job].ended):
            found[job] = JobState(job, state=state, reason=_reason(reason))
    return found


def parse_scontrol(text: str) -> dict[str, str]:
    """The fields in a line of `scontrol --oneliner show`."""
    return dict(re.findall(r"(?:^|\s)([A-Z]\w*)=(\S*)", text))


def state_of(job: Mapping[str, str]) -> JobState | None:
    """The state in the fields of a job; None if there is none.

    Example:
        >>> fields = parse_scontrol("JobId=17 JobName=a b JobState=FAILED Reason=None ExitCode=1:0")
        >>> str(state_of(fields))
        'job 17 is FAILED (exit code 1)'
    """
    id_, state = job.get("JobId"), job.get("JobState")
    if not id_ or not state:
        return None
    reason = _reason(job.get("Reason", ""))
    if state == "FAILED":  # SLURM's reason is misleading: "JobLaunchFailure" after a kill -9
        code, _, number = job.get("ExitCode", "").partition(":")
        if _was_over_memory(job):
            reason = "over the memory of the job"
        elif number not in ("", "0"):
            reason = f"killed by signal {number}"
        elif code:
            reason = f"exit code {code}"
    return JobState(id_, state=state, reason=reason)


def _was_over_memory(job: Mapping[str, str]) -> bool:
    """Whether a job's log says that it exceeded its memory. Without cgroups, only the log does."""
    for name in ("StdErr", "StdOut"):
        # Older SLURMs do not fill in the id.
        path = Path(re.sub(r"%\d*[AJj]", job["JobId"], job.get(name, "")))
        try:
            with path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
                if re.search(rb"(?i)exceeded (job )?memory limit", log.read()):
                    return True
        except OSError:
            pass  # the log is on another machine
    return False


def _reason(text: str) -> str:
    return "" if text in ("None", "(null)") else text


async def _answer(*command: str) -> str | None:
    """What a command prints; None if it is missing, fails, or takes too long."""
    # In a thread: if the loop closes meanwhile, asyncio would leave the process behind.
    return await asyncio.to_thread(_run, *command)


def _run(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_ANSWER_S,
            # Without the user's filters: a job that they hide is not gone.
            env={k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")},
            start_new_session=True,  # so that Ctrl-C does not reach it
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
