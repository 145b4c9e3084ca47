"""Programs on a file system that is full soon."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from required import need, need_root

_SCRIPT = 'mount -t tmpfs -o size=1m none "$1" && exec "$2" "$3" "$1"'


def lines_on_small_disk(code: str, tmp_path: Path) -> list[str]:
    """What a program prints, whose argument is a folder on a file system of 1 MiB."""
    folder, program = tmp_path / "disk", tmp_path / "program.py"
    folder.mkdir()
    program.write_text(code)
    need_root()
    probe = subprocess.run(["unshare", "--mount", "true"], check=False)
    need(probe.returncode == 0, "the right to mount")
    command = ["unshare", "--mount", "sh", "-c", _SCRIPT, "sh", folder, sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
