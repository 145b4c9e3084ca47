"""What the jobs of a cluster are to be, checked before anything starts."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import shlex
from pathlib import Path
from typing import Any, Final

import dask
import distributed

from dask_limits.batch_systems.current_job import JOB_ENDS
from dask_limits.batch_systems.systems import CLUSTERS
from dask_limits.batch_systems.walltimes import walltime_seconds, walltime_text
from dask_limits.dask.compat.client import ip_address
from dask_limits.dask.compat.jobqueue import check_jobqueue, import_jobqueue
from dask_limits.dask.reservations import OWN_BYTES, job_resources, refusal_error
from dask_limits.exceptions import LimitRefusedError
from dask_limits.executors.jobqueue.adaptive import parse_workers
from dask_limits.executors.jobqueue.program_name import program_name
from dask_limits.instead import instead_of
from dask_limits.limits import Limits
from dask_limits.placement.resources import WorkerResources
from dask_limits.units import Duration, format_bytes, parse_bytes, parse_seconds, whole_number

check_jobqueue()
dask_jobqueue: Final[Any] = import_jobqueue()
Job: Final[Any] = dask_jobqueue.core.Job
JobQueueCluster: Final[Any] = dask_jobqueue.core.JobQueueCluster

_OURS: Final = {"loop", "asynchronous", "security", "n_workers", "scheduler", "self", "name"}
"""Parameters of `dask_jobqueue` that users cannot set: ours replace them."""
_LISTS: Final = {
    # With their former names, which dask_jobqueue still takes.
    "job_extra_directives": "job_extra",
    "job_script_prologue": "env_extra",
    "worker_extra_args": "extra",
    "job_directives_skip": "header_skip",
}
"""Parameters of `dask_jobqueue` that are lists. It would take each letter of a str for an item."""
_JOB_NAME: Final = "dask-worker"
"""What `dask_jobqueue` calls jobs if it is told nothing."""
_USUAL: Final = ("n_workers", "cores", "memory", "walltime", "queue", "account", "adaptive")
_DIRECTIVE: Final = 'add the line of the job script that says it: job_extra_directives=["..."]'
_IN_DIRECTIVES: Final = dict.fromkeys(
    ("gres", "gpus", "constraint", "nodes", "nodelist", "qos", "exclude", "array"), _DIRECTIVE
)
"""What batch systems call what has no argument of its own."""
_IN_SCHEDULER_OPTIONS: Final = {"dashboard_address", "host"}


class JobSpec:
    """The jobs of a cluster, and how many workers they are to bring.

    The arguments are a user's; what they leave out is read from `dask_jobqueue`'s configuration.
    `memory` (bytes) and `cores` are those of each worker, of which a job has `workers_per_job`: one
    on each of its nodes, or several `processes` on one.

    Raises:
        ValueError: if an argument is missing, unknown or invalid.
        TypeError: if an argument has the wrong type.
    """

    def __init__(
        self,
        system: str,
        *,
        n_workers: int | None = None,
        adaptive: object = None,
        worker_timeout: Duration | None = None,
        security: object = None,
        submit_command: str | None = None,
        cancel_command: str | None = None,
        nodes_per_job: int | None = None,
        **options: Any,
    ) -> None:
        if system not in CLUSTERS:
            raise ValueError(
                f"{system!r} is not a supported batch system. Use one of: {', '.join(CLUSTERS)}."
            )
        self.system = system
        self.cluster_class: Any = getattr(dask_jobqueue, CLUSTERS[system])
        self.job_class: Any = options.get("job_cls") or self.cluster_class.job_cls
        self.options = options  # of `cluster_class`, completed below
        self._section = options.get("config_name") or self.job_class.config_name
        self._check_options()
        self._set_resources()
        processes: int = options["processes"]
        self.memory: int = options["memory"] // processes
        self.cores: int = options["cores"] // processes
        self.nodes_per_job = _checked_nodes(nodes_per_job, system, processes)
        self.workers_per_job = self.nodes_per_job * processes
        self.walltime_s = self._set_walltime()  # None for no limit
        self.n_workers, self.adaptive = parse_workers(n_workers, adaptive)
        self.worker_timeout_s = (  # None for never
            None if worker_timeout is None else parse_seconds(worker_timeout, "worker_timeout")
        )
        # True for temporary credentials, None for none.
        self.security = _checked_security(security, options.get("protocol"))
        self.shared = _checked_directory(self._value("shared_temp_directory") or "~/.dask-limits")
        options.pop("shared_temp_directory", None)
        self._set_defaults()
        job = self._try_job()
        self.submit_command = _checked("submit_command", submit_command) or job.submit_command
        self.cancel_command = _checked("cancel_command", cancel_command) or job.cancel_command

    @property
    def worker(self) -> WorkerResources:
        """What a worker of these jobs has for calls."""
        return job_resources(self.memory, self.cores, self.walltime_s or math.inf)

    @property
    def places(self) -> int:
        """How many calls of one core the workers of all jobs run at a time."""
        most = self.n_workers if self.adaptive is None else self.adaptive.maximum
        return most * self.cores

    @property
    def shown(self) -> dict[str, Any]:
        """What to show people: how many workers, and what each job has."""
        shown: dict[str, Any] = {"n_workers": self.n_workers}
        if self.adaptive is not None:
            shown = {"adaptive": (self.adaptive.minimum, self.adaptive.maximum)}
        shown |= {"cores": self.options["cores"], "memory": format_bytes(self.options["memory"])}
        if self.nodes_per_job > 1:
            shown["nodes_per_job"] = self.nodes_per_job
        if "walltime" in self.options:
            shown["walltime"] = self.options["walltime"]
        return shown

    @property
    def dashboard_host(self) -> str:
        """What the scheduler's dashboard listens on; empty for all addresses of this machine."""
        address = self.options["scheduler_options"]["dashboard_address"]
        return str(address).rpartition(":")[0] if isinstance(address, str) else ""

    def refusal(self, limits: Limits, name: str) -> LimitRefusedError | None:
        """The error of a call of this name that no worker could ever run; None if one could."""
        return refusal_error(name, limits, [self.worker])

    def _check_options(self) -> None:
        """Refuse what `dask_jobqueue` does not have, and a str where it wants a list."""
        known = (_parameters(JobQueueCluster) | _parameters(self.job_class)) - _OURS
        for name in self.options:
            if name in _IN_SCHEDULER_OPTIONS:
                raise ValueError(
                    f"{name!r} is an option of the Dask scheduler. Use"
                    f" scheduler_options={{{name!r}: ...}}."
                )
            if name not in known:
                all_known = [*_USUAL, *sorted(known - _IN_SCHEDULER_OPTIONS - {*_USUAL})]
                instead = instead_of(name, self.options[name], all_known, _IN_DIRECTIVES)
                raise ValueError(f"{name!r} is not an option for {self.system}: {instead}")
        if dask.config.get(f"jobqueue.{self._section}", None) is None:
            raise ValueError(
                f"config_name={self._section!r} is not a section of dask_jobqueue's configuration"
                f" (jobqueue.yaml). The default is {self.system!r}."
            )
        for name in (*_LISTS, *_LISTS.values()):
            for value in (self.options.get(name), self._configured(name)):
                if isinstance(value, str):
                    raise TypeError(f"{name}={value!r} must be a list. Use [{value!r}].")

    def _configured(self, name: str) -> Any:
        return dask.config.get(f"jobqueue.{self._section}.{name.replace('_', '-')}", None)

    def _value(self, name: str) -> Any:
        """What the user gave or, if it is None or empty, what is configured."""
        return self.options.get(name) or self._configured(name)

    def _list(self, name: str) -> list[Any]:
        """A value that is a list, under its present or its former name."""
        old_name = _LISTS[name]
        given = self.options.get(name) or self.options.pop(old_name, None)
        return list(given or self._configured(name) or self._configured(old_name) or [])

    def _set_resources(self) -> None:
        """Set the cores, the memory and the number of workers of a job."""
        for name, example, what in (
            ("cores", "4", "the number of cores per job"),
            ("memory", '"16 GiB"', "the memory per job"),
        ):
            if self.options.get(name) is None:
                self.options[name] = self._configured(name)
            if self.options[name] is None:
                raise ValueError(
                    f"Specify `{name}`: {what}. Use with_{self.system}(..., {name}={example}), or"
                    f" set jobqueue.{self.system}.{name} in dask_jobqueue's configuration."
                )
        if self.options.get("processes") is None:
            # One worker packs calls best, as limited calls run in processes of their own anyway.
            self.options["processes"] = self._configured("processes") or 1
        default = "the value in dask_jobqueue's configuration"
        for name in ("cores", "processes"):
            self.options[name] = whole_number(self.options[name], name, none=default)
        memory = self.options["memory"] = parse_bytes(self.options["memory"])
        cores, processes = self.options["cores"], self.options["processes"]
        if processes > cores:
            raise ValueError(f"processes={processes} is more than cores={cores}")
        if memory <= OWN_BYTES * processes:
            raise ValueError(
                f"memory={format_bytes(memory)} leaves nothing for calls: a Dask worker and"
                f" the processes of dask_limits need {format_bytes(OWN_BYTES)}"
                + (" for each of the processes" if processes > 1 else "")
            )

    def _set_walltime(self) -> float | None:
        """Set the wall time in the batch system's own form; return it in seconds."""
        if self.system == "htcondor":
            return None
        walltime = self.options.get("walltime")
        if walltime is None:
            walltime = self._configured("walltime")
            if isinstance(walltime, int):  # in the batch system's unit, as dask_jobqueue writes it
                walltime = str(walltime)
        if walltime is None:
            return None
        text = self.options["walltime"] = walltime_text(walltime, self.system)
        return walltime_seconds(text, self.system)

    def _set_defaults(self) -> None:
        """Set what `dask_jobqueue` would leave out, or open to the whole network."""
        scheduler = {"dashboard_address": "127.0.0.1:0"} | (self._value("scheduler_options") or {})
        if not {"host", "interface"} & set(scheduler):
            scheduler["host"] = ip_address(self._value("interface"))
        self.options["scheduler_options"] = scheduler

        extra = self._list("worker_extra_args")
        if not any(str(word).startswith("--dashboard-address") for word in extra):
            extra += ["--dashboard-address", "127.0.0.1:0"]
        self.options["worker_extra_args"] = extra

        if log := self._value("log_directory"):
            # Batch systems do not expand "~", and dask_jobqueue makes a directory of that name.
            self.options["log_directory"] = str(Path(os.path.expandvars(log)).expanduser())

        if self.walltime_s is not None:
            ends = f"export {JOB_ENDS}=$(( $(date +%s) + {math.floor(self.walltime_s)} ))"
            self.options["job_script_prologue"] = [*self._list("job_script_prologue"), ends]

        if self.system == "slurm":
            if not self._value("job_mem"):
                # dask_jobqueue rounds up to whole gigabytes: 1.1 GiB would become 2G.
                self.options["job_mem"] = f"{-(-self.options['memory'] // 2**20)}M"
            # A job that SLURM requeues would bring a worker whose name is already taken.
            directives = self._list("job_extra_directives")
            skipped = self._list("job_directives_skip")
            if not any("requeue" in str(word) for word in [*directives, *skipped]):
                directives.append("--no-requeue")
            if self.nodes_per_job > 1:  # these override dask_jobqueue's "-n 1"
                nodes = self.nodes_per_job
                directives += [f"--nodes={nodes}", f"--ntasks={nodes}", "--ntasks-per-node=1"]
            self.options["job_extra_directives"] = directives
            if not self.options.get("job_name") and self._configured("name") in (None, _JOB_NAME):
                self.options["job_name"] = program_name()

    def _try_job(self) -> Any:
        """Have `dask_jobqueue` check the options by making a job. This starts nothing."""
        not_here = _parameters(JobQueueCluster) - {"interface", "protocol", "config_name"}
        not_here.add("log_directory")  # the job would make it
        of_job = {name: value for name, value in self.options.items() if name not in not_here}
        try:
            return self.job_class("tls://scheduler:8786", name="worker", **of_job)
        except Exception as error:
            raise ValueError(
                f"dask_jobqueue cannot make a {self.system} job from these options: {error}"
            ) from error


