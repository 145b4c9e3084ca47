"""What the kernel offers here to confine a hostile call further than dask_limits does.

What each would add is in docs/security.md.
"""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

_LANDLOCK_CREATE_RULESET: Final = 444  # the same on all machines
_LANDLOCK_VERSION: Final = 1  # asks for the version, and makes no set of rules
_LANDLOCK_WITH_SIGNALS: Final = 6
_NEW_USER_AND_PID: Final = 0x10000000 | 0x20000000  # CLONE_NEWUSER, CLONE_NEWPID
_MOUNTS: Final = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


def find_confinement() -> dict[str, str]:
    """What there is, by name."""
    return {
        "cgroup v2 of one's own": _cgroup(),
        "landlock": _landlock(),
        "PID namespaces": _pid_namespace(),
        "ptrace": _ptrace(),
    }


def _cgroup() -> str:
    """Whether this process may make groups below its own, and with which controllers."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return "not found"
    own = next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), None)
    if own is None:
        return "not found"
    for mount in _MOUNTS:
        group = mount / own
        if (group / "cgroup.procs").exists():
            if not all(os.access(path, os.W_OK) for path in (group, group / "cgroup.procs")):
                return "not writable"
            controllers = (group / "cgroup.controllers").read_text().split()
            return "writable, " + (f"with {', '.join(controllers)}" if controllers else "bare")
    return "not found"


def _landlock() -> str:
    if platform.system() != "Linux":
        return "not found"
    version = ctypes.CDLL(None).syscall(_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_VERSION)
    if version < 1:
        return "not found"
    can = "confines signals" if version >= _LANDLOCK_WITH_SIGNALS else "does not confine signals"
    return f"version {version}, {can}"


def _pid_namespace() -> str:
    """Whether a process of this user may make one; tried in a child."""
    program = f"import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare({_NEW_USER_AND_PID}) & 1)"
    child = subprocess.run([sys.executable, "-c", program], check=False)
    return "can be made" if child.returncode == 0 else "cannot be made"


def _ptrace() -> str:
    try:
        scope = int(Path("/proc/sys/kernel/yama/ptrace_scope").read_text())
    except OSError:
        scope = 0
    return "of any process of the same user" if scope == 0 else f"restricted (Yama {scope})"
