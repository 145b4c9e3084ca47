"""Estimators that take much, fail, or are odd. Processes of other tests import them, too."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted, validate_data

MIB = 2**20


class Hungry(ClassifierMixin, BaseEstimator):
    """A classifier whose fit takes so much memory and time; it always predicts the first class."""

    def __init__(self, mib: int = 1, seconds: float = 0.0, pid_file: Path | None = None) -> None:
        self.mib = mib
        self.seconds = seconds
        self.pid_file = pid_file

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Hungry:
        X, y = validate_data(self, X, y)
        self.classes_ = np.unique(y)
        self.pid_ = os.getpid()
        self.weight_ = None if sample_weight is None else float(np.sum(sample_weight))
        if self.pid_file is not None:
            Path(self.pid_file).write_text(f"{os.getpid()}\n")
        block = bytearray(self.mib * MIB)
        ends_at = time.monotonic() + self.seconds
        while time.monotonic() < ends_at:
            time.sleep(0.01)  # in steps: between them, a thread can be interrupted
        del block
        return self

    def predict(self, X: Any) -> Any:
        check_is_fitted(self)
        self.predicted_by_ = os.getpid()
        return np.full(len(X), self.classes_[0])


class TwoPartWarning(UserWarning):
    """A warning that can be pickled, but not unpickled."""

    def __init__(self, one: str) -> None:
        super().__init__(f"{one} and so on")

    def __reduce__(self) -> Any:
        return _fail, ()


def _fail() -> Any:
    raise RuntimeError("it cannot be unpickled")


class Warns(BaseEstimator):
    """Warns when it is fitted, in its own way, and then perhaps fails."""

    def __init__(self, kind: type[Warning] = UserWarning, error: Exception | None = None) -> None:
        self.kind = kind
        self.error = error

    def fit(self, X: Any, y: Any = None) -> Warns:
        warnings.warn(self.kind("careful"), stacklevel=1)
        if self.error is not None:
            raise self.error
        return self


class Calls(BaseEstimator):
    """Keeps what a function returns that is called by `fit`."""

    def __init__(self, function: Any) -> None:
        self.function = function

    def fit(self, X: Any, y: Any = None) -> Calls:
        self.found_ = self.function()
        return self


class Other:
    """No estimator of scikit-learn: it has what `Limited` needs, and no more."""

    def __init__(self, n: int = 1) -> None:
        self.n = n

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {"n": self.n}

    def set_params(self, **params: Any) -> Other:
        vars(self).update(params)
        return self

    def fit(self, X: Any) -> str:
        self.sum_ = self.n * sum(map(sum, X))
        return "not itself"

    def tell(self, more: int) -> int:
        return int(self.sum_ + more)
