"""How one call is limited. Knows nothing of Dask, of tasks, of schedulers."""

from dask_limits.limits.call import LimitedCall, limit, name_of, run_call, run_in_place
from dask_limits.limits.cancel import CancelToken
from dask_limits.limits.limits import Limits
from dask_limits.limits.outcome import Outcome, Usage

__all__ = [
    "CancelToken",
    "LimitedCall",
    "Limits",
    "Outcome",
    "Usage",
    "limit",
    "name_of",
    "run_call",
    "run_in_place",
]
