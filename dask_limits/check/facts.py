"""What matters of a machine for limits: system, memory, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

import psutil

from dask_limits.check.confinement import find_confinement
from dask_limits.units import format_bytes

_LIBRARIES: Final = (
    "dask-limits",
    "pynisher",
    "cloudpickle",
    "psutil",
    "dask",
    "distributed",
    "dask-jobqueue",
)


def find_facts() -> dict[str, str]:
    """The facts, by name."""
    return {
        "host": socket.gethostname(),
        "system": f"{platform.system()} {platform.release()}",
        "processors": str(len(os.sched_getaffinity(0))),
        "memory": format_bytes(psutil.virtual_memory().total),
        "cgroup": _cgroup_version(),
        **find_confinement(),
        "slurm": _slurm(),
        "python": platform.python_version(),
    } | {name: version_of(name) for name in _LIBRARIES}


def _cgroup_version() -> str:
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return "v2"
    if (root / "unified").exists():
        return "v1 and v2"
    return "v1" if (root / "memory").exists() else "not found"


def _slurm() -> str:
    if shutil.which("sbatch") is None:
        return "not found"
    answer = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "installed, version unknown"


def version_of(name: str) -> str:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
