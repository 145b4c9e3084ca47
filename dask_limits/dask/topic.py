from __future__ import annotations

from typing import Final

TOPIC: Final = "dask-limits-cluster"
"""The topic of Dask's events about workers that come and go, and calls that run again."""
