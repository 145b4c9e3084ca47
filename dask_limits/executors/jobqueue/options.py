"""The options that users pass on to `dask_jobqueue`, completed from its configuration files."""

from __future__ import annotations

import difflib
import inspect
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import dask

from dask_limits.batch_systems.current_job import JOB_ENDS
from dask_limits.batch_systems.walltimes import walltime_seconds, walltime_text
from dask_limits.dask.compat.client import ip_address
from dask_limits.dask.compat.jobqueue import check_jobqueue, import_jobqueue
from dask_limits.dask.reservations import OWN_BYTES
from dask_limits.units import format_bytes, parse_bytes, whole_number

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
_IN_SCHEDULER_OPTIONS: Final = {"dashboard_address", "host"}


class JobOptions(dict[str, Any]):
    """What a user gives; the methods add what is configured, and what dask_limits needs.

    Raises:
        ValueError: if an option or `config_name` is unknown.
        TypeError: if a list is a str.
    """

    def __init__(self, system: str, cluster_class: Any, given: Mapping[str, Any]) -> None:
        super().__init__(given)
        self._system = system
        self._job_class = given.get("job_cls") or cluster_class.job_cls
        self._section = given.get("config_name") or self._job_class.config_name
        self._check_names()
        if dask.config.get(f"jobqueue.{self._section}", None) is None:
            raise ValueError(
                f"config_name={self._section!r} is not a section of dask_jobqueue's configuration"
                f" (jobqueue.yaml). The default is {system!r}"
            )
        for name in (*_LISTS, *_LISTS.values()):
            for value in (given.get(name), self._configured(name)):
                if isinstance(value, str):
                    raise TypeError(f"{name}={value!r} is a str, but must be a list: [{value!r}]")

    def _check_names(self) -> None:
        """Refuse options that the batch system's classes of `dask_jobqueue` do not have."""
        known = _parameters(JobQueueCluster) | _parameters(self._job_class)
        known -= _OURS
        for name in self:
            if name in _IN_SCHEDULER_OPTIONS:
                raise ValueError(
                    f"{name!r} is an option of the Dask scheduler. Use"
                    f" scheduler_options={{{name!r}: ...}}"
                )
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                raise ValueError(
                    f"{name!r} is not an option for {self._system}."
                    + (f" Did you mean {close[0]!r}?" if close else "")
                    + f" The options are: {', '.join(sorted(known - _IN_SCHEDULER_OPTIONS))}"
                )

    def _configured(self, name: str) -> Any:
        return dask.config.get(f"jobqueue.{self._section}.{name.replace('_', '-')}", None)

    def value(self, name: str) -> Any:
        """What the user gave or, if it is None or empty, what is configured."""
        return self.get(name) or self._configured(name)

    def _list(self, name: str) -> list[Any]:
        """A value that is a list, under its present or its former name."""
        old_name = _LISTS[name]
        given = self.get(name) or self.pop(old_name, None)
        return list(given or self._configured(name) or self._configured(old_name) or [])

    def set_resources(self) -> None:
        """Set the cores, the memory and the number of workers of a job."""
        for name, example, what in (
            ("cores", "4", "the number of cores per job"),
            ("memory", '"16 GiB"', "the memory per job"),
        ):
            if self.get(name) is None:
                self[name] = self._configured(name)
            if self[name] is None:
                raise ValueError(
                    f"Specify `{name}`: {what}. Use with_{self._system}(..., {name}={example}), or"
                    f" set jobqueue.{self._system}.{name} in dask_jobqueue's configuration"
                )
        if self.get("processes") is None:
            # One worker packs calls best, as limited calls run in processes of their own anyway.
            self["processes"] = self._configured("processes") or 1
        for name in ("cores", "processes"):
            default = "the value in dask_jobqueue's configuration"
            self[name] = whole_number(self[name], name, none=default)
        memory = self["memory"] = parse_bytes(self["memory"])
        cores, processes = self["cores"], self["processes"]
        if processes > cores:
            raise ValueError(f"processes={processes} is more than cores={cores}")
        if memory <= OWN_BYTES * processes:
            raise ValueError(
                f"memory={format_bytes(memory)} leaves nothing for calls: a Dask worker and"
                f" the processes of dask_limits need {format_bytes(OWN_BYTES)}"
                + (" for each of the processes" if processes > 1 else "")
            )

    def set_walltime(self) -> float | None:
        """Set the wall time in the batch system's own form; return it in seconds."""
        if self._system == "htcondor":
            return None
        walltime = self.get("walltime")
        if walltime is None:
            walltime = self._configured("walltime")
            if isinstance(walltime, int):  # in the batch system's unit, as dask_jobqueue writes it
                walltime = str(walltime)
        if walltime is None:
            return None
        text = self["walltime"] = walltime_text(walltime, self._system)
        return walltime_seconds(text, self._system)

    def set_defaults(self, walltime_s: float | None) -> None:
        """Set what `dask_jobqueue` would leave out, or open to the whole network."""
        scheduler = {"dashboard_address": "127.0.0.1:0"} | (self.value("scheduler_options") or {})
        if not {"host", "interface"} & set(scheduler):
            scheduler["host"] = ip_address(self.value("interface"))
        self["scheduler_options"] = scheduler

        extra = self._list("worker_extra_args")
        if not any(str(word).startswith("--dashboard-address") for word in extra):
            extra += ["--dashboard-address", "127.0.0.1:0"]
        self["worker_extra_args"] = extra

        if log := self.value("log_directory"):
            # Batch systems do not expand "~", and dask_jobqueue makes a directory of that name.
            self["log_directory"] = str(Path(os.path.expandvars(log)).expanduser())

        if walltime_s is not None:
            ends = f"export {JOB_ENDS}=$(( $(date +%s) + {math.floor(walltime_s)} ))"
            self["job_script_prologue"] = [*self._list("job_script_prologue"), ends]

        if self._system == "slurm":
            if not self.value("job_mem"):
                # dask_jobqueue rounds up to whole gigabytes: 1.1 GiB would become 2G.
                self["job_mem"] = f"{-(-self['memory'] // 2**20)}M"
            # A job that SLURM requeues would bring a worker whose name is already taken.
            directives = self._list("job_extra_directives")
            skipped = self._list("job_directives_skip")
            if not any("requeue" in str(word) for word in [*directives, *skipped]):
                directives.append("--no-requeue")
            self["job_extra_directives"] = directives

    def try_job(self) -> Any:
        """Have `dask_jobqueue` check the options by making a job. This starts nothing."""
        of_cluster = _parameters(JobQueueCluster)
        of_cluster -= {"interface", "protocol", "config_name"}
        of_cluster.add("log_directory")  # the job would make it
        of_job = {name: value for name, value in self.items() if name not in of_cluster}
        try:
            return self._job_class("tls://scheduler:8786", name="worker", **of_job)
        except Exception as error:
            raise ValueError(
                f"dask_jobqueue cannot make a {self._system} job from these options: {error}"
            ) from error


def _parameters(owner: type[Any]) -> set[str]:
    """The names of the parameters of the constructors of a class and its bases."""
    names: set[str] = set()
    for base in owner.__mro__:
        if issubclass(base, Job | JobQueueCluster) and "__init__" in vars(base):
            arguments = inspect.getfullargspec(vars(base)["__init__"])
            names.update(arguments.args, arguments.kwonlyargs)
    return names
