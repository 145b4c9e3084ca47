"""Studies of Optuna in tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

optuna.logging.set_verbosity(optuna.logging.ERROR)

STORAGES = ["memory", "sqlite", "journal"]


def new_study(storage: str = "memory", folder: Path = Path(), **options: Any) -> optuna.Study:
    """A study whose storage is of this kind."""
    made: Any = None
    if storage == "sqlite":
        made = sqlite(folder)
    elif storage == "journal":
        made = JournalStorage(JournalFileBackend(str(folder / "study.log")))
    return optuna.create_study(storage=made, **options)


def sqlite(folder: Path, **options: Any) -> RDBStorage:
    """A storage in a folder, which `close_all` closes."""
    _opened.append(RDBStorage(f"sqlite:///{folder / 'study.db'}", **options))
    return _opened[-1]


_opened: list[RDBStorage] = []


def close_all() -> None:
    """Close connections. Optuna leaves them to the garbage collector, which Python 3.13 reports."""
    while _opened:
        storage = _opened.pop()
        storage.remove_session()
        storage.engine.dispose()


def states_of(study: optuna.Study) -> list[str]:
    """How the trials have ended, in their order."""
    return [trial.state.name for trial in study.trials]


def told_of(study: optuna.Study) -> list[Any]:
    """What the storage has of each trial that does not depend on time."""
    return [
        (
            trial.number,
            trial.state.name,
            trial.values,
            trial.params,
            trial.distributions,
            trial.intermediate_values,
            {k: v for k, v in trial.user_attrs.items() if not k.startswith("dask_limits:")},
        )
        for trial in study.trials
    ]
