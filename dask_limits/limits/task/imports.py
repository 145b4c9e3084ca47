"""Tells which modules calls have imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

_FIXED: Final = (
    os.path.dirname(os.__file__) + os.sep,  # the standard library
    str(Path(__file__).parents[2]) + os.sep,  # this package
)
_INSTALLED: Final = f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}"
_MOST_BYTES: Final = 100_000
"""Of the list of modules: a message has room for it. scikit-learn has 700 modules, 30,000 bytes."""


def describe(names: list[str]) -> bytes:
    """The modules of these names that can be imported elsewhere: for each its name and its file.

    The file is left out for modules of the standard library and of installed packages, which do not
    change while a program runs. `parse` reads it.
    """
    found = b""
    for name in names:
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if spec is None or spec.name != name or spec.loader is None:
            continue  # made by hand, or the script
        file = spec.origin if spec.has_location and spec.origin else ""
        line = os.fsencode(f"{name}\0{file if _is_users(file) else ''}\n")
        if len(found) + len(line) < _MOST_BYTES:
            found += line
    return found


def parse(description: memoryview) -> dict[str, str]:
    """The files of modules by their names, in the order in which the modules were imported."""
    lines = os.fsdecode(bytes(description)).splitlines()
    return {name: file for name, _, file in (line.partition("\0") for line in lines)}


def _is_users(file: str) -> bool:
    return not file.startswith(_FIXED) and not any(part in file for part in _INSTALLED)
