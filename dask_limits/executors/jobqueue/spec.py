"""What a user asks for of a batch system, checked before anything starts."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import math
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral
from pathlib import Path
from typing import Any, Final

import dask
import distributed
from distributed.utils import get_ip, get_ip_interface

from dask_limits.batch_systems.slurm import JOB_ENDS
from dask_limits.batch_systems.walltimes import Walltime, walltime_seconds, walltime_text
from dask_limits.dask.reservations import OWN_BYTES
from dask_limits.executors.jobqueue.imported import Job, JobQueueCluster, dask_jobqueue
from dask_limits.units import (
    Amount,
    format_bytes,
    parse_bytes,
    parse_seconds,
    whole_number,
)

_CLUSTERS: Final = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "sge": "SGECluster",
    "lsf": "LSFCluster",
    "oar": "OARCluster",
    "moab": "MoabCluster",
    "htcondor": "HTCondorCluster",
}
_OURS: Final = {"loop", "asynchronous", "security", "n_workers", "scheduler", "self", "name"}
"""Parameters of `dask_jobqueue` that are not the user's: what they say is said by ours."""
_LISTS: Final = {
    # With their former names, which it still takes.
    "job_extra_directives": "job_extra",
    "job_script_prologue": "env_extra",
    "worker_extra_args": "extra",
    "job_directives_skip": "header_skip",
}
"""Parameters of `dask_jobqueue` that are lists. Of a text it would take each letter for a word."""
_IN_SCHEDULER_OPTIONS: Final = {"dashboard_address", "host"}
_KEEP_IDLE_S: Final = 120.0
"""How long an idle worker is kept. A new one waits in the queue for a minute at the best, so giving
one back sooner than that loses more than it saves; an hour would be paid for by others."""
_TARGET_DURATION_S: Final = 5.0
"""In what time the work that waits should be done, if workers could be had at once: Dask's own
number. With less, workers are asked for that find nothing to do when they come."""


@dataclass(frozen=True)
class Adaptive:
    """How many workers there are to be, by the work that there is.

    Attributes:
        minimum: So many at the least, 0 or more.
        maximum: So many at the most.
        keep_idle_s: For how many seconds a worker that has nothing to do is kept.
        target_duration_s: In how many seconds the work that there is should be done.
    """

    minimum: int
    maximum: int
    keep_idle_s: float = _KEEP_IDLE_S
    target_duration_s: float = _TARGET_DURATION_S


