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

from dask_limits.dask.compat.shared_patch import SharedPatch
from dask_limits.dask.compat.undocumented_name import Name

_NOT_STARTED: Final = "Starting a cluster of dask-jobqueue fails with ImportError."
_SUBMIT: Final = "to submit and cancel jobs so that none outlives the driver"
_SCRIPT: Final = "to let workers finish what they run when their job is signalled"
_REPLACE: Final = "to replace jobs only when the batch system says that they have ended"
_CREDENTIALS: Final = "to close the files of the credentials"


def _job(name: str, what_for: str, since: str, without: str = _NOT_STARTED) -> Name:
    return Name("dask-jobqueue", f"dask_jobqueue.core:Job{name}", what_for, since, without)


def _cluster(name: str, what_for: str, since: str, without: str = _NOT_STARTED) -> Name:
    path = f"dask_jobqueue.core:JobQueueCluster.{name}"
    return Name("dask-jobqueue", path, what_for, since, without)


def _dasks_cluster(
    name: str, what_for: str, since: str = "2021.1", without: str = _NOT_STARTED
) -> Name:
    return Name("distributed", f"distributed.deploy.{name}", what_for, since, without)


_REQUIRED: Final = (
    _job("", _SUBMIT, "0.7.0"),
    _job("._call", _SUBMIT, "0.1.0"),
    _job(".submit_command", _SUBMIT, "0.1.0"),
    _job(".cancel_command", _SUBMIT, "0.1.0"),
    _job(".config_name", "to read its section of jobqueue.yaml", "0.1.0"),
    _job("._command_template", _SCRIPT, "0.1.0"),
    _job("._job_script_prologue", _SCRIPT, "0.8.0"),
    _cluster("job_cls", _SUBMIT, "0.7.0"),
    _dasks_cluster("cluster:Cluster._update_worker_status", _REPLACE),
    _dasks_cluster("spec:SpecCluster._correct_state", _SUBMIT),
    _dasks_cluster("spec:SpecCluster.new_spec", _SUBMIT),
    _dasks_cluster("spec:SpecCluster._close", _CREDENTIALS),
)
NAMES: Final = (
    *_REQUIRED,
    Name(
        "dask-jobqueue",
        "dask_jobqueue.runner",
        "to keep Ctrl-C as it is: importing this module sets a handler of its own",
        "0.9.0",
        "Ctrl-C stays as it is.",
    ),
    _job(".job_file", "to write job scripts where nobody else can", "0.1.0", "They go to /tmp."),
    _job(
        ".worker_process_memory",
        "to give workers the memory that was asked for, not rounded",
        "0.5.0",
        "Workers have up to 1 % more or less memory.",
    ),
    _cluster(
        "_get_worker_security",
        f"{_CREDENTIALS}, whose names start with _job_",
        "0.8.0",
        "The files are closed when Python collects the cluster.",
    ),
    _dasks_cluster(
        "cluster:Cluster._loop_runner",
        "to stop the thread of a cluster that could not be started",
        "2021.12.0",
        "The thread stays until the program ends.",
    ),
)


def check_jobqueue() -> None:
    """Check that the installed versions have what clusters of dask-jobqueue cannot be without.

    Raises:
        ImportError: if they have not.
    """
    import_jobqueue()
    for name in _REQUIRED:
        name.get()


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
