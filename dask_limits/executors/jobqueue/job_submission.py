"""Submits and cancels jobs, and cancels what is left when the driver ends, however it ends.

That is done by the canceller: a shell in a session of its own, to which the ids of jobs are written
through a pipe. The pipe's end of file is the end of the driver, also by `kill -9`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from typing import IO, Any, Final

from dask_limits.exceptions import WorkersNotStartedError
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
"""The canceller. It reads ids until the pipe has no writer, then cancels the jobs that are left,
one by one, as a command of the user's may take one id only. If the driver did not say "bye", it
retries for a while, as the batch system may be busy; otherwise cancelling failed before, most
likely because the job is over."""

_SUBMIT: Final = r"""
trap '' PIPE
(
out=$("$@") || exit
job=$(printf '%s' "$out" | tr '\n' ' ' | sed -n "$DASK_LIMITS_JOB_ID")
[ -n "$job" ] && printf 'submitted %s\n' "$job" > "/proc/self/fd/$DASK_LIMITS_CANCELLER" 2>/dev/null
printf '%s\n' "$out"
) & wait $!
"""
"""Submits a job, and tells the canceller its id. A shell does this, and not the driver: the driver
may be killed when the batch system has the job and nobody has read its answer. While this shell
lives, the canceller's pipe has a writer, so the canceller waits. (The shell opens the pipe by its
name, as dash knows no descriptors above 9.) If the canceller was killed, the id is still printed.
The work is done in a child of the shell: the shell can be killed if it takes too long, and the
canceller still learns of the job."""

_JOB_ID: Final = {
    # Where the id is in the output, as in dask_jobqueue's `job_id_regexp`.
    "oar": r"s/.*OAR_JOB_ID=\([0-9][0-9]*\).*/\1/p",
    "htcondor": r"s/.*submitted to cluster \([0-9][0-9]*\).*/\1.0/p",
}
_FIRST_NUMBER: Final = r"s/[^0-9]*\([0-9][0-9]*\).*/\1/p"
_SUBMIT_S: Final = 60.0
"""How long the submission of a job may take: time enough to restart a batch system."""
_CANCEL_S: Final = 20.0
"""How long the cancellation of a job may take. After that it is left to the canceller."""
_AT_ONCE: Final = 8
"""How many commands of the batch system run at one time. More are not faster, and its
administrators would notice."""
_END_S: Final = 20.0
"""How long the end of a run waits for the canceller if jobs are left to it."""

_writers: Final[set[int]] = set()
"""The pipes to cancellers. Only this process may hold them: forked children close them."""


def _close_writers() -> None:
    while _writers:
        os.close(_writers.pop())


os.register_at_fork(after_in_child=_close_writers)


def check_commands(system: str, *commands: str) -> None:
    """Raise `WorkersNotStartedError` if one of these commands of a batch system does not exist."""
    programs = dict.fromkeys(shlex.split(command)[0] for command in commands)
    if missing := [program for program in programs if shutil.which(program) is None]:
        name = {"moab": "Moab", "htcondor": "HTCondor"}.get(system, system.upper())
        raise WorkersNotStartedError(
            f"Cannot find {' and '.join(missing)}, to submit and cancel {name} jobs. Run this on a"
            " machine from which jobs are submitted, such as a login node, with these commands on"
            " the PATH; or specify `submit_command` and `cancel_command`."
        )


class JobSubmitter:
    """Submits and cancels jobs; the jobs that are left when this process ends are cancelled too.

    Args:
        system: The batch system, as `dask_jobqueue` calls it.
        cancel_command: The command that cancels a job, to which the id is appended.

    Raises:
        OSError: if no shell can be started.
    """

    def __init__(self, system: str, cancel_command: str) -> None:
        self._cancel_command = shlex.split(cancel_command)
        self._job_id = _JOB_ID.get(system, _FIRST_NUMBER)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._submitting: set[asyncio.subprocess.Process] = set()
        self._over = asyncio.Event()
        reader, self._writer = os.pipe()
        _writers.add(self._writer)
        try:
            self._shell = subprocess.Popen(
                ["/bin/sh", "-c", _CANCELLER, "dask-limits-canceller", *self._cancel_command],
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
        """Run a command that submits a job; return what it prints.

        Raises:
            OSError: if the command cannot be started.
            RuntimeError: if the command fails or takes too long, or if the run ends meanwhile. If
                there is a job nevertheless, it is cancelled at the end.
        """
        environment = {
            "DASK_LIMITS_JOB_ID": self._job_id,
            "DASK_LIMITS_CANCELLER": str(self._writer),
        }
        # Not pipes: they would stay open as long as a child that is left alone.
        async with self._slots:
            with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
                if self._over.is_set():
                    raise RuntimeError("the run has ended")
                process = await _start(
                    ["/bin/sh", "-c", _SUBMIT, "dask-limits-submit", *command],
                    stdout=out,
                    stderr=err,
                    env=os.environ | environment,
                    pass_fds=[self._writer],
                )
                self._submitting.add(process)
                if self._over.is_set():  # meanwhile
                    _kill(process)
                is_late = not await _ends_within(process, _SUBMIT_S)
                self._submitting.discard(process)
                printed, complaints = _read(out), _read(err)
        if process.returncode != 0:
            how = f"failed with exit code {process.returncode}"
            if is_late:
                how = f"did not end within {format_seconds(_SUBMIT_S)}"
            said = (complaints + printed).strip() or "it printed nothing"
            raise RuntimeError(f"{shlex.join(command)} {how}: {said}")
        return printed

    def submit_no_more(self) -> None:
        """Stop waiting for submissions, and start no more."""
        self._over.set()
        for process in self._submitting:
            _kill(process)

    async def cancel(self, job: str) -> None:
        """Cancel a job. If this fails, the canceller tries again at the end."""
        async with self._slots:
            with contextlib.suppress(OSError):
                process = await _start(
                    [*self._cancel_command, job],
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                if await _ends_within(process, _CANCEL_S) and process.returncode == 0:
                    self.gone(job)

    def gone(self, job: str) -> None:
        """Note that a job has ended, and need not be cancelled."""
        self._write(f"gone {job}")

    def close(self) -> None:
        """Cancel all jobs that are left, and wait until the canceller is done."""
        self._write("bye")
        self._close_writer()
        try:
            self._shell.wait(_END_S)
        except subprocess.TimeoutExpired:  # it goes on, and must not stay a zombie when it ends
            threading.Thread(target=self._shell.wait, daemon=True).start()

    def _close_writer(self) -> None:
        if self._writer in _writers:  # not in a forked child
            _writers.remove(self._writer)
            os.close(self._writer)

    def _write(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # the canceller was killed
            os.write(self._writer, f"{line}\n".encode())


async def _start(command: Sequence[str], **options: Any) -> asyncio.subprocess.Process:
    """Start a command in a session of its own, so that Ctrl-C does not reach it."""
    return await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, start_new_session=True, **options
    )


async def _ends_within(process: asyncio.subprocess.Process, seconds: float) -> bool:
    """Wait for the end of a process, and kill it if it takes longer."""
    try:
        async with asyncio.timeout(seconds):  # wait_for may swallow a cancellation
            await process.wait()
    except TimeoutError:
        return False
    finally:
        if process.returncode is None:
            _kill(process)
            await process.wait()
    return True


def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a process, and leave it to asyncio to wait for it.

    `Process.kill` may wait for it too, if it has just ended; then asyncio logs that it is unknown.
    """
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):  # asyncio has just waited for it
            os.kill(process.pid, signal.SIGKILL)


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
