"""In a search, a breach costs its candidate alone, with every backend of joblib."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import joblib
import numpy as np
import pytest
from clusters import SETTINGS
from estimators import Hungry
from joblib.externals.loky import get_reusable_executor
from sklearn.exceptions import FitFailedWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import dask_limits.joblib  # noqa: F401
from dask_limits.exceptions import MemoryBreach, WallTimeBreach
from dask_limits.sklearn import Limited

pytestmark = pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")

X = np.random.default_rng(0).normal(size=(60, 3))
Y = np.arange(60) % 2
GRID = {"estimator__mib": [1, 400, 20]}
LIMITS: dict[str, Any] = {"memory": "200 MiB", "wall_time": "5 m"}


@contextmanager
def backend(name: str) -> Iterator[None]:
    """A block in which joblib runs two calls at a time, there."""
    if name == "dask":
        from distributed import Client, LocalCluster

        with (
            LocalCluster(n_workers=2, threads_per_worker=1, **SETTINGS) as cluster,
            Client(cluster),
            joblib.parallel_config("dask"),
        ):
            yield
        return
    with joblib.parallel_config(name, n_jobs=2):
        yield
    if name == "loky":
        get_reusable_executor().shutdown(kill_workers=True)


BACKENDS = ["sequential", "threading", "loky", "multiprocessing", "dask_limits"]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # it has threads, and forks
@pytest.mark.parametrize("name", [*BACKENDS, pytest.param("dask", marks=pytest.mark.dask)])
def test_a_breach_costs_its_candidate_alone(name: str) -> None:
    search = GridSearchCV(Limited(Hungry(), **LIMITS), GRID, cv=2, refit=True)
    with backend(name), pytest.warns(FitFailedWarning) as warned:
        search.fit(X, Y)
    (warning,) = [one for one in warned if one.category is FitFailedWarning]
    assert "2 fits failed out of a total of 6" in str(warning.message)
    assert "MemoryBreach: Hungry.fit() went over its memory limit of 200.0 MiB" in str(
        warning.message
    )
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True, False]
    assert search.best_estimator_.estimator_.mib in (1, 20)
    assert search.best_estimator_.limited_usage_.peak_memory < 200 * 2**20
    assert search.predict(X).size == 60


@pytest.mark.parametrize("kind", [RandomizedSearchCV, HalvingGridSearchCV])
def test_other_searches_go_on_too(kind: Any) -> None:
    options = {"n_iter": 3} if kind is RandomizedSearchCV else {"min_resources": 20}
    search = kind(
        Limited(Hungry(), **LIMITS), GRID, cv=2, error_score=-1.0, random_state=0, **options
    )
    with pytest.warns(FitFailedWarning, match="MemoryBreach"):
        search.fit(X, Y)
    found = search.cv_results_
    scores = dict(zip(found["param_estimator__mib"], found["mean_test_score"], strict=True))
    assert scores[400] == -1.0
    assert min(scores[1], scores[20]) > 0
    assert search.best_params_["estimator__mib"] != 400


def test_a_breach_is_raised_where_errors_are() -> None:
    slow = Limited(Hungry(seconds=600), wall_time=0.3)
    with pytest.raises(WallTimeBreach):
        cross_val_score(slow, X, Y, cv=2, error_score="raise")
    with pytest.raises(ValueError, match=r"All the 2 fits failed(.|\n)*WallTimeBreach"):
        cross_val_score(slow, X, Y, cv=2)
    # The last fit is with all data; that of a search is its own.
    search = GridSearchCV(Limited(_HungryForAll(), **LIMITS), {"estimator__mib": [1]}, cv=2)
    with pytest.raises(MemoryBreach):
        search.fit(X, Y)


class _HungryForAll(Hungry):
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Hungry:
        self.mib = 400 if len(X) == 60 else 1
        return super().fit(X, y)


def test_limits_can_be_searched_and_a_search_be_limited() -> None:
    grid = {"hungry__memory": ["200 MiB", "900 MiB"]}
    pipeline = make_pipeline(StandardScaler(), Limited(Hungry(mib=400)))
    pipeline.steps[-1] = ("hungry", pipeline.steps[-1][1])
    search = GridSearchCV(pipeline, grid, cv=2)
    with pytest.warns(FitFailedWarning, match="2 fits failed out of a total of 4"):
        search.fit(X, Y)
    assert search.best_params_ == {"hungry__memory": "900 MiB"}
    whole = Limited(GridSearchCV(Hungry(seconds=600), {"mib": [1, 2]}, cv=2), wall_time=0.3)
    with pytest.raises(WallTimeBreach, match=r"GridSearchCV\.fit\(\)"):
        whole.fit(X, Y)
    whole.set_params(estimator__estimator__seconds=0, wall_time=60).fit(X, Y)
    assert whole.best_params_["mib"] in (1, 2)


def score_and_usage(model: Any, X: Any, y: Any) -> dict[str, float]:
    usage = model.limited_usage_
    return {"score": model.score(X, y), "peak_memory": usage.peak_memory, "cpu": usage.cpu_time}


def test_what_fits_used_can_be_among_the_results() -> None:
    model = Limited(Hungry(), **LIMITS)
    search = GridSearchCV(model, GRID, cv=2, scoring=score_and_usage, refit="score", n_jobs=1)
    with pytest.warns(FitFailedWarning):
        search.fit(X, Y)
    small, failed, large = search.cv_results_["mean_test_peak_memory"]
    assert small + 10 * 2**20 < large < 60 * 2**20
    assert np.isnan(failed)
    found = cross_validate(model, X, Y, cv=2, return_estimator=True)
    assert all(one.limited_usage_.wall_time > 0 for one in found["estimator"])


SCRIPT = """
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import cross_val_score
from dask_limits.sklearn import Limited

class Mine(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_ = [0, 1]
        return self
    def predict(self, X):
        return [0] * len(X)

if __name__ == "__main__":
    X, y = np.zeros((20, 1)), np.arange(20) % 2
    print(cross_val_score(Limited(Mine(), memory="200 MiB"), X, y, cv=2, n_jobs=2))
"""


def test_an_estimator_of_the_script_is_searched_by_loky(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.stdout == "[0.5 0.5]\n", ran.stderr
