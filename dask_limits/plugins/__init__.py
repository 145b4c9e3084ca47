"""Plugins of tasks: they change, refuse, hold or repeat calls."""

from dask_limits.plugins.base import Plugin
from dask_limits.plugins.limiter import Limiter
from dask_limits.plugins.pynisher import PynisherPlugin
from dask_limits.plugins.retry import Retry

__all__ = ["Limiter", "Plugin", "PynisherPlugin", "Retry"]
