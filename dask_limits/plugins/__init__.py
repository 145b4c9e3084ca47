"""What can be attached to a task."""

from dask_limits.plugins.base import Plugin
from dask_limits.plugins.limiter import Limiter
from dask_limits.plugins.pynisher import PynisherPlugin
from dask_limits.plugins.retry import Retry

__all__ = ["Limiter", "Plugin", "PynisherPlugin", "Retry"]
