"""A machine of a given size for the account of a test, beside that of the other tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dask_limits.limits.owner import shared_account
from dask_limits.limits.owner.account import Account, account_here
from dask_limits.limits.owner.capacity import Capacity

GIB = 2**30
MACHINE = Capacity(8 * GIB, 4, "this machine", 1)
_OF_A_PROGRAM = """
import sys
from pathlib import Path
from dask_limits.limits.owner import account, capacity, shared_account
shared_account.FOLDER = {folder!r}
account.account_here()._capacity = capacity.Capacity({size}, "this machine", 1)
"""


@contextmanager
def of_size(folder: Path, capacity: Capacity = MACHINE) -> Iterator[Account]:
    """Have this process, and programs by `script`, reserve of such a machine."""
    account = account_here()
    account.close()
    account.forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_account, "FOLDER", str(folder))
        account._capacity = capacity
        yield account
        account.close()
        account.forget()


def script(folder: Path, text: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a program on that machine. Its first line of output says when it is ready."""
    size = f"{MACHINE.memory}, {MACHINE.cores}"
    text = _OF_A_PROGRAM.format(folder=str(folder), size=size) + text
    command = [sys.executable, "-c", text, *map(str, arguments)]
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    )