@dataclass(frozen=True)
class Plan:
    """A cluster to be made.

    Attributes:
        system: "slurm", ...
        cluster_class: That of `dask_jobqueue`.
        options: What it takes, without those that follow.
        n_workers: How many workers are asked for first.
        adaptive: None for always that many.
        worker_timeout_s: When to give up if no worker has come; None for never.
        security: Credentials; None for temporary ones, False for none.
        submit_command: What submits a job.
        cancel_command: What cancels one.
        shared: The directory that the nodes share, "~" and variables not filled in.
        memory: Bytes of a worker.
        cores: Of a worker.
        processes: Workers in a job.
        walltime_s: Of a job, in seconds; None if it has no end.
        shown: What is worth a look.
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


def make_plan(
    system: str,
    *,
    n_workers: int | None = None,
    adaptive: object = None,
    worker_timeout: Amount | None = None,
    security: object = None,
    submit_command: str | None = None,
    cancel_command: str | None = None,
    **options: Any,
) -> Plan:
    """Check what a user asks for, and fill in what `dask_jobqueue`'s configuration says.

    Raises:
        ValueError: for what makes no sense, is not known, or is missing.
        TypeError: for what is of a wrong type.
    """
    if system not in _CLUSTERS:
        raise ValueError(
            f"{system!r} is not a batch system that is known here. Use one of: "
            + ", ".join(_CLUSTERS)
        )
    cluster_class = getattr(dask_jobqueue, _CLUSTERS[system])
    job_class = options.get("job_cls") or cluster_class.job_cls
    _check_names(system, job_class, options)
    configured = _Configured(system, options.get("config_name") or job_class.config_name)
    _check_lists(options, configured)
    _set_resources(system, options, configured)
    walltime_s = _set_walltime(system, options, configured)
    n_workers, scaling = _workers(n_workers, adaptive)
    shared = options.pop("shared_temp_directory", None) or configured.get("shared-temp-directory")
    _set_defaults(system, options, configured, walltime_s)
    job = _try_job(system, job_class, options)
    return Plan(
        system,
        cluster_class,
        options,
        n_workers,
        scaling,
        None if worker_timeout is None else parse_seconds(worker_timeout, "worker_timeout"),
        _checked_security(security, options.get("protocol")),
        submit_command=_command("submit_command", submit_command) or job.submit_command,
        cancel_command=_command("cancel_command", cancel_command) or job.cancel_command,
        shared=_shared(shared or "~/.dask-limits"),
        memory=options["memory"] // options["processes"],
        cores=options["cores"] // options["processes"],
        processes=options["processes"],
        walltime_s=walltime_s,
        shown=_shown(options, n_workers, scaling),
    )


class _Configured:
    """What the configuration files of `dask_jobqueue` say."""

    def __init__(self, system: str, section: str) -> None:
        self._section = section
        if dask.config.get(f"jobqueue.{section}", None) is None:
            raise ValueError(
                f"config_name={section!r} is no section of dask_jobqueue's configuration"
                f" (jobqueue.yaml); by default it is {system!r}"
            )

    def get(self, key: str) -> Any:
        return dask.config.get(f"jobqueue.{self._section}.{key}", None)


def _check_names(system: str, job_class: type[Any], options: Mapping[str, Any]) -> None:
    known = _parameters(JobQueueCluster) | _parameters(job_class)
    for name in options:
        if name in _IN_SCHEDULER_OPTIONS:
            raise ValueError(
                f"Give {name} in scheduler_options={{{name!r}: ...}}: it is the Dask scheduler's"
            )
        if name in known - _OURS:
            continue
        close = difflib.get_close_matches(name, known - _OURS, 1)
        raise ValueError(
            f"{name!r} is no option for {system}."
            + (f" Did you mean {close[0]!r}?" if close else "")
            + f" There are: {', '.join(sorted(known - _OURS - _IN_SCHEDULER_OPTIONS))}"
        )


def _check_lists(options: Mapping[str, Any], configured: _Configured) -> None:
    for name in (*_LISTS, *_LISTS.values()):
        for value in (options.get(name), configured.get(name.replace("_", "-"))):
            if isinstance(value, str):
                raise TypeError(f"{name}={value!r} is a str, and must be a list: [{value!r}]")


def _parameters(owner: type[Any]) -> set[str]:
    """The names of all that the constructors of a class and its bases take."""
    names: set[str] = set()
    for base in owner.__mro__:
        if issubclass(base, Job | JobQueueCluster) and "__init__" in vars(base):
            for parameter in inspect.signature(vars(base)["__init__"]).parameters.values():
                if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                    names.add(parameter.name)
    return names


def _set_resources(system: str, options: dict[str, Any], configured: _Configured) -> None:
    """The cores, memory and workers of a job."""
    for name, example, what in (("cores", "4", "cores"), ("memory", '"16 GiB"', "memory")):
        if options.get(name) is None:
            options[name] = configured.get(name)
        if options[name] is None:
            raise ValueError(
                f"How much {what} each job gets is missing: with_{system}(..., {name}={example}),"
                f" or jobqueue.{system}.{name} in dask_jobqueue's configuration"
            )
    configuration = "what dask_jobqueue's configuration says"
    cores = options["cores"] = whole_number(options["cores"], "cores", none=configuration)
    options["memory"] = parse_bytes(options["memory"])
    # Limited calls run in processes of their own: one worker packs them best.
    processes = options.get("processes")
    if processes is None:
        processes = configured.get("processes") or 1
    processes = options["processes"] = whole_number(processes, "processes", none=configuration)
    if processes > cores:
        raise ValueError(f"processes={processes} is more than cores={cores}")
    if options["memory"] <= OWN_BYTES * processes:
        raise ValueError(
            f"memory={format_bytes(options['memory'])} leaves nothing for calls: Dask's worker and"
            f" our own processes take {format_bytes(OWN_BYTES)}"
            + (" for each of the processes" if processes > 1 else "")
        )


def _set_walltime(system: str, options: dict[str, Any], configured: _Configured) -> float | None:
    """Put the wall time into the batch system's own form."""
    if system == "htcondor":
        return None
    walltime: Walltime | None = options.get("walltime")
    if walltime is None:
        walltime = configured.get("walltime")
        if isinstance(walltime, int):  # in the batch system's unit, as dask_jobqueue writes it
            walltime = str(walltime)
    if walltime is None:
        return None
    options["walltime"] = walltime_text(walltime, system)
    return walltime_seconds(options["walltime"], system)


