"""Where calls run. One file a backend, one contract for all: `submit` gives a `Future` of ours."""

from dask_limits.executors.factories import ExecutorRecipe, as_executor, recipe_of
from dask_limits.executors.future import Call, Future
from dask_limits.executors.sequential import SequentialExecutor
from dask_limits.executors.wrapped import WrappedExecutor

__all__ = [
    "Call",
    "ExecutorRecipe",
    "Future",
    "SequentialExecutor",
    "WrappedExecutor",
    "as_executor",
    "recipe_of",
]
