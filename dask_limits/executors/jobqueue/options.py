"""Checks of the options that users pass on to `dask_jobqueue`, and of its configuration files."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import dask
import distributed

from dask_limits.executors.jobqueue.jobqueue_import import Job, JobQueueCluster

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


class Configuration:
    """The configuration files of `dask_jobqueue`.

    Args:
        system: The batch system.
        section: The name of its section in `jobqueue.yaml`.

    Raises:
        ValueError: if there is no such section.
    """

    def __init__(self, system: str, section: str) -> None:
        self._section = section
        if dask.config.get(f"jobqueue.{section}", None) is None:
            raise ValueError(
                f"config_name={section!r} is not a section of dask_jobqueue's configuration"
                f" (jobqueue.yaml). The default is {system!r}"
            )

    def get(self, key: str) -> Any:
        """The value of a key; None if it is not set."""
        return dask.config.get(f"jobqueue.{self._section}.{key}", None)


def parameters(owner: type[Any]) -> set[str]:
    """The names of the parameters of the constructors of a class and its bases."""
    names: set[str] = set()
    for base in owner.__mro__:
        if issubclass(base, Job | JobQueueCluster) and "__init__" in vars(base):
            for parameter in inspect.signature(vars(base)["__init__"]).parameters.values():
                if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
                    names.add(parameter.name)
    return names


def check_names(system: str, job_class: type[Any], options: Mapping[str, Any]) -> None:
    """Refuse options that the batch system's classes of `dask_jobqueue` do not have."""
    known = (parameters(JobQueueCluster) | parameters(job_class)) - _OURS
    for name in options:
        if name in _IN_SCHEDULER_OPTIONS:
            raise ValueError(
                f"{name!r} is an option of the Dask scheduler. Use"
                f" scheduler_options={{{name!r}: ...}}"
            )
        if name in known:
            continue
        close = difflib.get_close_matches(name, known, 1)
        raise ValueError(
            f"{name!r} is not an option for {system}."
            + (f" Did you mean {close[0]!r}?" if close else "")
            + f" The options are: {', '.join(sorted(known - _IN_SCHEDULER_OPTIONS))}"
        )


def check_lists(options: Mapping[str, Any], configuration: Configuration) -> None:
    """Refuse a str where `dask_jobqueue` wants a list."""
    for name in (*_LISTS, *_LISTS.values()):
        for value in (options.get(name), configuration.get(name.replace("_", "-"))):
            if isinstance(value, str):
                raise TypeError(f"{name}={value!r} is a str, but must be a list: [{value!r}]")


def take_list(name: str, options: dict[str, Any], configuration: Configuration) -> list[Any]:
    """An option that is a list, or the configured one, under its present or its former name."""
    old_name = _LISTS[name]
    given = options.get(name) or options.pop(old_name, None)
    configured = configuration.get(name.replace("_", "-"))
    return list(given or configured or configuration.get(old_name.replace("_", "-")) or [])


def checked_security(security: object, protocol: str | None) -> Any:
    """The credentials that a user gives; None for temporary ones, False for none."""
    if protocol is not None and not protocol.startswith("tls") and security is not False:
        raise ValueError(
            f"protocol={protocol!r} cannot use credentials. Leave it out, or specify"
            " security=False: then anybody who can reach the scheduler can run code as you"
        )
    if security is None or security is True:
        return None
    if security is False or isinstance(security, distributed.Security):
        return security
    raise TypeError(
        f"security={security!r} is a {type(security).__name__}. Use a distributed.Security, None"
        " for temporary credentials, or False for connections that anybody can make and read"
    )


def checked_directory(directory: str | os.PathLike[str]) -> str:
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


def checked_command(name: str, command: str | None) -> str | None:
    """A shell command that a user gives."""
    if command is None:
        return None
    with contextlib.suppress(ValueError, AttributeError):  # an open quote; not a str
        if shlex.split(command):
            return command
    raise ValueError(f"{name}={command!r} must be a command, such as 'sbatch --parsable'")
