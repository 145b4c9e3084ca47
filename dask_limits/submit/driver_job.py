"""The jobs that run a driver, one after another: what each is to be, and the script of each."""

from __future__ import annotations

import math
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

_MIB: Final = 2**20
_LONGEST_SIGNAL_S: Final = 65535
"""The longest time before a job's end at which sbatch can have it signalled."""


@dataclass(frozen=True)
class DriverJob:
    """A job of a chain. All jobs of a chain are alike but for their numbers.

    Attributes:
        command: The program to run and its arguments.
        name: The name of all jobs of the chain, and of no others of this user.
        walltime: How long each job may run, in SLURM's form.
        walltime_s: The same in seconds; None if it has no end.
        margin_s: How many seconds before the end of a job its command is to end.
        times: How many jobs the chain has at most.
        log: The absolute path of the directory for the logs.
        cores: The number of cores.
        memory: Bytes; None for the default of the partition.
        queue: The partition; None for the default.
        account: The account; None for the default.
        number: Which job of the chain this is, from 1.
    """

    command: tuple[str, ...]
    name: str
    walltime: str
    walltime_s: float | None
    margin_s: float
    times: int
    log: str
    cores: int = 1
    memory: int | None = None
    queue: str | None = None
    account: str | None = None
    number: int = 1

    @property
    def is_last(self) -> bool:
        """Whether no further job follows."""
        return self.number >= self.times

    def next(self) -> Self:
        """The job that follows."""
        return replace(self, number=self.number + 1)

    def sbatch_options(self, after: str = "") -> list[str]:
        """The options of `sbatch`, for a job that starts when another one has ended.

        `singleton` keeps two of one name from running at the same time even if SLURM starts the
        other one again meanwhile, because its node has failed.
        """
        log = self.log.replace("%", "%%")
        options = {
            "job-name": self.name,
            "time": self.walltime,
            "signal": f"B:USR1@{min(math.ceil(self.margin_s), _LONGEST_SIGNAL_S)}",
            "chdir": os.getcwd(),  # noqa: PTH109  # Path.cwd() is the same
            "output": f"{log}/driver-%j.log",
            "open-mode": "append",
            "nodes": "1",
            "ntasks": "1",
            "cpus-per-task": str(self.cores),
            "mem": None if self.memory is None else f"{-(-self.memory // _MIB)}M",
            "partition": self.queue,
            "account": self.account,
            "dependency": f"afterany:{after},singleton" if after else None,
        }
        return [f"--{name}={value}" for name, value in options.items() if value] + ["--requeue"]

    def script(self) -> str:
        """The job script: it becomes the supervisor, with the Python that runs this."""
        supervisor = [
            # Without the present directory on its path: a file there may be named as a module.
            *(sys.executable, "-P", "-m", "dask_limits", "submit"),
            *("--in-job", str(self.number)),
            *self._arguments(),
        ]
        return f"#!/bin/sh\nexec {shlex.join([*supervisor, '--', *self.command])}\n"

    def _arguments(self) -> Sequence[str]:
        """The options of `dask-limits submit` that give this chain."""
        options = {
            "name": self.name,
            "walltime": self.walltime,
            "margin": f"{self.margin_s}s",
            "times": str(self.times),
            "log": self.log,
            "cores": str(self.cores),
            "memory": None if self.memory is None else f"{self.memory}B",
            "queue": self.queue,
            "account": self.account,
        }
        return [f"--{name}={value}" for name, value in options.items() if value]
