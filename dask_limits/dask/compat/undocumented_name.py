from __future__ import annotations

import dis
import importlib
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any, Final

TESTED: Final = {
    "dask": ("2025.5.0", "2026.8.0"),
    "distributed": ("2025.5.0", "2026.8.0"),
    "dask-jobqueue": ("0.9.0", "0.9.0"),
    "joblib": ("1.4.0", "1.6.0"),
}
"""The oldest and the newest version of each package that the tests pass with."""


@dataclass(frozen=True)
class Name:
    """An undocumented name that dask_limits uses.

    Attributes:
        package: The package that has it, as pip calls it.
        path: Its module, and what it is called there: "distributed.client:Client.scheduler_comm".
        what_for: What dask_limits uses it for.
        since: The first version that has it; "2021.1" stands for this or an earlier one.
        without: What happens if the installed version does not have it.
    """

    package: str
    path: str
    what_for: str
    since: str
    without: str

    @property
    def is_there(self) -> bool | None:
        """Whether the installed version has it; None if the package is not installed."""
        return _find(self.path)[0]

    def find(self) -> Any:
        """The object of this name; None if there is none, or only instances of a class have it."""
        return _find(self.path)[1]

    def get(self) -> Any:
        """The same as `find`, for a name that has to be there.

        Raises:
            ImportError: if it is not. The message names the versions that work.
        """
        is_there, found = _find(self.path)
        if not is_there:
            oldest, newest = TESTED[self.package]
            raise ImportError(
                f"{self.package} {_version_of(self.package)} does not have {self.path}, which"
                f" dask_limits uses {self.what_for}. Install a version that works:"
                f" {self.package} {oldest} to {newest}."
            )
        return found


def names(*paths_since: str, what_for: str, without: str) -> dict[str, Name]:
    """The names that are used for one thing, by path. Each argument has a path and its `since`."""
    return {
        path: Name(path.partition(".")[0].replace("_", "-"), path, what_for, since, without)
        for path, since in map(str.split, paths_since)
    }


def _version_of(package: str) -> str:
    import importlib.metadata  # 10 ms, which task processes need not spend

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


@cache
def _find(path: str) -> tuple[bool | None, Any]:
    """What `Name.is_there` and `Name.find` return."""
    module, _, qualified = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        missing = str(error.name) if isinstance(error, ModuleNotFoundError) else ""
        is_submodule = "." in missing and module.startswith(missing)
        return False if is_submodule else None, None  # else a package is missing, such as pandas
    for part in filter(None, qualified.split(".")):
        if not hasattr(found, part):
            return isinstance(found, type) and _is_set_by(found, part), None
        found = getattr(found, part)
    return True, found


def _is_set_by(cls: type, attribute: str) -> bool:
    """Whether a class declares an attribute of its instances, or one of its methods sets it."""
    return any(
        attribute in vars(base).get("__annotations__", {})
        or any(
            step.opname == "STORE_ATTR" and step.argval == attribute
            for method in vars(base).values()
            if isinstance(method, FunctionType)
            for step in dis.get_instructions(method)
        )
        for base in cls.__mro__
    )
