"""Tracebacks and stacks as users see them: from their own function on.

Before it come frames of ours. A frame is ours if its code is in this package, except for the
programs in it, which use the package as anybody does.
"""

from __future__ import annotations

import os
import re
import threading
import traceback
from collections.abc import Sequence
from itertools import groupby
from types import TracebackType
from typing import Final


def _escaped(path: str) -> str:
    """A path as faulthandler writes it."""
    return path.encode("ascii", "backslashreplace").decode()


_HERE: Final = _escaped(os.path.dirname(__file__))
_PACKAGE: Final = os.path.join(os.path.dirname(_HERE), "")
_PROGRAMS: Final = tuple(os.path.join(_PACKAGE, name, "") for name in ("check", "cli", "search"))
_CALLS_FUNCTIONS: Final = os.path.join(_HERE, "in_place.py")
"""Where every function of a user is called."""
_RUNS_COMMANDS: Final = os.path.join(_PACKAGE, "commands", "run.py")
_FRAME: Final = re.compile(r'  File "(.*)", line \S+ in ')


def users_traceback(tb: TracebackType | None) -> TracebackType | None:
    """A traceback from the user's own function on."""
    files = [_escaped(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(tb)]
    for _ in range(_below_users(files)):
        assert tb is not None
        tb = tb.tb_next
    return tb


def text_of(error: BaseException) -> str:
    """An exception with its traceback as Python prints it, from the user's own function on."""
    tb = users_traceback(error.__traceback__)
    try:
        return "".join(traceback.format_exception(type(error), error, tb))
    except Exception:  # it breaks even the printing of itself
        return "".join(traceback.format_tb(tb)) + say(error)


def say(error: BaseException) -> str:
    """Type and text of an error, whatever its own idea of a text is."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def users_stacks(text: str) -> str:
    """Stacks of threads, as faulthandler writes them, from the user's own function on.

    They are empty if the function is a command, which has no line of Python.
    """
    kept: list[str] = []
    for are_frames, group in groupby(text.splitlines(), lambda line: line.startswith("  ")):
        lines = list(group)
        if are_frames and _is_command(lines):
            return ""
        kept += _users_frames(lines) if are_frames else lines
    return "\n".join(kept).strip()


def _users_frames(lines: list[str]) -> list[str]:
    """Of the frames of one thread, innermost first, those from the user's own function on."""
    files = _files(lines)
    if files and files[0] == _escaped(threading.__file__):
        return lines  # a thread that the user's function has started
    return lines[: len(lines) - _below_users(files)]


def _is_command(lines: list[str]) -> bool:
    """Whether these frames are of a thread that runs a command, without a function around it."""
    files = _files(lines)
    return _RUNS_COMMANDS in files[: _below_users(files)]


def _files(lines: list[str]) -> list[str]:
    """The files of frames, from the outermost on."""
    found = [_FRAME.match(line) for line in lines]
    return [match[1] if match else "" for match in reversed(found)]


def _below_users(files: Sequence[str]) -> int:
    """How many frames, by their files from the outermost on, come before the user's first."""
    ours = [n for n, file in enumerate(files) if is_ours(file)]
    if not ours:
        return 0
    # Where no function runs: it was not called yet, or it has returned.
    end = files.index(_CALLS_FUNCTIONS) if _CALLS_FUNCTIONS in files else ours[-1]
    while end < len(files) and is_ours(files[end]):
        end += 1
    return end


def is_ours(file: str) -> bool:
    """Whether a file is one of this package, and not of a program in it."""
    return file.startswith(_PACKAGE) and not file.startswith(_PROGRAMS)
