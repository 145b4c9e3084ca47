"""The data set of a search: read and checked before any process starts."""

from __future__ import annotations

import difflib
import math
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

N_FOLDS: Final = 3
"""Folds of each cross-validation. More folds give steadier scores, and cost a fit each."""

_MOST_CLASSES: Final = 20
"""A target of whole numbers is classes if it has at most this many distinct values."""

_WHOLE_BELOW: Final = 2.0**53
"""From here on, distinct whole numbers can be the same float."""


class DataError(ValueError):
    """Data that a search cannot use; the message is one sentence."""


@dataclass(frozen=True)
class Dataset:
    """Features and target, as each trial gets them.

    A trial gets the data itself, not the path of a file. So it can run on any machine, at a small
    cost compared with a trial (for 100 MB 0.2 s, on Dask 0.8 s).
    """

    name: str
    features: pd.DataFrame  # text columns are categories, which are sent as small integers
    target: pd.Series[Any]  # none missing
    classification: bool  # otherwise regression
    notes: tuple[str, ...] = ()  # what was left out or looked odd, a sentence each

    def __repr__(self) -> str:
        return "<data>"  # it is the same in all trials, and the live view is narrow

    @cached_property
    def token(self) -> str:
        """A hash of the data, the same in every process."""
        import joblib

        hashed: str = joblib.hash((self.features, self.target))
        return hashed

    def describe(self) -> str:
        """Its size and the kind of problem, in one line."""
        rows, columns = self.features.shape
        if self.classification:
            kind = f"classification into {self.target.nunique()} classes"
        else:
            kind = "regression"
        return f"{self.name}: {rows} rows, {columns} columns, {kind}"


def bundled() -> Dataset:
    """The handwritten digits that come with scikit-learn: 1797 rows, 64 columns, 10 classes."""
    from sklearn.datasets import load_digits

    features, target = load_digits(return_X_y=True, as_frame=True)
    return Dataset("digits (from scikit-learn)", features, target, classification=True)


def load_csv(path: Path, target: str | None) -> Dataset:
    """Read a CSV file, compressed if its name says so (.gz, .zip, .xz, ...).

    If the target column has text, truth values or few distinct whole numbers, these are classes;
    other numbers are for regression.
    """
    table = _read(path)
    repeated = _repeated_names(path)
    target = _checked_target(target, path, [str(name) for name in table.columns], repeated)
    notes = []
    if repeated:
        notes.append(f"columns with the same name were numbered: {_listed(repeated)}")
    table = table.replace([math.inf, -math.inf], math.nan)  # imputation replaces NaN only
    known = table[target].notna()
    if not known.all():
        notes.append(f"rows without a value of {target!r} were left out: {(~known).sum()}")
    table = table[known].reset_index(drop=True)
    if len(table) < 2 * N_FOLDS:
        raise DataError(
            f"{path} has {len(table)} usable rows (with a value of {target!r});"
            f" cross-validation in {N_FOLDS} folds needs {2 * N_FOLDS} or more."
        )
    features = _features(table.drop(columns=target), path, target, notes)
    labels, classification = _as_target(table[target])
    if labels.nunique() < 2:
        raise DataError(f"The target {target!r} of {path} has the value {labels[0]} in all rows.")
    if classification:
        counts = labels.value_counts()
        rare = [str(name) for name in counts.index[counts < N_FOLDS]]
        if rare:
            notes.append(f"classes with fewer rows than the {N_FOLDS} folds: {_listed(rare)}")
    return Dataset(path.name, features, labels, classification, tuple(notes))


def _checked_target(target: str | None, path: Path, columns: list[str], repeated: list[str]) -> str:
    there = f"its columns are {_listed(columns)}."
    if target is None:
        raise DataError(f"Name the column of {path} to predict with --target; {there}")
    if target not in columns:
        lower = {name.lower(): name for name in columns}
        near = difflib.get_close_matches(target.lower(), lower, n=1)
        hint = f" (did you mean {lower[near[0]]!r}?)" if near else ""
        raise DataError(f"{path} has no column {target!r}{hint}; {there}")
    if target in repeated:
        raise DataError(f"{path} has more than one column {target!r}: rename all but one.")
    return target


def _features(table: pd.DataFrame, path: Path, target: str, notes: list[str]) -> pd.DataFrame:
    """The columns that have values, text as categories."""
    empty = [str(name) for name in table.columns if table[name].isna().all()]
    if empty:
        notes.append(f"columns without any value were left out: {_listed(empty)}")
    features = table.drop(columns=empty)
    if features.empty:
        raise DataError(f"{path} has no column with values besides the target {target!r}.")
    text = features.select_dtypes(exclude=["number", "bool"]).columns
    return features.astype(dict.fromkeys(text, "category"))


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd

    if path.is_dir():
        raise DataError(f"{path} is a directory, not a CSV file.")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "Length of header", pd.errors.ParserWarning)
            # low_memory=False: otherwise a long column may be text in one part and numbers in
            # another. index_col=False: otherwise one more field in each row makes the first an
            # index.
            table = pd.read_csv(path, low_memory=False, index_col=False)
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.") from None
    except pd.errors.EmptyDataError:
        raise DataError(f"{path} is empty.") from None
    except pd.errors.ParserWarning:
        raise DataError(f"{path} has rows with more fields than its header.") from None
    except PermissionError:
        raise DataError(f"{path} cannot be read: permission denied.") from None
    except Exception as error:  # invalid CSV, another encoding, or damaged compression
        why = next(iter(str(error).splitlines()), type(error).__name__).rstrip(". ")
        raise DataError(f"{path} is not a CSV file in UTF-8: {why}.") from None
    if table.empty:
        raise DataError(f"{path} has no rows below its header.")
    return table


def _repeated_names(path: Path) -> list[str]:
    """Names that the header repeats; pandas renames two columns `a` to `a` and `a.1`."""
    import pandas as pd

    if not path.is_file():
        return []  # a pipe can be read only once
    options: Any = {"dtype": str, "keep_default_na": False, "index_col": False}
    header = pd.read_csv(path, header=None, nrows=1, **options)
    counts = Counter(str(name) for name in header.iloc[0])
    return [name for name, count in counts.items() if name and count > 1]


def _listed(names: list[str], most: int = 20) -> str:
    text = ", ".join(repr(name) for name in names[:most])
    return text if len(names) <= most else f"{text} and {len(names) - most} more"


def _as_target(column: pd.Series[Any]) -> tuple[pd.Series[Any], bool]:
    """The target in a type that estimators accept, and whether it is classes."""
    from pandas.api import types

    column = column.infer_objects()  # truth values with gaps are objects
    if types.is_bool_dtype(column):
        return column, True
    if not types.is_numeric_dtype(column):
        return column.astype(str).astype(object), True
    few = column.nunique() <= _MOST_CLASSES
    if types.is_integer_dtype(column):
        return column, few
    whole = bool((column % 1 == 0).all())  # whole numbers with gaps are floats
    if few and whole and column.abs().max() < _WHOLE_BELOW:
        return column.astype("int64"), True
    return column, False
