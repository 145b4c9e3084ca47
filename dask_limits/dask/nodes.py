"""What runs in a task process of a node of a Dask graph.

This imports no Dask: each new task process would have to, 0.1 s for Dask and 0.3 s for distributed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask_limits.dask.compat.joblib import sequential_instead_of_dask


class Node:
    """A node of a Dask graph as a function of the values that it depends on, by key.

    Args:
        function: The node, which is callable.
        name: What to call it.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.__name__ = name
        self.function = function
        self.function_key = type(self).__name__, name  # calls of one function have the same

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        return self.function(*args, **kwargs)


class JoblibBatch(Node):
    """Some calls of `joblib.Parallel`, to be run in a task process.

    They would have joblib look for a Dask client, for what they themselves may run in parallel.
    A task process has none, so that runs in sequence.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the calls."""
        with sequential_instead_of_dask():
            return self.function(*args, **kwargs)
