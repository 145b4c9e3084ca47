from __future__ import annotations

import signal
from signal import SIGINT, SIGTERM
from types import FrameType
from typing import Any, Self

from dask_limits import Scheduler


class Interrupts:
    """Within its block, Ctrl-C and SIGTERM stop a scheduler between two of its callbacks.

    So nothing is left half written, which KeyboardInterrupt, raised just anywhere, may do. That
    comes only where no scheduler runs that could be stopped, and the second time.

    Attributes:
        received: Whether there was any.
        raised: Whether KeyboardInterrupt had to be raised.
    """

    def __init__(self) -> None:
        self.received = False
        self.raised = False
        self._scheduler: Scheduler | None = None
        self._handlers_before: dict[int, Any] = {}

    def stop(self, scheduler: Scheduler) -> None:
        """From now on, stop this one.

        Raises:
            KeyboardInterrupt: if there was one before; an import, say, may have lost that.
        """
        self._scheduler = scheduler
        if self.received:
            raise KeyboardInterrupt

        @scheduler.on_start
        def catch_up() -> None:
            if self.received:
                scheduler.stop()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received, True
        if again or self._scheduler is None or not self._scheduler.running():
            self.raised = True
            raise KeyboardInterrupt
        self._scheduler.stop()

    def __enter__(self) -> Self:
        for number in (SIGINT, SIGTERM):
            self._handlers_before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
