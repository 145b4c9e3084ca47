from __future__ import annotations

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
        try:
            return _find(self.path) is not None
        except _NotInstalledError:
            return None

    def find(self) -> Any:
        """The object of this name; None if there is none."""
        try:
            return _find(self.path)
        except _NotInstalledError:
            return None

    def get(self) -> Any:
        """The object of this name.

        Raises:
            ImportError: if there is none. The message names the versions that work.
        """
        found = self.find()
        if found is None:
            oldest, newest = TESTED[self.package]
            raise ImportError(
                f"{self.package} {version_of(self.package)} does not have {self.path}, which"
                f" dask_limits uses {self.what_for}. Install a version that works:"
                f" {self.package} {oldest} to {newest}."
            )
        return found


def version_of(package: str) -> str:
    """The installed version of a package."""
    import importlib.metadata  # 10 ms, which task processes need not spend

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(not installed)"


class _NotInstalledError(Exception):
    """A package is not installed, or one that its module needs is not."""


@cache
def _find(path: str) -> Any:
    """The object at a path; True for an attribute that only instances have; None if missing."""
    module, _, qualified = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and module.startswith(error.name) and "." in error.name:
            return None
        raise _NotInstalledError from error
    except ImportError as error:  # dask.dataframe is there, and pandas is not
        raise _NotInstalledError from error
    for part in filter(None, qualified.split(".")):
        if not hasattr(found, part):
            return True if _is_set_by(found, part) else None
        found = getattr(found, part)
    return True if found is None else found


def _is_set_by(owner: object, attribute: str) -> bool:
    """Whether a class declares an attribute of its instances, or one of its methods sets it."""
    import dis

    if not isinstance(owner, type):
        return False
    for base in owner.__mro__:
        if attribute in vars(base).get("__annotations__", {}):
            return True
        for method in vars(base).values():
            if isinstance(method, FunctionType) and any(
                step.opname == "STORE_ATTR" and step.argval == attribute
                for step in dis.get_instructions(method)
            ):
                return True
    return False
