from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dask_limits.dask.batch import call_name
from dask_limits.dask.compat.graphs import arguments_of
from dask_limits.dask.compat.joblib import is_batch
from dask_limits.dask.nodes import JoblibBatch, Node


def call_of(
    node: Any, data: dict[Any, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
    """What to run in a task process for a node that depends on these values, by key.

    If possible, this is the user's own function with the values themselves: then the task process
    does not import Dask (0.1 s and 5 MiB in each new one), and errors and stacks show only what is
    the user's.
    """
    if (arguments := arguments_of(node, data)) is None:
        return Node(node, call_name(node.key)), (data,), {}
    args, kwargs = arguments
    if is_batch(node.func):
        return JoblibBatch(node.func, call_name(node.key)), args, kwargs
    return node.func, args, kwargs
