"""Where a call was when it raised or was ended: the innermost line of its user's own code.

A library is what lies in site-packages or dist-packages, the standard library, what is frozen into
the interpreter, and this package. Where no line is the user's, it is the innermost one.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from traceback import walk_tb
from typing import Any, Final

from dask_limits.exceptions import RemoteTraceback
from dask_limits.limits.tracebacks import is_ours, users_traceback

_FRAME: Final = re.compile(r'^  File "(.*)", line (\d+),? in (.*)', re.MULTILINE)
_PLACE: Final = re.compile(r"(.*)(:\d+ in .*)", re.DOTALL)
_OTHER_THREAD: Final = re.compile(r"^$|^Thread ", re.MULTILINE)
_LIBRARY: Final = re.compile(
    r".*/(site|dist)-packages/|.*/lib(64)?/python3[.\d]*t?(\.zip)?/|<frozen |<__array_function__ "
)
"""Files of libraries, on other machines too."""
_STANDARD: Final = os.path.join(os.path.dirname(os.__file__), "")

Frame = tuple[str, int | str, str]
"""The file, the line, and the function."""


def where_ended(stacks: str) -> str:
    """Where it was by the stacks of its threads, as faulthandler writes them: innermost first."""
    of_function = stacks[max(stacks.find("Current thread"), 0) :]
    return _where(_frames(_OTHER_THREAD.split(of_function, maxsplit=1)[0]) or _frames(stacks))


def where_raised(error: BaseException) -> str:
    """Where it was by its traceback: by the text that came with it, if some did."""
    if isinstance(cause := error.__cause__, RemoteTraceback):
        _, _, last = cause.text.rpartition("Traceback (most recent call last):")
        return _where(reversed(_frames(last)))
    frames = list(_raised_in(error))
    return _where(reversed(frames))


def with_cell(where: str) -> str:
    """The same; a cell of this notebook by the number that is beside it, "Cell In[3]:2 in fit".

    Its functions have files that are nowhere, such as "/tmp/ipykernel_4242/1823749.py".
    """
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    found = None if shell is None else _PLACE.fullmatch(where)
    if found is None:
        return where
    try:
        cell = shell.compile.format_code_name(found[1])  # ("Cell", "In[3]")
    except Exception:  # a shell may have no such compiler
        cell = None
    return where if cell is None else f"{' '.join(cell)}{found[2]}"


def _raised_in(error: BaseException) -> Iterator[Frame]:
    for frame, line in walk_tb(users_traceback(error.__traceback__)):
        yield frame.f_code.co_filename, line, frame.f_code.co_name


def _frames(text: str) -> list[Frame]:
    return _FRAME.findall(text)


def _where(frames: Iterable[Frame]) -> str:
    """The first of these frames, innermost first, that is the user's; else the first one."""
    innermost = ""
    for file, line, function in frames:
        place = f"{file}:{line} in {function}"
        if not _is_librarys(file):
            return place
        innermost = innermost or place
    return innermost


def _is_librarys(file: str) -> bool:
    return bool(_LIBRARY.match(file)) or file.startswith(_STANDARD) or is_ours(file)
