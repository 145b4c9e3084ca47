"""A real SLURM of two nodes on this machine, for tests; `ci/slurm/start` says more of it."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import until

PROGRAMS = Path(__file__).parents[2] / "ci" / "slurm"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL"}

_OUT_OF_SERVICE = ("down", "drain")


class Slurm:
    """One that has been started in this folder."""

    nodes = ("n1", "n2")

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"

    def run(self, *command: str) -> str:
        """What squeue, scontrol, sinfo and the like print."""
        return subprocess.run(
            command,
            env=os.environ | {"SLURM_CONF": str(self.configuration)},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout.strip()

    def submit(self, command: str, *options: str, log: Path | str = "/dev/null") -> str:
        """Have a shell command run as a job; its id."""
        return self.run("sbatch", "--parsable", f"--output={log}", *options, f"--wrap={command}")

    def jobs(self) -> dict[str, str]:
        """The jobs that have not ended yet, and their states."""
        lines = self.run("squeue", "--noheader", "--format=%A %T").splitlines()
        return dict(line.split() for line in lines)

    def job(self, job: str) -> dict[str, str]:
        """What there is to know of a job, ended ones included: JobState, Reason, ExitCode, ..."""
        words = self.run("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job: str) -> str:
        return self.job(job)["JobState"]

    def state_of_all(self) -> str:
        """What there is to know of jobs and nodes, and the ends of the logs, if a test fails."""
        commands = ["squeue -t all -o '%i %j %T %r %S'", "sinfo -N -o '%N %T %E'"]
        commands += [f"tail -n 40 {log}" for log in sorted((self.folder / "log").iterdir())]
        script = "; ".join(f"echo; echo {shlex.quote(c)}; timeout 20 {c} 2>&1" for c in commands)
        return self.run("sh", "-c", f"{script}; true")

    def wait_for(self, job: str, *states: str, timeout_s: float = 20) -> str:
        """Wait for a job to be in one of these states, or to have ended."""
        until(lambda: self.state(job) in (states or ENDED), timeout_s)
        return self.state(job)

    def wait_until_empty(self, timeout_s: float = 20) -> None:
        """Wait until no job is left, and both nodes are idle."""
        until(lambda: not self.jobs(), timeout_s)
        until(lambda: all(self.node_state(node) == "idle" for node in self.nodes), timeout_s)

    def node_state(self, node: str) -> str:
        return self.run("sinfo", "--noheader", f"--nodes={node}", "--format=%T")

    def node_down(self, node: str) -> None:
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=a test")

    def node_up(self, node: str) -> None:
        """Let a node take jobs, that was set down, or that SLURM itself has put out of service.

        It does that to one that still runs jobs of which a controller that was killed knew nothing.
        """
        if self.node_state(node).startswith(_OUT_OF_SERVICE):
            self.run("scontrol", "update", f"nodename={node}", "state=resume")
        until(lambda: not self.node_state(node).startswith(_OUT_OF_SERVICE))

    def clear(self) -> None:
        """Cancel all jobs, and have all nodes up."""
        if jobs := self.jobs():
            self.run("scancel", *jobs)
        for node in self.nodes:
            self.node_up(node)
        self.wait_until_empty()


def start(folder: Path, *options: str) -> Slurm:
    """Start one there, or say why that cannot be."""
    subprocess.run(
        [PROGRAMS / "start", *options, folder],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    return Slurm(folder)


def stop(folder: Path) -> None:
    subprocess.run([PROGRAMS / "stop", folder], check=True, stdin=subprocess.DEVNULL)


@contextmanager
def running(folder: Path) -> Iterator[Slurm]:
    """One that is there for a while; it ends with this process, too, however that does."""
    try:
        yield start(folder, "--with", str(os.getpid()))
    finally:
        stop(folder)
