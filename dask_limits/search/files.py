"""The files that a search writes."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from dask_limits.search.random_search import Trial

_COLUMNS: Final[Mapping[str, Callable[[Trial], object]]] = {
    "number": lambda trial: trial.number,
    "family": lambda trial: trial.configuration.family,
    "configuration": lambda trial: json.dumps(dict(trial.configuration.parameters)),
    "score": lambda trial: trial.score,
    "score_std": lambda trial: trial.score_std,
    "status": lambda trial: trial.status,
    "wall_time_s": lambda trial: trial.usage and f"{trial.usage.wall_time:.3f}",
    "cpu_time_s": lambda trial: trial.usage and f"{trial.usage.cpu_time:.3f}",
    "peak_memory_bytes": lambda trial: trial.usage and trial.usage.peak_memory,
    "error": lambda trial: trial.error,
}


class Results:
    """A directory with `trials.csv`, a row per trial, `best_model.joblib` and a journal.

    Files of an earlier search are renamed: `trials.1.csv`, `best_model.1.joblib`. So is its
    journal, unless the search is resumed.

    The directory is created if it does not exist. All methods raise OSError, with the name of the
    file, if they cannot write.
    """

    def __init__(self, directory: Path, *, resume: bool = False) -> None:
        self.trials_csv = directory / "trials.csv"
        self.best_model = directory / "best_model.joblib"
        journal = directory / "journal"  # a folder: SQLite has several files
        directory.mkdir(parents=True, exist_ok=True)
        for path in (self.trials_csv, self.best_model, *(() if resume else [journal])):
            _keep_earlier(path)
        self._file = self.trials_csv.open("x", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        try:
            self._write(_COLUMNS)
        except OSError:
            self.close()
            self.trials_csv.unlink()
            raise
        journal.mkdir(mode=0o700, exist_ok=True)
        self.journal = journal / "run.sqlite"

    def add(self, trial: Trial) -> None:
        """Write the row of a trial that has ended, and flush it."""
        self._write(value_of(trial) for value_of in _COLUMNS.values())

    def save_model(self, model: Any) -> None:
        """Save the fitted pipeline, for `joblib.load`."""
        import joblib

        unfinished = self.best_model.with_suffix(".unfinished")
        try:
            with _naming(unfinished):
                joblib.dump(model, unfinished)
            unfinished.rename(self.best_model)  # atomic: the file is complete, or absent
        finally:
            unfinished.unlink(missing_ok=True)

    def _write(self, row: Iterable[object]) -> None:
        with _naming(self.trials_csv):
            self._writer.writerow(row)
            self._file.flush()

    def close(self) -> None:
        """Close `trials.csv`."""
        with suppress(OSError):  # closing retries a write that `add` has reported
            self._file.close()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Add the file name to an OSError: that of a write has none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _keep_earlier(path: Path) -> None:
    if path.exists():
        number = 1
        while (kept := path.with_suffix(f".{number}{path.suffix}")).exists():
            number += 1
        path.rename(kept)
