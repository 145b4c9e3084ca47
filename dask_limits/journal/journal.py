from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from dask_limits.report import Recorder

if TYPE_CHECKING:
    from dask_limits.report.report import Report

Rerun = Literal["none", "failed", "all"]
"""Which calls run again that have ended in an earlier run."""

Changed = Literal["refuse", "keep", "rerun"]
"""What to do with a call whose function has changed since."""


@dataclass(frozen=True)
class Journal:
    """A file that remembers how calls have ended, for a program that is started again.

    `scheduler.run(journal="search.sqlite")` writes each end to it before any callback is told. If
    the program is killed, at any moment, run it again with the same file: what has ended comes back
    at once through the same events, in the same order, with its usage and with
    `future.from_journal`. What is missing runs. So callbacks that submit further calls go on where
    they were.

    A call is known by the name and the version of its function and by its arguments; the second one
    with the same arguments in a run is another call. Where arguments do not tell calls apart, or
    cannot be compared between processes, give the task a `key`: see
    [Scheduler.task][dask_limits.Scheduler.task].

    Calls that were cancelled, or lost with their worker or cluster, run again in any case.

    Args:
        path: The SQLite file, which is made if it is missing. Results of more than 1 MiB are in a
            folder beside it, "PATH.values". Both are for this user alone: they hold pickles.
        rerun: Which calls run again that have ended: "none"; "failed", those that raised, crashed
            or went over a limit; or "all".
        changed: What to do with calls whose function has another code than when they ended:
            "refuse" raises an error, "keep" takes their results all the same, "rerun" runs them
            again. Comments, docstrings and where the code stands do not matter, and neither does
            what the function calls.

    Raises:
        ValueError: if `rerun` or `changed` is none of these.

    Example:
        >>> import tempfile
        >>> from dask_limits import Scheduler
        >>> def run_all():
        ...     scheduler = Scheduler.with_processes(1)
        ...     scheduler.on_start(lambda: [scheduler.submit(pow, 2, n) for n in range(3)])
        ...     results = []
        ...     @scheduler.on_future_result
        ...     def keep(future, result):
        ...         results.append((result, future.from_journal))
        ...     scheduler.run(journal=file)
        ...     return results
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Journal(f"{folder}/run.sqlite")
        ...     sorted(run_all()), sorted(run_all())
        ([(1, False), (2, False), (4, False)], [(1, True), (2, True), (4, True)])
    """

    path: str | PathLike[str]
    rerun: Rerun = "none"
    changed: Changed = "refuse"

    def __post_init__(self) -> None:
        for name, kinds in (("rerun", Rerun), ("changed", Changed)):
            if (value := getattr(self, name)) not in get_args(kinds):
                known = ", ".join(map(repr, get_args(kinds)))
                raise ValueError(f"{name}={value!r} must be one of {known}")
        if not isinstance(self.path, str | PathLike) or not str(self.path):
            raise TypeError(f"A journal needs the path of a file, not {self.path!r}")

    @classmethod
    def of(cls, journal: object) -> Journal | None:
        """What `run(journal=...)` was given, as one of these."""
        if journal is None or isinstance(journal, Journal):
            return journal
        if isinstance(journal, str | PathLike):
            return cls(journal)
        raise TypeError(
            f"journal={journal!r} ({type(journal).__name__}) must be the path of a file, or a"
            " Journal"
        )

    def report(self) -> Report:
        """What it knows of the calls that have ended, a row each, also while a run writes it.

        See [Report][dask_limits.Report].

        Raises:
            JournalError: if there is no such file, or it cannot be read.
        """
        from dask_limits.journal.rows import end_of, limits_of, usage_of
        from dask_limits.journal.store import Store  # with sqlite3, for few programs

        recorder = Recorder()
        store = Store(Path(self.path).expanduser(), writes=False)
        with store.explained(), closing(store.connect()) as connection:
            for row in store.rows(connection):
                recorder.add_row(
                    row.task,
                    row.key,
                    end_of(row),
                    usage_of(row),
                    limits_of(row),
                    row.worker,
                    row.job,
                    row.submitted,
                    row.ended,
                    row.attempts,
                    partial(str, row.arguments),
                )
        return recorder.report()
