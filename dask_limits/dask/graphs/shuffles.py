"""Shuffles that can be limited.

Dask's newer way to shuffle (P2P) has the tasks talk with the worker that they run on, which a task
process cannot; its older way is made of tasks like any other.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final

import dask

_METHODS: Final = ("dataframe.shuffle.method", "array.rechunk.method")

_lock = threading.Lock()
_blocks = 0
_config: Any = None


@contextlib.contextmanager
def shuffle_by_tasks() -> Iterator[None]:
    """Have Dask shuffle by tasks in this block, but where the user has configured how."""
    # Dask's configuration is one for all threads: the first block that is entered sets it, the
    # last one that is left puts it back.
    global _blocks, _config
    with _lock:
        if _blocks == 0:
            unset = [name for name in _METHODS if not dask.config.get(name, None)]
            _config = dask.config.set(dict.fromkeys(unset, "tasks"))
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if _blocks == 0:
                _config.__exit__(None, None, None)
