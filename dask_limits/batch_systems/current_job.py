"""Which batch job this process runs in, what it has there, and when that job ends."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from dask_limits.batch_systems.slurm import time_left

JOB_ENDS: Final = "DASK_LIMITS_JOB_ENDS"
"""A variable that our job scripts set: when the job ends, in seconds since the epoch."""
_SYSTEMS: Final = (
    # The variable with the job's id, and a second one where the first name is not unique.
    ("slurm", "SLURM_JOB_ID", ""),
    ("pbs", "PBS_JOBID", ""),
    ("sge", "JOB_ID", "SGE_TASK_ID"),
    ("lsf", "LSB_JOBID", ""),
    ("oar", "OAR_JOB_ID", ""),
)
_CORES: Final = {"slurm": "SLURM_CPUS_ON_NODE", "pbs": "NCPUS", "sge": "NSLOTS"}
"""The variables with the number of cores that a job has on this node. `salloc` sets SLURM's not:
what it starts runs elsewhere."""
_MIB: Final = 2**20


@dataclass(frozen=True)
class BatchJob:
    """A job of a batch system, by its id in the form that `dask_jobqueue` uses: "17" for "17.host".

    The system is "slurm", "pbs" (also Moab), "sge", "lsf", "oar" or "htcondor". Both are "" if only
    the job's end is known.
    """

    system: str
    job: str

    def ends_in(self) -> float | None:
        """Seconds until the batch system ends this job, which this process must run in.

        None if the job has no end, or if its end is not known.
        """
        end = None
        if self.system == "slurm":
            end = _epoch("SLURM_JOB_END_TIME") or _end_by_slurm(self.job)
        if end is None:
            end = _epoch(JOB_ENDS)
        return None if end is None else end - time.time()

    @property
    def cores(self) -> int | None:
        """The cores of this job on this node; None if they are not known."""
        return _positive(_CORES.get(self.system, ""))

    @property
    def memory(self) -> int | None:
        """The bytes of memory of this job on this node, as SLURM says; None if they are not known.

        Other batch systems tell only the kernel: see control groups.
        """
        if self.system != "slurm" or (cores := self.cores) is None:
            return None
        if (memory := _positive("SLURM_MEM_PER_NODE")) is None:
            memory = (_positive("SLURM_MEM_PER_CPU") or 0) * cores
        return memory * _MIB or None


def current_job() -> BatchJob | None:
    """The batch job that this process runs in, from its environment; None if there is none."""
    for system, variable, second in _SYSTEMS:
        if (job := os.environ.get(variable)) and (not second or second in os.environ):
            number = re.match(r"\d+", job)
            return BatchJob(system, number[0] if number else job)
    if job := _htcondor_job():
        return BatchJob("htcondor", job)
    return BatchJob("", "") if JOB_ENDS in os.environ else None


def _positive(variable: str) -> int | None:
    value = os.environ.get(variable, "")
    return (int(value) or None) if value.isdigit() else None


def _epoch(variable: str) -> float | None:
    try:
        return float(os.environ.get(variable, ""))
    except ValueError:
        return None


@lru_cache
def _end_by_slurm(job: str) -> float | None:
    """When a job ends, in seconds since the epoch, as SLURM said when it was first asked."""
    left = time_left(job)
    return None if left is None else time.time() + left


def _htcondor_job() -> str | None:
    """The id, from the file in which HTCondor describes the job to itself."""
    try:
        text = Path(os.environ["_CONDOR_JOB_AD"]).read_text()
    except (KeyError, OSError, UnicodeDecodeError):
        return None
    ids = dict(re.findall(r"(?m)^(ClusterId|ProcId) *= *(\d+)", text))
    return f"{ids['ClusterId']}.{ids.get('ProcId', '0')}" if "ClusterId" in ids else None