def _workers(n_workers: int | None, adaptive: object) -> tuple[int, Adaptive | None]:
    """How many workers are asked for first, and how many there are to be then."""
    if n_workers is not None:
        n_workers = whole_number(n_workers, "n_workers", none="one")
    if adaptive is None or adaptive is False:
        return n_workers or 1, None
    scaling = _adaptive(adaptive, n_workers)
    first = max(scaling.minimum, 1) if n_workers is None or adaptive is True else n_workers
    if first > scaling.maximum:
        raise ValueError(f"n_workers={n_workers} is more than {scaling.maximum}, in adaptive=")
    return first, scaling


def _adaptive(adaptive: object, n_workers: int | None) -> Adaptive:
    options: dict[str, Any]
    if adaptive is True:
        if n_workers is None:
            raise ValueError(
                "adaptive=True needs n_workers=, the most workers there are to be; or use"
                " adaptive=20, adaptive=(2, 20)"
            )
        options = {"maximum": n_workers}
    elif isinstance(adaptive, Integral):
        options = {"maximum": adaptive}
    elif isinstance(adaptive, tuple) and len(adaptive) == 2:
        options = {"minimum": adaptive[0], "maximum": adaptive[1]}
    elif isinstance(adaptive, Mapping):
        options = dict(adaptive)
    else:
        raise TypeError(
            f"adaptive={adaptive!r} is a {type(adaptive).__name__}. Use the most workers there are"
            " to be (20), the least and the most ((2, 20)), or a dict of minimum, maximum,"
            " keep_idle, target_duration"
        )
    unknown = set(options) - {"minimum", "maximum", "keep_idle", "target_duration"}
    if unknown or "maximum" not in options:
        raise ValueError(
            f"adaptive={adaptive!r} must have maximum, and may have minimum, keep_idle and"
            " target_duration"
        )
    maximum = whole_number(options["maximum"], "maximum")
    minimum = whole_number(options.get("minimum", 0), "minimum", least=0)
    if minimum > maximum:
        raise ValueError(f"minimum={minimum} must be at most maximum={maximum}")
    return Adaptive(
        minimum,
        maximum,
        parse_seconds(options.get("keep_idle", _KEEP_IDLE_S), "keep_idle"),
        parse_seconds(options.get("target_duration", _TARGET_DURATION_S), "target_duration"),
    )


def _checked_security(security: object, protocol: str | None) -> Any:
    if protocol is not None and not protocol.startswith("tls") and security is not False:
        raise ValueError(
            f"protocol={protocol!r} knows no credentials. Leave it out, or say security=False: then"
            " anybody who reaches the scheduler can run anything as you"
        )
    if security is None or security is True:
        return None
    if security is False or isinstance(security, distributed.Security):
        return security
    raise TypeError(
        f"security={security!r} is a {type(security).__name__}. Use a distributed.Security, None"
        " for temporary credentials, or False for connections that anybody may make and read"
    )


