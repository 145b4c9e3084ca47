"""Runs a program where every user can run this interpreter, wherever it is installed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

_NEEDED = (sys.base_prefix, sys.prefix, str(Path(__file__).parents[2]))
_OTHERS_MAY_ENTER = 0o001


def python(*arguments: str | Path, where: Path) -> list[str]:
    """The command that runs this interpreter, for root; `where` is an empty folder.

    What bars the way, such as a home, is hidden behind an empty folder that all can enter, with
    what is needed in its place. Only this program and those below it see that.
    """
    steps = ["set -e", f"chmod 755 {shlex.quote(str(where))}"]
    needed = defaultdict(list)
    for path in map(Path, _NEEDED):
        if (barred := _barred(path)) is not None:
            needed[barred].append(path)
    for number, (barred, paths) in enumerate(needed.items()):
        kept = where / str(number)
        steps.append(f"mkdir {kept} && mount --rbind {barred} {kept}")
        steps.append(f"mount -t tmpfs -o mode=755 none {barred}")
        for path in paths:
            there = kept / path.relative_to(barred)
            steps.append(f"mkdir -p {path} && mount --rbind {there} {path}")
        steps.append(f"umount -l {kept}")
    steps.append(shlex.join(["exec", sys.executable, *map(str, arguments)]))
    return ["unshare", "--mount", "sh", "-c", "\n".join(steps)]


def _barred(path: Path) -> Path | None:
    """The first folder on the way to it that others may not enter."""
    for folder in reversed([path, *path.parents]):
        if not folder.stat().st_mode & _OTHERS_MAY_ENTER:
            return folder
    return None


def is_possible() -> bool:
    """Whether this process may do so."""
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True).returncode == 0
