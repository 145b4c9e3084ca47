from __future__ import annotations

from typing import Final

TOPIC: Final = "dask-limits-cluster"
"""The topic of Dask's events about workers that come and go, and calls that run again."""
CHANNELS: Final = "dask-limits-channels"
"""The topic of questions that calls ask their drivers. They are not kept."""
