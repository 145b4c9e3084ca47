"""All the tables together, and whether the installed versions have what is in them."""

from __future__ import annotations

from dask_limits.dask.compat import (
    client,
    dashboard,
    dropped_annotations,
    graphs,
    joblib,
    jobqueue,
    scheduler,
    worker,
)
from dask_limits.dask.compat.undocumented_name import Name

_TABLES = (graphs, dropped_annotations, client, scheduler, dashboard, worker, jobqueue, joblib)


def dask_names() -> tuple[Name, ...]:
    """The undocumented names of Dask, dask-jobqueue and joblib that dask_limits uses.

    A new version of Dask may drop or rename them without notice. Each says whether the installed
    version has it (`is_there`), and what happens without it. `dask-limits check` shows them too.

    Example:
        >>> from dask_limits import dask_names
        >>> [name.path for name in dask_names() if name.is_there is False]
        []
    """
    jobqueue.import_jobqueue()  # first, as the names are looked up by a plain import
    return tuple(name for table in _TABLES for name in table.NAMES.values())
