"""A cluster of `dask_jobqueue` whose jobs a `JobPool` submits, cancels and replaces."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import distributed
from distributed import Status

from dask_limits.executors.jobqueue.job_submission import JobSubmitter
from dask_limits.executors.jobqueue.shared_directory import SharedDirectory
from dask_limits.executors.jobqueue.spec import JobSpec


def make_cluster(spec: JobSpec, submitter: JobSubmitter, directory: SharedDirectory) -> Any:
    """Start a cluster that has no jobs yet, and submits none by itself."""
    options = dict(spec.options) | {
        "n_workers": 0,
        "security": spec.security,
        "job_cls": _job_class(spec, submitter, directory),
        "log_directory": str(directory.logs),
        "shared_temp_directory": directory.unexpanded,
    }
    return _cluster_class(spec.cluster_class)(**options)


def _job_class(spec: JobSpec, submitter: JobSubmitter, directory: SharedDirectory) -> Any:
    base: Any = spec.job_class

    class PoolJob(base):  # type: ignore[misc]
        _command_template: str

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.submit_command = spec.submit_command
            if spec.nodes_per_job > 1:
                start = _on_each_node(self.name, spec)
                self._command_template = f"{start} {self._command_template}"
            script: list[str] = self._job_script_prologue
            if not any("trap" in line for line in script):
                # Otherwise the shell dies at once of the signal that the batch system sends to the
                # whole job. That ends the job while the worker is still closing. (HTCondor's
                # template begins with the prologue.)
                *before, worker = self._command_template.rpartition("; ")
                self._command_template = "".join([*before, "exec ", worker])

        @property
        def worker_process_memory(self) -> str:
            # dask_jobqueue rounds it, sometimes up: "4GB" would become "3.73GiB", 5 MB more.
            return f"{spec.memory}B"

        @contextmanager
        def job_file(self) -> Iterator[str]:
            # Not in /tmp, where dask_jobqueue frees the file's name before it writes the file:
            # another user could put a file of their own in its place.
            path = directory.path / f"{self.name}.sh"
            path.write_text(self.job_script())
            try:
                yield str(path)
            finally:
                path.unlink(missing_ok=True)

        async def _call(self, command: list[str], *, shell: bool = False, **_: Any) -> str:
            if shell:  # LSF: "bsub< script 2> /dev/null"; we want its error messages
                command = ["/bin/sh", "-c", command[0].removesuffix(" 2> /dev/null")]
            return await submitter.submit(command)

        async def close(self) -> None:
            self.status = Status.closing
            if self.job_id:
                await submitter.cancel(self.job_id)
            self.status = Status.closed

    return PoolJob


def _on_each_node(name: str, spec: JobSpec) -> str:
    """What to put before the command of a worker, so that there is one on each node of a job.

    Each has the name of the job and its number, as several workers of one node have: the last
    `--name` counts. When one ends, the others go on.
    """
    worker = 'exec "$@" --name "$0-$SLURM_PROCID"'
    # srun of newer SLURMs does not take it from the job by itself.
    cores = f'--cpus-per-task="${{SLURM_CPUS_PER_TASK:-{spec.cores}}}"'
    options = [
        f"--ntasks={spec.nodes_per_job}",
        "--ntasks-per-node=1",
        "--export=ALL",
        "--input=none",
        "--kill-on-bad-exit=0",
        "--wait=0",
    ]
    return f"srun {cores} {shlex.join([*options, '/bin/sh', '-c', worker, name])}"


def _cluster_class(base: Any) -> Any:
    class PoolCluster(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            try:
                super().__init__(*args, **options)
            except BaseException:  # Dask would leave its thread behind
                self._close_credentials()
                if (runner := getattr(self, "_loop_runner", None)) is not None:
                    runner.stop()
                raise

        def scale(self, n: Any = None, *args: Any, **options: Any) -> Any:
            if n == 0:
                # At the end. dask_jobqueue asks for the address of the scheduler: if that could not
                # be started, the reason would be hidden.
                return distributed.SpecCluster.scale(self, 0)
            return super().scale(n, *args, **options)

        def new_job(self, name: str) -> Any:
            # Dask's cluster does not keep it: when a worker is away for 15 s, Dask would cancel its
            # job and submit another one of its name. The job pool asks the batch system first.
            address = self.scheduler.contact_address or self.scheduler.address
            return self.new_spec["cls"](address, name=name, **self.new_spec["options"])

        async def _close(self) -> None:
            await super()._close()
            self._close_credentials()

        def _close_credentials(self) -> None:
            for name in ("ca_file", "cert", "key"):  # files that Dask leaves open
                if (file := getattr(self, f"_job_{name}", None)) is not None:
                    file.close()

    PoolCluster.__name__ = base.__name__  # Dask makes the workers' names from it
    return PoolCluster
