"""Shuffles that can be limited.

In Dask's P2P shuffle tasks talk to the worker that they run on, which is impossible in a task
process. The older method uses ordinary tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

import dask

from dask_limits.dask.compat.shared_patch import SharedPatch

_METHODS: Final = ("dataframe.shuffle.method", "array.rechunk.method")


def shuffle_by_tasks() -> AbstractContextManager[None]:
    """Have Dask shuffle by tasks in this block, unless the user has configured how it does."""
    return _by_tasks.block()


def _configure() -> Callable[[], object]:
    unset = [name for name in _METHODS if not dask.config.get(name, None)]
    config = dask.config.set(dict.fromkeys(unset, "tasks"))
    return lambda: config.__exit__(None, None, None)


_by_tasks: Final = SharedPatch(_configure)
