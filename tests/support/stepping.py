"""Calls that use more when they are told to. A task process imports this, so it is light."""

from __future__ import annotations

import time
from pathlib import Path


def grow_by_steps(folder: Path) -> None:
    """Take 10 MiB more for each file in a folder, until one is called "end"."""
    blocks: list[bytes] = []
    while not (folder / "end").exists():
        n_files = len([*folder.iterdir()])
        while len(blocks) < n_files:
            blocks.append(b"x" * 10 * 2**20)
        time.sleep(0.01)
