"""What runs in a task process of a node of a Dask graph.

This imports no Dask: each new task process would have to, 0.1 s for Dask and 0.3 s for distributed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask_limits.dask.compat.joblib import sequential_instead_of_dask


class Node:
    """A node of a Dask graph as a function of what it depends on, with a name.

    Args:
        node: A callable of a mapping from keys to values.
        name: What to call it.
    """

    def __init__(self, node: Callable[[dict[Any, Any]], Any], name: str) -> None:
        self.__name__ = name
        self._node = node

    def __call__(self, data: dict[Any, Any]) -> Any:
        """Run it with the values that it depends on, by key."""
        return self._node(data)


class JoblibBatch:
    """Some calls of `joblib.Parallel`, to be run in a task process.

    They would have joblib look for a Dask client, for what they themselves may run in parallel.
    A task process has none, so that runs in sequence.

    Args:
        batch: What joblib calls.
        name: What to call it.

    Attributes:
        batch: The same, for where there is a client.
    """

    def __init__(self, batch: Callable[..., Any], name: str) -> None:
        self.__name__ = name
        self.batch = batch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the calls."""
        with sequential_instead_of_dask():
            return self.batch(*args, **kwargs)
