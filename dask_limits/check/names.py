"""Whether the installed versions of Dask have the undocumented names that dask_limits uses."""

from __future__ import annotations

import importlib.metadata

from dask_limits import dask_names
from dask_limits.check.trials import Finding


def find_names() -> list[Finding]:
    """One finding for all names; after it, one for each name that is missing."""
    names = [name for name in dask_names() if name.is_there is not None]
    missing = [name for name in names if not name.is_there]
    versions = [
        f"{package} {importlib.metadata.version(package)}"
        for package in dict.fromkeys(name.package for name in names)
    ]
    all_of_them = Finding(
        "names of Dask",
        "all undocumented names that are used are there",
        f"{len(names) - len(missing)} of {len(names)} ({', '.join(versions)})",
        holds=not missing,
    )
    return [
        all_of_them,
        *(
            Finding(name.path, f"is there, {name.what_for}", f"missing: {name.without}", False)
            for name in missing
        ),
    ]
