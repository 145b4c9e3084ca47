from __future__ import annotations

import logging
import time
from collections import Counter
from typing import Any

from dask_limits.display.in_words import FROM_JOURNAL, NOTHING, SUBMIT
from dask_limits.executors import Call, Future
from dask_limits.executors.cluster import ClusterState
from dask_limits.in_short import arguments_in_short
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
        self._n_not_raised = 0
        self._began_at = time.monotonic()

    def started(self, executor: str, cluster: ClusterState) -> None:
        """Calls can be submitted."""
        if logger.isEnabledFor(logging.INFO):
            has = "; ".join(cluster.lines())
            line = f"{executor}: {has}" if has else executor
            logger.info("Run started on %s", printable(line))

    def submitted(self, call: Call) -> None:
        """A call was submitted, or is held."""
        self._n_submitted += 1
        if logger.isEnabledFor(logging.DEBUG):
            fn, args, kwargs = call
            logger.debug("%s(%s) was submitted", name_of(fn), arguments_in_short(args, kwargs))

    def ended(self, future: Future[Any], error: BaseException | None) -> None:
        """A call has ended."""
        if future.from_journal:  # it has ended in an earlier run
            self._endings[FROM_JOURNAL] += 1
        else:
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
        self._n_not_raised += 1
        logger.error("A callback raised an exception that the run does not raise", exc_info=error)

    def finished(self, state: ExitState | None) -> None:
        """The run has ended; without a state it was interrupted."""
        if self._n_not_raised:
            logger.warning(
                "Exceptions of callbacks that the run did not raise: %d. The log above has them.",
                self._n_not_raised,
            )
        if logger.isEnabledFor(logging.INFO):
            endings = ", ".join(f"{n} {ending}" for ending, n in self._endings.most_common())
            what = f"{self._n_submitted} calls submitted" + (f": {endings}" if endings else "")
            if not self._n_submitted:
                is_done = state is not None and state.code == ExitState.Code.EXHAUSTED
                what = f"{NOTHING}: {SUBMIT}" if is_done else NOTHING
            logger.info(
                "Run ended (%s) after %s: %s",
                "interrupted" if state is None else state.code,
                format_seconds(time.monotonic() - self._began_at),
                what,
            )
