"""What the jobs of a cluster are to be, checked before anything starts."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from dask_limits.batch_systems.current_job import JOB_ENDS
from dask_limits.batch_systems.walltimes import Walltime, walltime_seconds, walltime_text
from dask_limits.dask.compat.client import ip_address
from dask_limits.dask.reservations import OWN_BYTES
from dask_limits.executors.jobqueue.adaptive import Adaptive, parse_workers
from dask_limits.executors.jobqueue.jobqueue_import import JobQueueCluster, dask_jobqueue
from dask_limits.executors.jobqueue.options import (
    Configuration,
    check_lists,
    check_names,
    checked_command,
    checked_directory,
    checked_security,
    parameters,
    take_list,
)
from dask_limits.units import Amount, format_bytes, parse_bytes, parse_seconds, whole_number

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
    """The jobs of a cluster, and how many workers they are to bring.

    Attributes:
        system: The batch system: "slurm", ...
        cluster_class: Its class in `dask_jobqueue`.
        options: Arguments of that class, without those that follow.
        n_workers: How many workers to start with.
        adaptive: How to adapt that number; None to keep it.
        worker_timeout_s: When to give up if no worker has come, in seconds; None for never.
        security: Credentials; None for temporary ones, False for none.
        submit_command: The command that submits a job.
        cancel_command: The command that cancels a job.
        shared: The directory that the nodes share, with "~" and variables unexpanded.
        memory: Bytes of each worker.
        cores: Cores of each worker.
        processes: Workers in each job.
        walltime_s: How long a job may last, in seconds; None for no limit.
        shown: What to show people of all this.
    """

    system: str
    cluster_class: type[Any]
    options: Mapping[str, Any]
    n_workers: int
    adaptive: Adaptive | None
    worker_timeout_s: float | None
    security: Any
    submit_command: str
    cancel_command: str
    shared: str
    memory: int
    cores: int
    processes: int
    walltime_s: float | None
    shown: Mapping[str, Any] = field(default_factory=dict)


def make_spec(
    system: str,
    *,
    n_workers: int | None = None,
    adaptive: object = None,
    worker_timeout: Amount | None = None,
    security: object = None,
    submit_command: str | None = None,
    cancel_command: str | None = None,
    **options: Any,
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
    job_class = options.get("job_cls") or cluster_class.job_cls
    check_names(system, job_class, options)
    configuration = Configuration(system, options.get("config_name") or job_class.config_name)
    check_lists(options, configuration)
    _set_resources(system, options, configuration)
    walltime_s = _set_walltime(system, options, configuration)
    n_workers, scaling = parse_workers(n_workers, adaptive)
    shared = options.pop("shared_temp_directory", None)
    shared = shared or configuration.get("shared-temp-directory") or "~/.dask-limits"
    _set_defaults(system, options, configuration, walltime_s)
    job = _try_job(system, job_class, options)
    return JobSpec(
        system,
        cluster_class,
        options,
        n_workers,
        scaling,
        None if worker_timeout is None else parse_seconds(worker_timeout, "worker_timeout"),
        checked_security(security, options.get("protocol")),
        submit_command=checked_command("submit_command", submit_command) or job.submit_command,
        cancel_command=checked_command("cancel_command", cancel_command) or job.cancel_command,
        shared=checked_directory(shared),
        memory=options["memory"] // options["processes"],
        cores=options["cores"] // options["processes"],
        processes=options["processes"],
        walltime_s=walltime_s,
        shown=_shown(options, n_workers, scaling),
    )


def _set_resources(system: str, options: dict[str, Any], configuration: Configuration) -> None:
    """Set the cores, the memory and the number of workers of a job."""
    for name, example, what in (
        ("cores", "4", "the number of cores per job"),
        ("memory", '"16 GiB"', "the memory per job"),
    ):
        if options.get(name) is None:
            options[name] = configuration.get(name)
        if options[name] is None:
            raise ValueError(
                f"Specify `{name}`: {what}. Use with_{system}(..., {name}={example}), or set"
                f" jobqueue.{system}.{name} in dask_jobqueue's configuration"
            )
    default = "the value in dask_jobqueue's configuration"
    cores = options["cores"] = whole_number(options["cores"], "cores", none=default)
    options["memory"] = parse_bytes(options["memory"])
    # One worker packs calls best, as limited calls run in processes of their own anyway.
    processes = options.get("processes")
    if processes is None:
        processes = configuration.get("processes") or 1
    processes = options["processes"] = whole_number(processes, "processes", none=default)
    if processes > cores:
        raise ValueError(f"processes={processes} is more than cores={cores}")
    if options["memory"] <= OWN_BYTES * processes:
        raise ValueError(
            f"memory={format_bytes(options['memory'])} leaves nothing for calls: a Dask worker and"
            f" the processes of dask_limits need {format_bytes(OWN_BYTES)}"
            + (" for each of the processes" if processes > 1 else "")
        )


def _set_walltime(
    system: str, options: dict[str, Any], configuration: Configuration
) -> float | None:
    """Set the wall time in the batch system's own form; return it in seconds."""
    if system == "htcondor":
        return None
    walltime: Walltime | None = options.get("walltime")
    if walltime is None:
        walltime = configuration.get("walltime")
        if isinstance(walltime, int):  # in the batch system's unit, as dask_jobqueue writes it
            walltime = str(walltime)
    if walltime is None:
        return None
    options["walltime"] = walltime_text(walltime, system)
    return walltime_seconds(options["walltime"], system)


