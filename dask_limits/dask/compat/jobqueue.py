"""dask-jobqueue's, and those of Dask's clusters that its clusters have.

Most are of classes that `executors.jobqueue.cluster` derives its own from: the methods that it
overrides or calls, and the attributes that it sets.
"""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, Final

from dask_limits.dask.compat.name import Name
from dask_limits.dask.compat.shared_patch import SharedPatch

_NOT_STARTED: Final = "Clusters of dask-jobqueue cannot be started."
_SUBMIT: Final = "to submit and cancel jobs so that none outlives the driver"
_UNCANCELLED: Final = "Jobs may stay in the queue when the driver is killed."
_SCRIPT: Final = "to let workers finish what they run when their job is signalled"


def _job(name: str, what_for: str, since: str, without: str) -> Name:
    return Name("dask-jobqueue", f"dask_jobqueue.core:Job.{name}", what_for, since, without)


def _cluster(name: str, what_for: str, since: str, without: str) -> Name:
    path = f"dask_jobqueue.core:JobQueueCluster.{name}"
    return Name("dask-jobqueue", path, what_for, since, without)


NAMES: Final = (
    Name(
        "dask-jobqueue",
        "dask_jobqueue.runner",
        "to keep Ctrl-C as it is: importing this module sets a handler of its own",
        "0.9.0",
        "Nothing to keep.",
    ),
    Name("dask-jobqueue", "dask_jobqueue.core:Job", _SUBMIT, "0.7.0", _NOT_STARTED),
    _job("_call", _SUBMIT, "0.1.0", _UNCANCELLED),
    _job("job_file", "to write job scripts where nobody else can", "0.1.0", "They go to /tmp."),
    _job("submit_command", _SUBMIT, "0.1.0", _NOT_STARTED),
    _job("cancel_command", _SUBMIT, "0.1.0", _NOT_STARTED),
    _job("config_name", "to read its section of jobqueue.yaml", "0.1.0", _NOT_STARTED),
    _job("_command_template", _SCRIPT, "0.1.0", _NOT_STARTED),
    _job("_job_script_prologue", _SCRIPT, "0.8.0", _NOT_STARTED),
    _job(
        "worker_process_memory",
        "to give workers the memory that was asked for, not rounded",
        "0.5.0",
        "Workers have up to 1 % more or less memory.",
    ),
    _cluster("job_cls", _SUBMIT, "0.7.0", _NOT_STARTED),
    _cluster(
        "_get_worker_security",
        "to close the files of the credentials, whose names start with _job_",
        "0.8.0",
        "Files may be left in the directory that the nodes share.",
    ),
    Name(
        "distributed",
        "distributed.deploy.cluster:Cluster._update_worker_status",
        "to replace the jobs of lost workers only when the batch system says that they ended",
        "2021.1",
        "Dask cancels and replaces the job of a worker that is away for 15 s.",
    ),
    Name(
        "distributed",
        "distributed.deploy.cluster:Cluster._loop_runner",
        "to stop the thread of a cluster that could not be started",
        "2021.12.0",
        "The thread is left when a cluster could not be started.",
    ),
    Name(
        "distributed",
        "distributed.deploy.spec:SpecCluster._correct_state",
        _SUBMIT,
        "2021.1",
        "No jobs are submitted; the log says why.",
    ),
    Name(
        "distributed",
        "distributed.deploy.spec:SpecCluster._close",
        "to close the files of the credentials",
        "2021.1",
        "Files may be left in the directory that the nodes share.",
    ),
    Name(
        "distributed",
        "distributed.deploy.spec:SpecCluster.new_spec",
        _SUBMIT,
        "2021.1",
        "No jobs are submitted; the log says why.",
    ),
)

_import_lock = threading.Lock()


def import_jobqueue() -> Any:
    """Import `dask_jobqueue`, and keep the handler of Ctrl-C.

    `dask_jobqueue.runner` (0.9), which comes with the package, sets a handler for SIGINT on import:
    from then on Ctrl-C ends the program with exit code 0 and without a word. In another thread than
    the main one the import fails.

    Returns:
        The module; `core` is an attribute of it.
    """
    with _import_lock:
        if "dask_jobqueue" not in sys.modules:
            with _no_handlers.block():
                importlib.import_module("dask_jobqueue")
    return importlib.import_module("dask_jobqueue")


def _set_no_handlers_here() -> Callable[[], object]:
    """Have this thread set no signal handlers; others can."""
    original, here = signal.signal, threading.get_ident()
    is_over = False

    def set_elsewhere(number: Any, handler: Any) -> Any:
        if threading.get_ident() == here and not is_over:
            return signal.getsignal(number)
        return original(number, handler)

    def undo() -> None:
        nonlocal is_over
        is_over = True
        if signal.signal is set_elsewhere:  # else somebody has put something on top of it
            signal.signal = original

    signal.signal = set_elsewhere  # type: ignore[assignment]
    return undo


_no_handlers: Final = SharedPatch(_set_no_handlers_here)


async def submit_new_jobs(cluster: Any) -> None:
    """Start the workers that are in the specification of a cluster and have not been started."""
    await cluster._correct_state()


def new_worker_spec(cluster: Any) -> Any:
    """The specification of one more worker of a cluster."""
    return cluster.new_spec
