"""Calls of one function that do what is foreseen for their number. Task processes import this."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
from processes import until


def numbered(folder: Path, number: int, does: str = "") -> int:
    """Note that it runs, and return its number, unless it does something else."""
    with (folder / f"{number}").open("a") as runs:
        runs.write(f"{os.getpid()}\n")
    match does:
        case "print":
            print(f"this is {number}")
        case "sleep":
            time.sleep(60)
        case "wait":
            until((folder / "go").exists)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "raise":
            raise LookupError(number)
        case "fail at first":
            if n_runs(folder, number) == 1:
                raise LookupError(number)
        case "kill the worker":
            _template, _guardian, _reaper, worker = psutil.Process().parents()[:4]
            worker.kill()
            time.sleep(50)
    return number


def n_runs(folder: Path, number: int) -> int:
    """How often a call has begun."""
    file = folder / f"{number}"
    return len(file.read_text().split()) if file.exists() else 0


def numbered_as(item: tuple[Path, int, str]) -> int:
    """The same, of one argument."""
    return numbered(*item)
