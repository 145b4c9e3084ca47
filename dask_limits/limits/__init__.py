"""How one call is limited. Knows nothing of Dask, of tasks, of schedulers."""

from dask_limits.limits.call import LimitedCall, run_call
from dask_limits.limits.cancel import CancelToken
from dask_limits.limits.functions import limit
from dask_limits.limits.in_place import name_of, run_in_place
from dask_limits.limits.limits import Isolation, Limits, LimitsArguments
from dask_limits.limits.outcome import ChildProcess, Outcome, Usage
from dask_limits.limits.preload import preload
from dask_limits.limits.progress import progress

__all__ = [
    "CancelToken",
    "ChildProcess",
    "Isolation",
    "LimitedCall",
    "Limits",
    "LimitsArguments",
    "Outcome",
    "Usage",
    "limit",
    "name_of",
    "preload",
    "progress",
    "run_call",
    "run_in_place",
]
