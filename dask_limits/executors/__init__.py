"""Where calls run: one file or folder per backend. `submit` of each returns our `Future`."""

from dask_limits.executors.factories import ExecutorFactory, factory_of
from dask_limits.executors.sequential import SequentialExecutor
from dask_limits.future import Call, Future

__all__ = [
    "Call",
    "ExecutorFactory",
    "Future",
    "SequentialExecutor",
    "factory_of",
]
