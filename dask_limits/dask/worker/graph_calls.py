"""What a node of a Dask graph calls, and with what."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeAlias

from dask_limits.dask.compat.graphs import arguments_of, function_name, is_task, runs_nothing
from dask_limits.dask.compat.joblib import is_batch
from dask_limits.dask.nodes import JoblibBatch, Node
from dask_limits.dask.packed_call import run_packed

Invocation: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def invocation_of(node: Any, data: dict[Any, Any]) -> Invocation:
    """What to run in a task process: a function, and its arguments.

    If possible, this is the user's own function with the values themselves: then the task process
    does not import Dask (0.1 s and 5 MiB in each new one), and errors and stacks show only what is
    the user's.

    Args:
        node: The node to run.
        data: The values that it depends on, by key.
    """
    if not is_task(node) or not all(
        map(runs_nothing, itertools.chain(node.args, node.kwargs.values()))
    ):
        return Node(node, function_name(node.key)), (data,), {}
    args, kwargs = arguments_of(node, data)
    if node.func is run_packed:
        packed, put_in = args
        return packed, (put_in,), {}
    if is_batch(node.func):
        return JoblibBatch(node.func, function_name(node.key)), args, kwargs
    return node.func, args, kwargs
