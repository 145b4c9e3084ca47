"""dask-jobqueue's, and those of Dask's clusters that its clusters have.

Most are of classes that `executors.jobqueue.cluster` derives its own from: the methods that it
overrides or calls, and the attributes that it sets.
"""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from dask_limits.dask.compat.shared_patch import shared
from dask_limits.dask.compat.undocumented_name import names

_required = partial(names, without="Starting a cluster of dask-jobqueue fails with ImportError.")
_REQUIRED: Final = (
    _required(
        "dask_jobqueue.core:Job 0.7.0",
        "dask_jobqueue.core:Job._call 0.1.0",
        "dask_jobqueue.core:Job.submit_command 0.1.0",
        "dask_jobqueue.core:Job.cancel_command 0.1.0",
        "dask_jobqueue.core:JobQueueCluster.job_cls 0.7.0",
        "distributed.deploy.spec:SpecCluster.new_spec 2021.1",
        what_for="to submit and cancel jobs so that none outlives the driver",
    )
    | _required(
        "dask_jobqueue.core:Job.config_name 0.1.0",
        what_for="to read its section of jobqueue.yaml",
    )
    | _required(
        "dask_jobqueue.core:Job._command_template 0.1.0",
        "dask_jobqueue.core:Job._job_script_prologue 0.8.0",
        what_for="to let workers finish what they run when their job is signalled",
    )
    | _required(
        "distributed.deploy.spec:SpecCluster._close 2021.1",
        what_for="to close the files of the credentials",
    )
)
NAMES: Final = (
    _REQUIRED
    | names(
        "dask_jobqueue.runner 0.9.0",
        what_for="to keep Ctrl-C as it is: importing this module sets a handler of its own",
        without="Ctrl-C stays as it is.",
    )
    | names(
        "dask_jobqueue.core:Job.job_file 0.1.0",
        what_for="to write job scripts where nobody else can",
        without="They go to /tmp.",
    )
    | names(
        "dask_jobqueue.core:Job.worker_process_memory 0.5.0",
        what_for="to give workers the memory that was asked for, not rounded",
        without="Workers have up to 1 % more or less memory.",
    )
    | names(
        "dask_jobqueue.core:JobQueueCluster._get_worker_security 0.8.0",
        what_for="to close the files of the credentials, whose names start with _job_",
        without="The files are closed when Python collects the cluster.",
    )
    | names(
        "distributed.deploy.cluster:Cluster._loop_runner 2021.12.0",
        what_for="to stop the thread of a cluster that could not be started",
        without="The thread stays until the program ends.",
    )
)


def check_jobqueue() -> None:
    """Raise ImportError unless there is all that clusters of dask-jobqueue cannot be without."""
    import_jobqueue()
    for name in _REQUIRED.values():
        name.get()


_import_lock = threading.Lock()


def import_jobqueue() -> Any:
    """Import `dask_jobqueue`, and keep the handler of Ctrl-C.

    `dask_jobqueue.runner` (0.9), which comes with the package, sets a handler for SIGINT on import:
    from then on Ctrl-C ends the program with exit code 0 and without a word. In another thread than
    the main one the import fails.
    """
    with _import_lock:
        if "dask_jobqueue" not in sys.modules:
            with no_handlers_here():
                importlib.import_module("dask_jobqueue")
    return importlib.import_module("dask_jobqueue")


@shared
def no_handlers_here() -> Iterator[None]:
    """Have this thread set no signal handlers; others can."""
    original, here = signal.signal, threading.get_ident()
    is_over = False

    def set_elsewhere(number: Any, handler: Any) -> Any:
        if threading.get_ident() == here and not is_over:
            return signal.getsignal(number)
        return original(number, handler)

    signal.signal = set_elsewhere  # type: ignore[assignment]
    yield
    is_over = True
    if signal.signal is set_elsewhere:  # else somebody has put something on top of it
        signal.signal = original