def _parameters(owner: type[Any]) -> set[str]:
    """The names of the parameters of the constructors of a class and its bases."""
    names: set[str] = set()
    for base in owner.__mro__:
        if issubclass(base, Job | JobQueueCluster) and "__init__" in vars(base):
            arguments = inspect.getfullargspec(vars(base)["__init__"])
            names.update(arguments.args, arguments.kwonlyargs)
    return names


def _checked_security(security: object, protocol: str | None) -> Any:
    if protocol is not None and not protocol.startswith("tls") and security is not False:
        raise ValueError(
            f"protocol={protocol!r} cannot use credentials. Leave it out, or specify"
            " security=False: then anybody who can reach the scheduler can run code as you."
        )
    if security is None or security is True:
        return True
    if security is False or isinstance(security, distributed.Security):
        return security or None
    raise TypeError(
        f"security={security!r} is of type {type(security).__name__}. Use a distributed.Security,"
        " None for temporary credentials, or False for connections that anybody can make and read."
    )


def _checked_nodes(nodes: int | None, system: str, processes: int) -> int:
    if nodes is None:
        return 1
    nodes = whole_number(nodes, "nodes_per_job", none="one")
    if nodes > 1 and system != "slurm":
        raise ValueError(
            f"nodes_per_job={nodes} needs SLURM, whose srun starts a worker on each node of a job."
            f" For {system}, leave it out: each job has one node."
        )
    if nodes > 1 and processes > 1:
        raise ValueError(
            f"nodes_per_job={nodes} cannot be combined with processes={processes}: a job of several"
            " nodes has one worker on each. Leave one of them out."
        )
    return nodes


def _checked(name: str, command: str | None) -> str | None:
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
            " support this. Use another directory."
        )
    return path
