"""A cluster of `dask_jobqueue`, whose jobs are submitted, cancelled and replaced by us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import distributed
from distributed.core import Status
from distributed.deploy import Cluster

from dask_limits.executors.jobqueue.shared_directory import SharedDirectory
from dask_limits.executors.jobqueue.spec import Plan
from dask_limits.executors.jobqueue.submission import Canceller


def make_cluster(plan: Plan, canceller: Canceller, directory: SharedDirectory) -> Any:
    """A running cluster, without any job yet.

    Its jobs have, beside what `dask_jobqueue` gives them, `submit_error`: an exception, or None.
    """
    security = distributed.Security.temporary() if plan.security is None else plan.security
    options: dict[str, Any] = {"log_directory": str(directory.logs)} | dict(plan.options)
    options["job_cls"] = _job_class(plan, canceller, directory, options.get("job_cls"))
    return _cluster_class(plan)(
        n_workers=0,
        security=security or None,
        shared_temp_directory=directory.unexpanded,
        **options,
    )


def _job_class(plan: Plan, canceller: Canceller, directory: SharedDirectory, base: Any) -> Any:
    base = base or plan.cluster_class.job_cls

    class KeptJob(base):  # type: ignore[misc]
        submit_error: Exception | None = None

        _command_template: str

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.submit_command = plan.submit_command
            script: list[str] = self._job_script_prologue
            if not any("trap" in line for line in script):
                # Else the shell dies at once of what the batch system sends to the whole job, which
                # is over then, while the worker still closes.
                command = self._command_template
                *before, worker = command.rpartition("; ")  # HTCondor's has the prologue in it
                self._command_template = "".join([*before, "exec ", worker])

        @property
        def worker_process_memory(self) -> str:
            # Dask's own is rounded, up at times: "4GB" would be "3.73GiB", 5 MB more.
            return f"{plan.memory}B"

        @contextmanager
        def job_file(self) -> Iterator[str]:
            # Not in /tmp: Dask frees the name of its file there before it writes it, and somebody
            # else might put a file of his own in its place.
            path = directory.path / f"{self.name}.sh"
            path.write_text(self.job_script())
            try:
                yield str(path)
            finally:
                path.unlink(missing_ok=True)

        async def start(self) -> None:
            try:
                await super().start()
            except (OSError, RuntimeError, ValueError) as error:
                # Nobody would hear of it: what Dask starts later, it starts in the background.
                self.submit_error = error
                self.status = Status.running

        async def _call(self, command: list[str], *, shell: bool = False, **_: Any) -> str:
            if shell:  # LSF: "bsub< script 2> /dev/null", but what it says there is wanted
                command = ["/bin/sh", "-c", command[0].removesuffix(" 2> /dev/null")]
            return await canceller.submit(command)

        async def close(self) -> None:
            self.status = Status.closing
            if self.job_id:
                await canceller.cancel(self.job_id)
            self.status = Status.closed

    return KeptJob


def _cluster_class(plan: Plan) -> Any:
    base: Any = plan.cluster_class

    class KeptCluster(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            try:
                super().__init__(*args, **options)
            except BaseException:  # of which Dask leaves the thread behind
                self._close_credentials()
                if (runner := getattr(self, "_loop_runner", None)) is not None:
                    runner.stop()
                raise

        def scale(self, n: Any = None, *args: Any, **options: Any) -> Any:
            if n == 0:
                # At the end. dask_jobqueue's asks for the scheduler's address, and when that could
                # not be started, nobody learns why.
                return distributed.SpecCluster.scale(self, 0)
            return super().scale(n, *args, **options)

        def _update_worker_status(self, op: str, msg: Any) -> None:
            # Dask's own would cancel the job of a worker that is away for 15 s, and submit another
            # one with the same name. Ours asks the batch system first.
            Cluster._update_worker_status(self, op, msg)

        async def _close(self) -> None:
            await super()._close()
            self._close_credentials()

        def _close_credentials(self) -> None:
            for name in ("ca_file", "cert", "key"):  # files, which Dask leaves open
                if (file := getattr(self, f"_job_{name}", None)) is not None:
                    file.close()

    KeptCluster.__name__ = base.__name__  # which is part of what Dask calls its workers
    return KeptCluster