def _shared(directory: str | os.PathLike[str]) -> str:
    """A directory as the job script can have it: the job may start in another one than this."""
    path = os.fspath(directory)
    if not path.startswith(("~", "$")):  # which are filled in where the job runs
        path = str(Path.cwd() / path)
    if any(character.isspace() for character in path):
        raise ValueError(
            f"shared_temp_directory={path!r} has a blank in it, which dask_jobqueue's job scripts"
            " cannot have"
        )
    return path


def _command(name: str, command: str | None) -> str | None:
    if command is None:
        return None
    with contextlib.suppress(ValueError, AttributeError):  # a quote is left open; it is no text
        if shlex.split(command):
            return command
    raise ValueError(f"{name}={command!r} must be a command, such as 'sbatch --parsable'")


def _shown(options: Mapping[str, Any], n_workers: int, adaptive: Adaptive | None) -> dict[str, Any]:
    """What is worth a look: how many workers, and what each gets."""
    if adaptive is None:
        shown: dict[str, Any] = {"n_workers": n_workers}
    else:
        shown = {"adaptive": (adaptive.minimum, adaptive.maximum)}
    shown |= {"cores": options["cores"], "memory": format_bytes(options["memory"])}
    if "walltime" in options:
        shown["walltime"] = options["walltime"]
    return shown


def _set_defaults(
    system: str, options: dict[str, Any], configured: _Configured, walltime_s: float | None
) -> None:
    """What `dask_jobqueue` leaves open, or to the whole network."""
    scheduler = dict(options.get("scheduler_options") or configured.get("scheduler-options") or {})
    scheduler.setdefault("dashboard_address", "127.0.0.1:0")
    interface = options.get("interface") or configured.get("interface")
    if not {"host", "interface"} & set(scheduler):
        # Else it would listen on every network that this machine is in.
        scheduler["host"] = get_ip_interface(interface) if interface else get_ip()
    options["scheduler_options"] = scheduler

    extra = _words("worker_extra_args", options, configured)
    if not any(str(word).startswith("--dashboard-address") for word in extra):
        extra += ["--dashboard-address", "127.0.0.1:0"]
    options["worker_extra_args"] = extra

    log = options.pop("log_directory", None) or configured.get("log-directory")
    if log:
        # Batch systems do not fill in "~", and dask_jobqueue makes a directory of that name.
        options["log_directory"] = str(Path(os.path.expandvars(log)).expanduser())

    if walltime_s is not None:
        prologue = _words("job_script_prologue", options, configured)
        ends = f"export {JOB_ENDS}=$(( $(date +%s) + {math.floor(walltime_s)} ))"
        options["job_script_prologue"] = [*prologue, ends]

    if system == "slurm" and not (options.get("job_mem") or configured.get("job-mem")):
        # dask_jobqueue rounds up to whole gigabytes: of 1.1 GiB it makes 2.
        options["job_mem"] = f"{-(-options['memory'] // 2**20)}M"

    if system == "slurm":  # A job that runs again does so with a worker of the same name.
        directives = _words("job_extra_directives", options, configured)
        skipped = _words("job_directives_skip", options, configured)
        if not any("requeue" in str(word) for word in [*directives, *skipped]):
            directives.append("--no-requeue")
        options["job_extra_directives"] = directives


def _words(name: str, options: dict[str, Any], configured: _Configured) -> list[Any]:
    """A list of the user's, given or configured, under its present name or its former one."""
    old_name = _LISTS[name]
    given = options.get(name) or options.pop(old_name, None)
    found = configured.get(name.replace("_", "-")) or configured.get(old_name.replace("_", "-"))
    return list(given or found or [])


def _try_job(system: str, job_class: type[Any], options: Mapping[str, Any]) -> Any:
    """Have `dask_jobqueue` make a job of the options. It starts nothing."""
    of_cluster = _parameters(JobQueueCluster) - {"interface", "protocol", "config_name"}
    of_job = {
        name: value
        for name, value in options.items()
        if name not in of_cluster and name != "log_directory"  # which it would make
    }
    try:
        return job_class("tls://scheduler:8786", name="worker", **of_job)
    except Exception as error:
        raise ValueError(
            f"dask_jobqueue cannot make a job for {system} of this: {error}"
        ) from error
