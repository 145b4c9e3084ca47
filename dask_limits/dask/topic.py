from __future__ import annotations

from typing import Final

TOPIC: Final = "dask-limits-cluster"
"""The topic of Dask's events under which it is logged which workers come and go, and which calls
run again."""
