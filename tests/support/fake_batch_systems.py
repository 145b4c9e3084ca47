"""Batch systems that are none: they run each job at once, on this machine, until it is cancelled.

`python fake_batch_systems.py submit SYSTEM FOLDER ...` is what "qsub", "bsub", ... would be, with
the rest of its arguments; `python fake_batch_systems.py cancel SYSTEM FOLDER ID` is "qdel", ...
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

ANSWERS = {
    "pbs": "{id}.server.example",
    "moab": "\n{id}\n",
    "sge": 'Your job {id} ("dask-worker") has been submitted',
    "lsf": "Job <{id}> is submitted to default queue <normal>.",
    "oar": "[ADMISSION RULE] Modify resource description 2\nOAR_JOB_ID={id}",
    "htcondor": "Submitting job(s).\n1 job(s) submitted to cluster {id}.",
}
VARIABLES = {
    "pbs": {"PBS_JOBID": "{id}.server.example"},
    "moab": {"PBS_JOBID": "{id}.server.example"},
    "sge": {"JOB_ID": "{id}", "SGE_TASK_ID": "undefined"},
    "lsf": {"LSB_JOBID": "{id}"},
    "oar": {"OAR_JOB_ID": "{id}"},
    "htcondor": {"_CONDOR_JOB_AD": "{folder}/{id}.ad"},
}


class BatchSystem:
    """One of them, for tests: what it was given, and what it runs."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        program = [sys.executable, "-S", "-E", __file__]
        self.submit_command = shlex.join([*program, "submit", name, str(folder)])
        self.cancel_command = shlex.join([*program, "cancel", name, str(folder)])

    @property
    def commands(self) -> dict[str, str]:
        return {"submit_command": self.submit_command, "cancel_command": self.cancel_command}

    def scripts(self) -> list[str]:
        """What was submitted, in order."""
        paths = sorted(self.folder.glob("*.script"), key=lambda path: int(path.stem))
        return [path.read_text() for path in paths]

    def groups(self) -> set[int]:
        """The process groups of its jobs that were not cancelled, ended ones too."""
        return {int(path.read_text()) for path in self.folder.glob("*.group")}

    def runs(self) -> bool:
        """Whether a process of any of its jobs is left."""
        return any(group_is_alive(group) for group in self.groups())


def group_is_alive(group: int) -> bool:
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def submit(name: str, folder: Path, arguments: list[str]) -> None:
    number = 1 + len(list(folder.glob("*.script")))
    while True:  # others may submit at the same time
        try:
            (folder / f"{number}.script").touch(exist_ok=False)
            break
        except FileExistsError:
            number += 1
    script = shell_script(name, folder, number, arguments)
    fill = {"id": number, "folder": folder}
    (folder / f"{number}.ad").write_text(f"ClusterId = {number}\nProcId = 0\n")
    environment = {key: value.format(**fill) for key, value in VARIABLES[name].items()}
    # What reads its answer is to see the end of it, so that the job must not hold its pipes.
    with log_of(script, number).open("w") as log:
        job = subprocess.Popen(
            ["/bin/sh", "-c", script],
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (part := folder / f"{number}.part").write_text(str(job.pid))
    part.rename(folder / f"{number}.group")
    print(ANSWERS[name].format(**fill))


def shell_script(name: str, folder: Path, number: int, arguments: list[str]) -> str:
    """What a job is to run; what was submitted is kept."""
    kept = folder / f"{number}.script"
    if name == "oar":  # oarsub -n name -l resources 'the script'
        kept.write_text("\n".join(arguments))
        return arguments[-1]
    text = sys.stdin.read() if name == "lsf" else Path(arguments[-1]).read_text()
    kept.write_text(text)
    if name != "htcondor":
        return text
    # Arguments = "-c 'exec ...'", with quotes doubled in it
    quoted = re.search(r'(?m)^Arguments = "(.*)"$', text)
    assert quoted is not None
    return quoted[1].replace('""', '"').removeprefix("-c '").removesuffix("'").replace("''", "'")


def log_of(script: str, number: int) -> Path:
    """Where the job's output goes: #PBS -o folder/, #BSUB -o file-%J.out."""
    found = re.search(r"(?m)^#\S+ -o (\S+)$", script)
    if found is None:
        return Path(os.devnull)
    if found[1].endswith("/"):
        return Path(found[1]) / f"dask-worker.o{number}"
    return Path(found[1].replace("%J", str(number)))


def cancel(folder: Path, job: str) -> None:
    path = folder / f"{job.removesuffix('.0')}.group"
    try:
        group = int(path.read_text())
        os.killpg(group, signal.SIGTERM)
    except (FileNotFoundError, ProcessLookupError):
        sys.exit(f"job {job} is not known")
    give_up = time.monotonic() + 3
    while group_is_alive(group) and time.monotonic() < give_up:
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        while group_is_alive(group):  # tests expect that what was cancelled is gone
            os.killpg(group, signal.SIGKILL)
            time.sleep(0.02)


if __name__ == "__main__":
    _, what, name, where, *rest = sys.argv
    if what == "submit":
        submit(name, Path(where), rest)
    else:
        cancel(Path(where), rest[0])
