"""Submits, cancels and finds the jobs of this user on SLURM."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Final

_ANSWER_S: Final = 30.0
"""How long a command may take. A controller that restarts answers within that time."""
_OF_USERS: Final = {"SLURM_CLUSTERS", "SLURM_CONF", "SLURM_JWT", "SLURM_TIME_FORMAT"}
"""The variables of SLURM's that users set, and not a job."""


class SlurmError(RuntimeError):
    """A command of SLURM that failed. The message has the command and what it printed."""


def submit(script: str, options: Sequence[str]) -> str:
    """Submit a job with the environment of this process; return its id.

    What a job has set in it, if this is one, is left out: the sizes of this job are not those of
    the new one.

    Raises:
        SlurmError: if SLURM refuses it, or does not answer.
    """
    printed = _run(["sbatch", "--parsable", "--export=ALL", *options], script)
    return printed.strip().partition(";")[0]  # "17;cluster"


def cancel(job: str) -> None:
    """Cancel a job; one that is over is left alone.

    Raises:
        SlurmError: if SLURM does not answer.
    """
    _run(["scancel", job])


def unfinished(name: str) -> list[str]:
    """The ids of this user's jobs of this name that have not ended.

    Raises:
        SlurmError: if SLURM does not answer.
    """
    return _run(["squeue", "--me", "--noheader", f"--name={name}", "--format=%A"]).split()


def _run(command: Sequence[str], given: str = "") -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in _OF_USERS or not name.startswith(("SLURM", "SQUEUE_", "SCANCEL_"))
    }
    try:
        done = subprocess.run(
            command,
            input=os.fsencode(given),
            capture_output=True,
            timeout=_ANSWER_S,
            env=environment,
            start_new_session=True,  # so that Ctrl-C does not reach it
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not end within {_ANSWER_S:g} s") from None
    except OSError as error:
        raise SlurmError(f"Cannot run {command[0]}: {error.strerror}") from None
    if done.returncode != 0:
        said = (done.stderr + done.stdout).decode(errors="replace").strip() or "it printed nothing"
        raise SlurmError(f"{command[0]} failed with exit code {done.returncode}: {said}")
    return done.stdout.decode(errors="replace")
