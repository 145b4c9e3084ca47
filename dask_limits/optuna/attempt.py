from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Attempt:
    """A call that is submitted in a thread of its own: some executors run it in that very thread.

    Args:
        submit: Submits the call.
        done: Called with its future when that is done, in any thread.
    """

    def __init__(
        self, submit: Callable[[], Future[Any]], done: Callable[[Future[Any]], object]
    ) -> None:
        self._submit = submit
        self._done = done
        self._future: Future[Any] | None = None
        self._is_cancelled = False
        threading.Thread(target=self._run, name="optuna-submit", daemon=True).start()

    def _run(self) -> None:
        try:
            future = self._submit()
        except BaseException as error:
            future = Future()
            future.set_exception(error)
        self._future = future
        if self._is_cancelled:
            future.cancel()
        future.add_done_callback(self._done)

    def cancel(self) -> None:
        """End the call, where its executor can."""
        self._is_cancelled = True  # whoever sets one of the two then looks at the other
        if self._future is not None:
            self._future.cancel()
