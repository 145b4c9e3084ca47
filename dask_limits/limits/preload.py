from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any


def preload(
    modules: Iterable[str] = (),
    initializer: Callable[..., object] | None = None,
    initargs: Iterable[Any] = (),
) -> None:
    """Have modules imported, and a function called, before the limited calls of this process.

    This is for [limit][dask_limits.limit], for `Scheduler.with_threads()`, and for each process of
    a pool that has this function as its initializer. It starts nothing: the next limited call that
    begins comes after the imports, in a new process. Neither their time nor their memory counts for
    a call.

    Each call of this function replaces what was asked for before: `preload()` asks for nothing.
    See `Scheduler.with_processes` for what happens if a module or the initializer fails.

    Args:
        modules: Names of modules, such as `["sklearn.ensemble"]`. By default, none.
        initializer: A function that each process calls once, before its first call.
        initargs: Its arguments.

    Raises:
        ModuleNotFoundError: if there is no such module.
        TypeError: if an argument has the wrong type, or cannot be pickled.
        ValueError: for a name that no module can have.

    Example:
        >>> import sys
        >>> import dask_limits
        >>> dask_limits.preload(["wave"])
        >>> dask_limits.limit(lambda: "wave" in sys.modules, wall_time=10)()
        True
        >>> dask_limits.preload()
    """
    from dask_limits.limits.owner.guardian import default_guardian
    from dask_limits.limits.owner.preload import Preload

    wanted = Preload.of(modules, initializer, initargs)
    wanted.check_here()
    default_guardian().preload = wanted
