"""Limits on Dask workers: the plugin that brings them there, how to ask for them, what was used."""

from dask_limits.worker.annotations import annotate, limits_annotations
from dask_limits.worker.plugin import LimitsWorkerPlugin
from dask_limits.worker.usage_log import usages

__all__ = ["LimitsWorkerPlugin", "annotate", "limits_annotations", "usages"]
