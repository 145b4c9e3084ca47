"""What the measured calls do. Processes import this module: their functions go by reference."""

from __future__ import annotations

import time
from typing import Any


def echo(x: Any) -> Any:
    return x


def ignore(data: Any) -> None:
    pass


def touch(array: Any) -> float:
    """Read a number of each page of an array."""
    return float(array[::512].sum())


def spin(seconds: float = 3600) -> None:
    """Use the CPU for so long, by the clock."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def grow(bytes_per_second: float) -> None:
    """Take memory at this rate."""
    blocks, block, start = [], 4_000_000, time.perf_counter()
    while True:
        blocks.append(b"x" * block)
        ahead = len(blocks) * block / bytes_per_second - (time.perf_counter() - start)
        if ahead > 0:
            time.sleep(ahead)


def fit() -> float:
    """Fit a small forest of scikit-learn, importing what that needs."""
    import numpy as np
    from sklearn.ensemble import RandomForestClassifier

    table = np.arange(400.0).reshape(100, 4)
    classes = table[:, 0] > 200
    return float(RandomForestClassifier(5).fit(table, classes).score(table, classes))
