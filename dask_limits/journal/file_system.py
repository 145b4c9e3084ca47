"""Which file system a file is on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_SHARED: Final = frozenset(
    (
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "lustre", "gpfs", "beegfs", "ceph", "glusterfs"),
        *("afs", "9p", "virtiofs", "orangefs", "pvfs2", "panfs", "wekafs", "acfs", "ocfs2", "gfs2"),
        "daos",
    )
)
"""File systems of several machines, as /proc/self/mountinfo names them."""


def is_shared(path: Path) -> bool:
    """Whether a file is on a file system that several machines can have mounted."""
    kind = kind_of(path)
    return kind in _SHARED or kind.startswith("fuse.")


def kind_of(path: Path) -> str:
    """The name of the file system that a file is on, "ext4"; empty if it is not known.

    Source: proc_pid_mountinfo(5).
    """
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if fields.split()[2] == wanted:
            return rest.split()[0]
    return ""
