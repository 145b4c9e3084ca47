"""What is known of the calls of a scheduler or an executor after they have ended."""

from dask_limits.report.recorder import Recorder

__all__ = ["Recorder"]
