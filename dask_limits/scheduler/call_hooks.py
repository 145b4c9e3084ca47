from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dask_limits.events import Emitter
from dask_limits.executors import Future
from dask_limits.plugins import Plugin


@dataclass(eq=False)
class CallHooks:
    """What a run needs of the task that a call belongs to."""

    emitter: Emitter
    plugins: list[Plugin]
    forget: Callable[[Future[Any]], None]
    start_held: Callable[[], None]
