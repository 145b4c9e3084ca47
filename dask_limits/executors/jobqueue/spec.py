"""What the jobs of a cluster are to be, checked before anything starts."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import distributed

from dask_limits.dask.reservations import job_resources, refusal_error
from dask_limits.exceptions import LimitRefusedError
from dask_limits.executors.jobqueue.adaptive import Adaptive, parse_workers
from dask_limits.executors.jobqueue.options import JobOptions, dask_jobqueue
from dask_limits.limits import Limits
from dask_limits.placement.resources import WorkerResources
from dask_limits.units import Amount, format_bytes, parse_seconds

_CLUSTERS: Final = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "oar": "OARCluster",
    "moab": "MoabCluster",
    "htcondor": "HTCondorCluster",
}


@dataclass(frozen=True)
class JobSpec:
    """The jobs of a cluster, and how many workers they are to bring."""

    system: str  # the batch system, as `dask_jobqueue` calls it
    cluster_class: type[Any]  # its class in `dask_jobqueue`
    options: Mapping[str, Any]  # arguments of that class, without those that follow
    n_workers: int  # how many to start with
    adaptive: Adaptive | None  # how to adapt that number; None to keep it
    worker_timeout_s: float | None  # when to give up if no worker has come; None for never
    security: Any  # credentials; True for temporary ones, None for none
    submit_command: str
    cancel_command: str  # the id of a job is appended
    shared: str  # the directory that the nodes share, with "~" and variables unexpanded
    memory: int  # bytes of each worker
    cores: int  # of each worker
    processes: int  # workers in each job
    walltime_s: float | None  # how long a job may last; None for no limit
    shown: Mapping[str, Any]  # what to show people of all this

    @property
    def worker(self) -> WorkerResources:
        """What a worker of these jobs has for calls."""
        return job_resources(self.memory, self.cores, self.walltime_s or math.inf)

    def refusal(self, limits: Limits, name: str) -> LimitRefusedError | None:
        """The error of a call of this name that no worker could ever run; None if one could."""
        return refusal_error(name, limits, [self.worker])


def make_spec(
    system: str,
    *,
    n_workers: int | None = None,
    adaptive: object = None,
    worker_timeout: Amount | None = None,
    security: object = None,
    submit_command: str | None = None,
    cancel_command: str | None = None,
    **given: Any,
) -> JobSpec:
    """Check the arguments of a user, and complete them from `dask_jobqueue`'s configuration.

    Raises:
        ValueError: if an argument is missing, unknown or invalid.
        TypeError: if an argument has the wrong type.
    """
    if system not in _CLUSTERS:
        raise ValueError(
            f"{system!r} is not a supported batch system. Use one of: {', '.join(_CLUSTERS)}"
        )
    cluster_class = getattr(dask_jobqueue, _CLUSTERS[system])
    options = JobOptions(system, cluster_class, given)
    options.set_resources()
    walltime_s = options.set_walltime()
    n_workers, scaling = parse_workers(n_workers, adaptive)
    shared = options.value("shared_temp_directory") or "~/.dask-limits"
    options.pop("shared_temp_directory", None)
    options.set_defaults(walltime_s)
    job = options.try_job()
    return JobSpec(
        system,
        cluster_class,
        options,
        n_workers,
        scaling,
        None if worker_timeout is None else parse_seconds(worker_timeout, "worker_timeout"),
        _checked_security(security, options.get("protocol")),
        submit_command=_checked_command("submit_command", submit_command) or job.submit_command,
        cancel_command=_checked_command("cancel_command", cancel_command) or job.cancel_command,
        shared=_checked_directory(shared),
        memory=options["memory"] // options["processes"],
        cores=options["cores"] // options["processes"],
        processes=options["processes"],
        walltime_s=walltime_s,
        shown=_shown(options, n_workers, scaling),
    )


def _checked_security(security: object, protocol: str | None) -> Any:
    if protocol is not None and not protocol.startswith("tls") and security is not False:
        raise ValueError(
            f"protocol={protocol!r} cannot use credentials. Leave it out, or specify"
            " security=False: then anybody who can reach the scheduler can run code as you"
        )
    if security is None or security is True:
        return True
    if security is False or isinstance(security, distributed.Security):
        return security or None
    raise TypeError(
        f"security={security!r} is a {type(security).__name__}. Use a distributed.Security, None"
        " for temporary credentials, or False for connections that anybody can make and read"
    )


def _checked_command(name: str, command: str | None) -> str | None:
    if command is None:
        return None
    with contextlib.suppress(ValueError, AttributeError):  # an open quote; not a str
        if shlex.split(command):
            return command
    raise ValueError(f"{name}={command!r} must be a command, such as 'sbatch --parsable'")


def _checked_directory(directory: str | os.PathLike[str]) -> str:
    """The shared directory as a job script can use it: a job may start in another directory."""
    path = os.fspath(directory)
    if not path.startswith(("~", "$")):  # these are expanded where the job runs
        path = str(Path.cwd() / path)
    if any(character.isspace() for character in path):
        raise ValueError(
            f"shared_temp_directory={path!r} contains a space. dask_jobqueue's job scripts do not"
            " support this: use another directory"
        )
    return path


def _shown(options: Mapping[str, Any], n_workers: int, adaptive: Adaptive | None) -> dict[str, Any]:
    """What to show people: how many workers, and what each job has."""
    shown: dict[str, Any] = {"n_workers": n_workers}
    if adaptive is not None:
        shown = {"adaptive": (adaptive.minimum, adaptive.maximum)}
    shown |= {"cores": options["cores"], "memory": format_bytes(options["memory"])}
    if "walltime" in options:
        shown["walltime"] = options["walltime"]
    return shown
