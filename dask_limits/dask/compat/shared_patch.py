from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager


def shared(patch: Callable[[], Iterator[None]]) -> Callable[[], AbstractContextManager[None]]:
    """Make a context manager of a change to something that all threads share.

    Blocks may be nested, and those of several threads may overlap. The first one that is entered
    makes the change, the last one that is left undoes it.

    Args:
        patch: A generator that makes the change, yields once, and undoes it.
    """
    lock = threading.RLock()
    change = contextlib.ExitStack()
    n_blocks = 0

    @functools.wraps(patch)
    @contextlib.contextmanager
    def block() -> Iterator[None]:
        nonlocal n_blocks
        with lock:
            if n_blocks == 0:
                change.enter_context(contextlib.contextmanager(patch)())
            n_blocks += 1
        try:
            yield
        finally:
            with lock:
                n_blocks -= 1
                if n_blocks == 0:
                    change.close()  # never with an exception: the generator needs no `finally`

    return block
