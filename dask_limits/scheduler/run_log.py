from __future__ import annotations

import logging
import time
from collections import Counter
from concurrent.futures import Executor
from typing import Any

from dask_limits.executors import Call, Future
from dask_limits.executors.cluster import ClusterState
from dask_limits.limits import name_of
from dask_limits.limits.endings import word_of
from dask_limits.printable import printable, repr_of
from dask_limits.scheduler.exit_state import ExitState
from dask_limits.units import format_seconds

logger = logging.getLogger("dask_limits.run")


class RunLog:
    """Logs what happens in one run: a line for its start, and one for its end with its counts."""

    def __init__(self) -> None:
        self._endings: Counter[str] = Counter()
        self._n_submitted = 0
        self._began_at = time.monotonic()

    def started(self, executor: Executor, cluster: ClusterState) -> None:
        """Calls can be submitted."""
        if logger.isEnabledFor(logging.INFO):
            has = "; ".join(cluster.lines()) or f"up to {getattr(executor, 'max_workers', 1)} calls"
            logger.info("Run started on %s: %s", type(executor).__name__, printable(has))

    def submitted(self, call: Call) -> None:
        """A call was submitted, or is held."""
        self._n_submitted += 1
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("%s() was submitted", name_of(call[0]))

    def ended(self, future: Future[Any], error: BaseException | None) -> None:
        """A call has ended."""
        self._endings["cancelled" if future.cancelled() else word_of(error)] += 1

    def waits_for_calls(self, error: BaseException, n_calls: int) -> None:
        """The run ends because of an error, which is raised when so many calls have ended."""
        logger.warning(
            "Ending the run because of %s; waiting for %d calls."
            " Use run(wait=False) to cancel them instead.",
            repr_of(error),
            n_calls,
        )

    def not_raised(self, error: BaseException) -> None:
        """A callback has raised what the run does not raise; it would be lost otherwise."""
        logger.error("A callback raised an exception that the run does not raise", exc_info=error)

    def finished(self, state: ExitState | None) -> None:
        """The run has ended; without a state it was interrupted."""
        if logger.isEnabledFor(logging.INFO):
            endings = ", ".join(f"{n} {ending}" for ending, n in self._endings.most_common())
            logger.info(
                "Run ended (%s) after %s: %d calls submitted%s",
                "interrupted" if state is None else state.code,
                format_seconds(time.monotonic() - self._began_at),
                self._n_submitted,
                f": {endings}" if endings else "",
            )
