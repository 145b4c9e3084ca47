from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

_THREADS: Final = 8
"""How many results may take long to unpickle, or have a done-callback that waits for another call,
before the others wait for them."""
_LONG_S: Final = 0.01
"""How long a thread has for the rest of what has come with a result, before another one helps."""

Settle = Callable[[], object]


class Settling:
    """Ends the futures of calls, in threads of its own.

    Unpickling and done-callbacks run code of users. On the client's loop that could neither use the
    client, nor wait for a thread that does.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_THREADS, "dask-limits-futures")
        self._waiting: deque[Settle] = deque()
        self._looks = False

    def settle(self, *settles: Settle) -> None:
        """Call these soon, in any thread: one after the other, unless one takes long."""
        self._waiting.extend(settles)
        self._work()

    def settle_all(self, settles: Iterable[Settle]) -> None:
        """The same, on a loop."""
        self.settle(*settles)
        if self._waiting and not self._looks:
            self._looks = True
            asyncio.get_running_loop().call_later(_LONG_S, self._look)

    def _look(self) -> None:
        """Have another thread help, as long as something waits."""
        self._looks = False
        if self._waiting:
            self.settle_all(())

    def _work(self) -> None:
        try:
            self._threads.submit(self._take)
        except RuntimeError:  # after shutdown(), or while the program ends
            self._take()

    def _take(self) -> Any:
        while True:
            try:
                settle = self._waiting.popleft()
            except IndexError:
                return
            settle()

    def shutdown(self) -> None:
        """Take no more threads; what comes yet is called at once."""
        self._threads.shutdown(wait=False)