def _set_defaults(
    system: str, options: dict[str, Any], configuration: Configuration, walltime_s: float | None
) -> None:
    """Set what `dask_jobqueue` would leave out, or open to the whole network."""
    scheduler = options.get("scheduler_options") or configuration.get("scheduler-options")
    options["scheduler_options"] = _scheduler_options(scheduler or {}, options, configuration)

    extra = take_list("worker_extra_args", options, configuration)
    if not any(str(word).startswith("--dashboard-address") for word in extra):
        extra += ["--dashboard-address", "127.0.0.1:0"]
    options["worker_extra_args"] = extra

    log = options.pop("log_directory", None) or configuration.get("log-directory")
    if log:
        # Batch systems do not expand "~", and dask_jobqueue makes a directory of that name.
        options["log_directory"] = str(Path(os.path.expandvars(log)).expanduser())

    if walltime_s is not None:
        prologue = take_list("job_script_prologue", options, configuration)
        ends = f"export {JOB_ENDS}=$(( $(date +%s) + {math.floor(walltime_s)} ))"
        options["job_script_prologue"] = [*prologue, ends]

    if system == "slurm":
        if not (options.get("job_mem") or configuration.get("job-mem")):
            # dask_jobqueue rounds up to whole gigabytes: 1.1 GiB would become 2G.
            options["job_mem"] = f"{-(-options['memory'] // 2**20)}M"
        # A job that SLURM requeues would bring a worker whose name is already taken.
        directives = take_list("job_extra_directives", options, configuration)
        skipped = take_list("job_directives_skip", options, configuration)
        if not any("requeue" in str(word) for word in [*directives, *skipped]):
            directives.append("--no-requeue")
        options["job_extra_directives"] = directives


def _scheduler_options(
    given: Mapping[str, Any], options: Mapping[str, Any], configuration: Configuration
) -> dict[str, Any]:
    """The options of Dask's scheduler, which by default would listen on every network."""
    scheduler = {"dashboard_address": "127.0.0.1:0", **given}
    if not {"host", "interface"} & set(scheduler):
        interface = options.get("interface") or configuration.get("interface")
        scheduler["host"] = ip_address(interface)
    return scheduler


def _try_job(system: str, job_class: type[Any], options: Mapping[str, Any]) -> Any:
    """Have `dask_jobqueue` check the options by making a job. This starts nothing."""
    of_cluster = parameters(JobQueueCluster) - {"interface", "protocol", "config_name"}
    of_job = {
        name: value
        for name, value in options.items()
        if name not in of_cluster and name != "log_directory"  # it would make that directory
    }
    try:
        return job_class("tls://scheduler:8786", name="worker", **of_job)
    except Exception as error:
        raise ValueError(
            f"dask_jobqueue cannot make a {system} job from these options: {error}"
        ) from error


def _shown(options: Mapping[str, Any], n_workers: int, adaptive: Adaptive | None) -> dict[str, Any]:
    """What to show people: how many workers, and what each job has."""
    if adaptive is None:
        shown: dict[str, Any] = {"n_workers": n_workers}
    else:
        shown = {"adaptive": (adaptive.minimum, adaptive.maximum)}
    shown |= {"cores": options["cores"], "memory": format_bytes(options["memory"])}
    if "walltime" in options:
        shown["walltime"] = options["walltime"]
    return shown
