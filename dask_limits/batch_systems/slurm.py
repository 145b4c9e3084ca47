"""Which batch job this process runs in, and what the batch system says of jobs."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from dask_limits.batch_systems.job_state import JobState
from dask_limits.batch_systems.walltimes import walltime_seconds

JOB_ENDS: Final = "DASK_LIMITS_JOB_ENDS"
"""Set in the job scripts that we make: when the job ends, in seconds since the epoch."""
_ANSWER_S: Final = 5.0
"""How long SLURM's commands may take. A busy controller answers in one or two; a dead one makes
them wait for minutes, and then we do without."""
_LOG_BYTES: Final = 8192
"""How much of the end of a log is read: SLURM's words are the last in it."""
_SYSTEMS: Final = (
    # The variable that holds the id, and one more where that name could be anybody's.
    ("slurm", "SLURM_JOB_ID", ""),
    ("pbs", "PBS_JOBID", ""),
    ("sge", "JOB_ID", "SGE_TASK_ID"),
    ("lsf", "LSB_JOBID", ""),
    ("oar", "OAR_JOB_ID", ""),
)


@dataclass(frozen=True)
class BatchJob:
    """A job of a batch system.

    Attributes:
        system: "slurm", "pbs" (Moab's too), "sge", "lsf", "oar", "htcondor"; "" if all that is
            known is when it ends.
        job: Its id, as `dask_jobqueue` knows it: of "17.server" it is "17".
    """

    system: str
    job: str

    def ends_in(self) -> float | None:
        """Seconds until the batch system ends this job. To be asked in the job itself.

        Returns:
            None if it has no end, or if nothing is known of it.
        """
        end = _epoch("SLURM_JOB_END_TIME") if self.system == "slurm" else None
        if end is None and self.system == "slurm":
            end = _end_by_squeue(self.job)
        if end is None:
            end = _epoch(JOB_ENDS)
        return None if end is None else end - time.time()


def here() -> BatchJob | None:
    """The batch job that this process runs in, by its environment.

    Example:
        >>> job = here()
        >>> job is None or bool(job.system)
        True
    """
    for system, variable, other in _SYSTEMS:
        if (job := os.environ.get(variable)) and (not other or other in os.environ):
            number = re.match(r"\d+", job)
            return BatchJob(system, number[0] if number else job)
    if job := _htcondor_job():
        return BatchJob("htcondor", job)
    return BatchJob("", "") if JOB_ENDS in os.environ else None


async def job_state(system: str, job: str) -> JobState | None:
    """What the batch system says of a job now; of one that has ended too, for some minutes.

    Returns:
        None if it cannot be asked, does not answer in time, or does not know the job. It is
        SLURM alone that is asked.
    """
    if system != "slurm" or not job:
        return None
    text = await _answer("scontrol", "--oneliner", "show", "job", job)
    state = None if text is None else parse_scontrol(text)
    if (
        text is not None
        and state is not None
        and state.state == "FAILED"
        and _over_memory(job, text)
    ):
        return replace(state, reason="over the memory of the job")
    return state


async def states(jobs: Iterable[str]) -> dict[str, JobState] | None:
    """What SLURM says of several jobs, with one `squeue`. Those that it does not know are left out.

    Returns:
        By id; None if it cannot be asked, or does not answer in time.
    """
    ids = ",".join(job for job in jobs for _ in range(2))  # one alone is an error if not known
    if not ids:
        return {}
    text = await _answer("squeue", "--noheader", "--states=all", "--jobs", ids, "-o", "%F|%T|%r")
    return None if text is None else parse_squeue(text)


def parse_squeue(text: str) -> dict[str, JobState]:
    """Lines of `squeue -o "%F|%T|%r"`; what is no such line is passed over.

    Of the tasks of an array, which have one id, one that has not ended counts.

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


def parse_scontrol(text: str) -> JobState | None:
    """A line of `scontrol --oneliner show job`; None if it is no such line.

    Example:
        >>> str(parse_scontrol("JobId=17 JobName=a b JobState=FAILED Reason=None ExitCode=1:0"))
        'job 17 is FAILED (exit code 1)'
    """
    fields = dict(re.findall(r"(?:^|\s)(JobId|JobState|Reason|ExitCode)=(\S*)", text))
    if not fields.get("JobId") or not fields.get("JobState"):
        return None
    state, reason = fields["JobState"], _reason(fields.get("Reason", ""))
    if state == "FAILED":  # and what SLURM then says is misleading: "JobLaunchFailure" of a kill -9
        code, _, number = fields.get("ExitCode", "").partition(":")
        if number not in ("", "0"):
            reason = f"killed by signal {number}"
        elif code:
            reason = f"exit code {code}"
    return JobState(fields["JobId"], state=state, reason=reason)


def _over_memory(job: str, text: str) -> bool:
    """Whether the log of a job says so. Without cgroups, nothing else does."""
    for pattern in re.findall(r"\sStd(?:Err|Out)=(\S+)", text):
        path = re.sub(r"%\d*[AJj]", job, pattern)  # which older SLURMs leave to the reader
        try:
            with Path(path).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - _LOG_BYTES))
                if re.search(rb"(?i)exceeded (job )?memory limit", log.read()):
                    return True
        except OSError:
            pass  # it is on another machine
    return False


def _reason(text: str) -> str:
    return "" if text in ("None", "(null)") else text


async def _answer(*command: str) -> str | None:
    """What a command prints; None if it is not there, fails, or takes too long."""
    # In a thread: a loop that is closed meanwhile would leave the process of asyncio behind.
    return await asyncio.to_thread(_printed, command)


def _printed(command: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=_ANSWER_S,
            # Without the user's filters: what they leave out is not gone.
            env={k: v for k, v in os.environ.items() if not k.startswith("SQUEUE_")},
            start_new_session=True,  # Ctrl-C is none of its business
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _epoch(variable: str) -> float | None:
    try:
        return float(os.environ.get(variable, ""))
    except ValueError:
        return None


@lru_cache
def _end_by_squeue(job: str) -> float | None:
    """When a job ends, in seconds since the epoch, as SLURM said when it was first asked."""
    # Time left rather than an end: that has no time zone, and no other machine's clock.
    text = _printed(["squeue", "--noheader", "--jobs", job, "-o", "%L"])
    try:
        left = walltime_seconds((text or "").strip(), "slurm")
    except ValueError:
        return None
    return None if left is None else time.time() + left


def _htcondor_job() -> str | None:
    """The id, from the file in which HTCondor describes a job to itself."""
    try:
        text = Path(os.environ["_CONDOR_JOB_AD"]).read_text()
    except (KeyError, OSError, UnicodeDecodeError):
        return None
    fields: Mapping[str, str] = dict(re.findall(r"(?m)^(ClusterId|ProcId) *= *(\d+)", text))
    if "ClusterId" not in fields:
        return None
    return f"{fields['ClusterId']}.{fields.get('ProcId', '0')}"
