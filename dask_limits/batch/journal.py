"""What the journal of a batch knows of its commands."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from dask_limits import Journal
from dask_limits.batch.item import TASK, Item, Run
from dask_limits.journal.identity import function_of, identity_of
from dask_limits.journal.lock import Lock
from dask_limits.journal.rows import need_not_run
from dask_limits.journal.store import Store

NAME: Final = "journal.sqlite"
"""The file in the directory of results."""


def key_of(item: Item) -> str:
    """What the journal knows a command by."""
    return f"{item.index} {item.line}"


def to_run(items: Iterable[Item], run: Run, journal: Journal) -> Iterator[Item]:
    """The commands that would run with this journal. Another program may write it meanwhile.

    Raises:
        JournalError: if the journal cannot be read.
    """
    path = Path(journal.path)
    if not path.exists():  # the batch was ended before it began
        yield from items
        return
    store = Store(path, writes=False)
    with store.explained(), closing(store.connect()) as connection:
        known_as = _Identities(store, connection, run)
        past = {row.call for row in store.rows(connection) if need_not_run(row, journal.rerun)}
    for item in items:
        if past.isdisjoint(known_as(item)):
            yield item


def forget(items: Iterable[Item], run: Run, journal: Journal) -> set[int]:
    """Forget commands that are to run again, and those of which there is another one now.

    Return the indices of the others, which come back.

    A command replaces the output of the one that had its index before. So before it begins, the
    journal must not know any more how that one has ended.

    Raises:
        JournalError: if another program writes the journal, or it cannot be written.
    """
    path = Path(journal.path).resolve()
    if not path.exists():
        return set()
    lock = Lock(path)
    try:
        store = Store(path, writes=True)
        with store.explained(), closing(store.connect()) as connection:
            known_as = _Identities(store, connection, run)
            indices = {identity: item.index for item in items for identity in known_as(item)}
            forgotten, kept = [], set()
            for row in store.rows(connection):
                if row.call in indices and need_not_run(row, journal.rerun):
                    kept.add(indices[row.call])
                else:
                    forgotten.append(row.number)
            if forgotten:
                store.add(connection, (), instead_of=forgotten)
        store.close()
    finally:
        lock.release()
    return kept


class _Identities:
    """What a journal knows a command by, with each version that its function has had."""

    def __init__(self, store: Store, connection: sqlite3.Connection, run: Run) -> None:
        self._function = function_of(run)
        functions = store.functions(connection)
        self._versions = {row.version for row in functions if row.task == TASK}

    def __call__(self, item: Item) -> Iterator[bytes]:
        key = key_of(item)
        for version in self._versions:
            yield identity_of(TASK, version, key, (), {}, self._function)
