"""What sees to it that no job outlives the driver, however that ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from typing import IO, Final

from dask_limits.units import format_seconds

_CANCELLER: Final = r"""
trap '' INT TERM HUP
jobs=' '
times='1 2 3'
while read -r word job; do
  case $word in
    submitted) jobs="$jobs$job " ;;
    gone) case $jobs in *" $job "*) jobs="${jobs%%" $job "*} ${jobs#*" $job "}" ;; esac ;;
    bye) times=1 ;;
  esac
done
for job in $jobs; do
  for time in $times; do
    "$@" "$job" && break
    [ "$times" = 1 ] || sleep 2
  done
done
"""
"""Reads which jobs there are until nobody can write any more, and cancels those that are left: one
by one, as a command of the user's may take one id only. If nobody has said goodbye, it tries again
for a while, as the batch system may be busy; else it has failed once already, most likely because
the job is over."""

_SUBMIT: Final = r"""
trap '' PIPE
(
out=$("$@") || exit
job=$(printf '%s' "$out" | tr '\n' ' ' | sed -n "$DASK_LIMITS_JOB_ID")
[ -n "$job" ] && printf 'submitted %s\n' "$job" > "/proc/self/fd/$DASK_LIMITS_CANCELLER" 2>/dev/null
printf '%s\n' "$out"
) & wait $!
"""
"""Tells the canceller which job it was that was submitted. A shell does, and not the driver: that
may be killed when the batch system has the job and its answer has not been read. As long as this
shell lives, the canceller's pipe has a writer, so it waits. (It opens the pipe by its name as dash
knows no descriptors above 9.) If somebody has killed the canceller, the id still gets printed.
What does it is a child of the shell that we wait for: that one can be killed when it takes too
long, and the job will still be told of."""

_JOB_ID: Final = {
    # Where the ids stand, as dask_jobqueue reads them (its `job_id_regexp`).
    "oar": r"s/.*OAR_JOB_ID=\([0-9][0-9]*\).*/\1/p",
    "htcondor": r"s/.*submitted to cluster \([0-9][0-9]*\).*/\1.0/p",
}
_FIRST_NUMBER: Final = r"s/[^0-9]*\([0-9][0-9]*\).*/\1/p"
_SUBMIT_S: Final = 60.0
"""How long a job's submission may take: a batch system that is restarted is back by then."""
_CANCEL_S: Final = 20.0
"""How long a job's cancellation may take. After that it is left to the canceller."""
_AT_ONCE: Final = 8
"""How many commands of the batch system run at one time. More do not make it faster, and its
administrators unhappy."""
_END_S: Final = 20.0
"""How long the end of a run waits for the canceller, if jobs are left to it. It then goes on."""

_writers: Final[set[int]] = set()
"""The ends of pipes that tell a shell of the end of this process, as long as it alone has them."""


def _close_writers() -> None:
    while _writers:
        os.close(_writers.pop())


os.register_at_fork(after_in_child=_close_writers)


class Canceller:
    """Submits jobs, and cancels them; those that are left when this process ends, too.

    A shell in a session of its own holds the ids, which are written into a pipe. Its end of file
    is the end of this process, by kill -9 too.

    Args:
        system: Which batch system, as `dask_jobqueue` calls it.
        command: What cancels a job: its words, before the id of the job.

    Raises:
        OSError: if that is not there, or no shell can be started.
    """

    def __init__(self, system: str, command: Sequence[str]) -> None:
        if shutil.which(command[0]) is None:
            raise FileNotFoundError(
                f"{command[0]}, which cancels jobs, cannot be found. Run this where jobs are"
                " submitted, such as a login node, with the batch system's commands on the PATH"
            )
        self._command = list(command)
        self._job_id = _JOB_ID.get(system, _FIRST_NUMBER)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._submitting: set[asyncio.subprocess.Process] | None = set()
        reader, self._writer = os.pipe()
        _writers.add(self._writer)
        try:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _CANCELLER, "dask-limits-canceller", *command],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                start_new_session=True,
            )
        except BaseException:
            self._close_writer()
            raise
        finally:
            os.close(reader)

    async def submit(self, command: Sequence[str]) -> str:
        """Run a command that submits a job.

        Args:
            command: Its words.

        Returns:
            What it has printed.

        Raises:
            OSError: if it cannot be started.
            RuntimeError: if it fails, with what it has said; if it takes too long, or the run ends
                meanwhile, and then the job is cancelled in the end, should there be one.
        """
        environment = {
            "DASK_LIMITS_JOB_ID": self._job_id,
            "DASK_LIMITS_CANCELLER": str(self._writer),
        }
        # Files and no pipes, whose end would come with that of a child that is left alone.
        async with self._slots:
            with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
                if self._submitting is None:
                    raise RuntimeError("the run has ended")
                process = await asyncio.create_subprocess_exec(
                    *["/bin/sh", "-c", _SUBMIT, "dask-limits-submit", *command],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=os.environ | environment,
                    pass_fds=[self._writer],
                    start_new_session=True,  # Ctrl-C is none of its business
                )
                is_late = await self._wait_for(process)
                printed, complaints = _read(out), _read(err)
        if process.returncode != 0:
            how = f"failed with exit code {process.returncode}"
            if is_late:
                how = f"has not come to its end within {format_seconds(_SUBMIT_S)}"
            said = (complaints + printed).strip() or "it has said nothing"
            raise RuntimeError(f"{shlex.join(command)} {how}: {said}")
        return printed

    async def _wait_for(self, process: asyncio.subprocess.Process) -> bool:
        """Wait for the end of what submits a job; whether that was cut short."""
        if self._submitting is None:
            _kill(process)
        else:
            self._submitting.add(process)
        try:
            async with asyncio.timeout(_SUBMIT_S):
                await process.wait()
        except TimeoutError:
            _kill(process)
            await process.wait()
            return True
        finally:
            if self._submitting is not None:
                self._submitting.discard(process)
        return False

    def submit_no_more(self) -> None:
        """Wait for nothing that submits a job, and begin no more of it."""
        for process in self._submitting or ():
            _kill(process)
        self._submitting = None

    async def cancel(self, job: str) -> None:
        """Cancel a job. If that fails, it is tried again in the end."""
        async with self._slots:
            with contextlib.suppress(OSError, TimeoutError):
                process = await asyncio.create_subprocess_exec(
                    *[*self._command, job],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
                try:
                    async with asyncio.timeout(_CANCEL_S):  # wait_for may swallow a cancellation
                        await process.wait()
                finally:
                    if process.returncode is None:
                        _kill(process)
                        await process.wait()
                if process.returncode == 0:
                    self.gone(job)

    def gone(self, job: str) -> None:
        """Say that a job has ended, and that nothing is to be done about it any more."""
        self._write(f"gone {job}")

    def close(self) -> None:
        """Cancel all jobs that are left, and wait for that."""
        self._write("bye")
        self._close_writer()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._shell.wait(_END_S)

    def _close_writer(self) -> None:
        if self._writer in _writers:  # else this is a child that was forked
            _writers.remove(self._writer)
            os.close(self._writer)

    def _write(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # somebody has killed it
            os.write(self._writer, f"{line}\n".encode())


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        process.kill()


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
