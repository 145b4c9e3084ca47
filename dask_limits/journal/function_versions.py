"""The versions of functions that a journal knows."""

from __future__ import annotations

import logging
import sqlite3
import time

from dask_limits.exceptions import JournalError
from dask_limits.journal.code import PYTHON
from dask_limits.journal.journal import Changed
from dask_limits.journal.store import FunctionRow, Store

logger = logging.getLogger("dask_limits.journal")


class FunctionVersions:
    """Compares functions with those of earlier runs, each once."""

    def __init__(self, store: Store, connection: sqlite3.Connection, changed: Changed) -> None:
        self._store = store
        self._connection = connection
        self._changed = changed
        self._recorded = store.functions(connection)
        self._checked: dict[tuple[str, str], str] = {}

    def checked(self, task: str, version: str) -> str:
        """The version under which the calls of a task are known.

        Raises:
            JournalError: if the function has changed, and that is not allowed.
        """
        if (known := self._checked.get((task, version))) is None:
            known = self._checked[task, version] = self._check(task, version)
        return known

    def _check(self, task: str, version: str) -> str:
        recorded = [row for row in self._recorded if row.task == task]
        comparable = [row for row in recorded if row.python == PYTHON]
        if recorded and not comparable:
            logger.warning(
                "Journal %s: %s() was compiled by Python %s then, and by %s now, so whether it has"
                " changed cannot be told. Its results are taken.",
                self._store.path,
                task,
                recorded[-1].python,
                PYTHON,
            )
            return recorded[-1].version
        if comparable and version not in {row.version for row in comparable}:
            if self._changed == "refuse":
                raise self._refusal(comparable[-1], version)
            if self._changed == "keep":
                return comparable[-1].version
        with self._store.explained():
            self._store.add_function(self._connection, task, version)
        return version

    def _refusal(self, before: FunctionRow, version: str) -> JournalError:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(before.since))
        return JournalError(
            f"{before.task}() has changed since the journal {self._store.path} was written: its"
            f" code is version {version} now, and was version {before.version} ({since}). Use"
            f' Journal(path, changed="keep") to take its results all the same, or'
            f' changed="rerun" to run its calls again.'
        )
