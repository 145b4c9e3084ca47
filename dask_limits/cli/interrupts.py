from __future__ import annotations

import signal
from signal import SIG_IGN, SIGHUP, SIGINT, SIGTERM
from types import FrameType
from typing import Any, Self

from dask_limits import Scheduler


class Interrupts:
    """A context manager in which Ctrl-C and SIGTERM stop a scheduler between two callbacks.

    So does SIGHUP, which comes when a terminal is closed. Those that the shell has this program
    ignore, as for `nohup` or a background job of a script, stay ignored.

    So nothing is left half written, as KeyboardInterrupt could leave it. KeyboardInterrupt is
    raised if no scheduler is running, and at the second signal.
    """

    def __init__(self) -> None:
        self.received = 0  # the number of the first signal
        self.raised = False  # KeyboardInterrupt
        self._scheduler: Scheduler | None = None
        self._handlers_before: dict[int, Any] = {}

    def stop(self, scheduler: Scheduler) -> None:
        """Stop this scheduler from now on."""
        self._scheduler = scheduler
        if self.received:  # an import may have swallowed the KeyboardInterrupt
            raise KeyboardInterrupt

        @scheduler.on_start
        def catch_up() -> None:
            if self.received:
                scheduler.stop()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received, self.received or number
        if again or self._scheduler is None or not self._scheduler.running():
            self.raised = True
            raise KeyboardInterrupt
        self._scheduler.stop()

    def __enter__(self) -> Self:
        for number in (SIGINT, SIGTERM, SIGHUP):
            if signal.getsignal(number) is not SIG_IGN:
                self._handlers_before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
