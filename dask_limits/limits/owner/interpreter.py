"""The interpreter that runs this process, with the options that it was started with."""

from __future__ import annotations

import subprocess
import sys


def command() -> list[str]:
    """The command that starts it again; a program or a module is to follow.

    Raises:
        OSError: if this process does not know where its interpreter is.
    """
    if not sys.executable:
        raise OSError(
            f"sys.executable is {sys.executable!r}; set it to the path of a Python interpreter that"
            " has the same packages"
        )
    # What multiprocessing uses for the processes that it spawns.
    options: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    for name, value in sys._xoptions.items():
        option = name if value is True else f"{name}={value}"
        if option not in options:  # it leaves some out
            options += "-X", option
    return [sys.executable, *options]
