"""Tells which modules calls have imported."""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Iterable, Iterator
from importlib.machinery import ModuleSpec
from typing import Any, Final
from zipimport import zipimporter

_FIXED: Final = (
    os.path.dirname(os.__file__) + os.sep,  # the standard library
    __file__.removesuffix(os.path.join("limits", "task", "imports.py")),  # this package
)
_INSTALLED: Final = f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}"
_MOST_BYTES: Final = 100_000
"""Of a list of modules in one message. scikit-learn has 700 modules, 30,000 bytes."""


def describe(names: Iterable[str], not_ahead: Container[str]) -> bytes:
    """The modules of these names that can be imported elsewhere, as `parse` reads them.

    Of what is not to be imported ahead, modules of the user's and packages at the top are enough:
    others do not change while a program runs, but all of a package may be found elsewhere.
    """
    lines = []
    for name in names:
        spec = _usable_spec_of(name)
        if spec is None:
            continue
        file = users_file(spec)
        if not name or not {"\n", "\0"}.isdisjoint(name + file):
            continue  # a line cannot hold it
        if file:
            lines.append(f"{name}\0{file}\n")
        elif name not in not_ahead:
            lines.append(f"{name}\n")
        elif "." not in name:
            lines.append(f"{name}\0\n")
    return os.fsencode("".join(lines))


def in_parts(description: bytes) -> Iterator[bytes]:
    """A description in parts that messages have room for."""
    while description:
        end = len(description)
        if end > _MOST_BYTES:
            end = description.rindex(b"\n", 0, _MOST_BYTES) + 1
        yield description[:end]
        description = description[end:]


def spec_of(name: str) -> object:
    """The spec of a module, even if it loads itself when an attribute is asked for."""
    return namespace_of(sys.modules.get(name)).get("__spec__")


def namespace_of(module: object) -> dict[str, Any]:
    """The globals of a module, even if it loads itself when an attribute is asked for."""
    try:
        return object.__getattribute__(module, "__dict__")  # type: ignore[no-any-return]
    except AttributeError:
        return {}


def folder_of(name: str) -> str:
    """The folder that a module or package at the top is in; empty if there is no telling."""
    spec = _usable_spec_of(name)
    if spec is None or not isinstance(spec.origin, str):
        return ""
    folder = os.path.dirname(spec.origin)
    return folder if spec.submodule_search_locations is None else os.path.dirname(folder)


def _usable_spec_of(name: str) -> ModuleSpec | None:
    """The same; None for a module that was made by hand, or is the script."""
    spec = spec_of(name)
    if not isinstance(spec, ModuleSpec) or spec.name != name or spec.loader is None:
        return None
    return spec


def look_into_archives_again() -> None:
    """Forget what archives held when this process, or the one that forked it, has looked into them.

    For folders, Python sees by itself that they have changed.
    """
    for finder in list(sys.path_importer_cache.values()):
        if isinstance(finder, zipimporter):
            finder.invalidate_caches()


def parse(description: memoryview) -> dict[str, str | None]:
    """The modules of a description, in the order in which they were imported.

    Those of the user's have their file, and those that may be imported ahead None.

    Raises:
        ValueError: if it is none of `describe`.
    """
    *lines, rest = os.fsdecode(bytes(description)).split("\n")
    modules: dict[str, str | None] = {}
    for line in lines:
        name, *files = line.split("\0")
        if not name or len(files) > 1:
            raise ValueError("this is no description of modules")
        modules[name] = files[0] if files else None
    if rest:
        raise ValueError("this is the beginning of a description")
    return modules


def users_file(spec: ModuleSpec) -> str:
    """The file of a module of the user's; empty for other modules."""
    file = spec.origin
    return file if spec.has_location and isinstance(file, str) and is_users(file) else ""


def is_users(file: str) -> bool:
    """Whether a module of this file is the user's own."""
    return (
        bool(file) and not file.startswith(_FIXED) and not any(part in file for part in _INSTALLED)
    )


def package_of(module: str) -> str:
    """The name of the package at the top that a module is in."""
    return module.partition(".")[0]
