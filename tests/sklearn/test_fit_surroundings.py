"""What of its caller a fit goes by, and what of it comes back: warnings, configuration, output."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
from estimators import Calls, Hungry, TwoPartWarning, Warns
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

import dask_limits
from dask_limits.limits.owner.guardian import default_guardian
from dask_limits.limits.owner.preload import NOTHING
from dask_limits.sklearn import Limited

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 3))
Y = np.arange(60) % 2


def test_warnings_of_a_fit_come_to_its_caller() -> None:
    with pytest.warns(ConvergenceWarning) as warned:
        Limited(LogisticRegression(max_iter=1), wall_time=60).fit(X, Y)
    assert warned[0].filename.endswith("_logistic.py")
    for kind, category, text in (
        (DeprecationWarning, DeprecationWarning, "^careful$"),
        (TwoPartWarning, UserWarning, "^TwoPartWarning: careful and so on$"),
    ):
        with pytest.warns(category, match=text):
            Limited(Warns(kind), wall_time=60).fit(X)
    with (
        pytest.warns(UserWarning, match=r"^careful$"),
        pytest.raises(ZeroDivisionError, match=r"^why$") as caught,
    ):
        Limited(Warns(error=ZeroDivisionError("why")), wall_time=60).fit(X)
    assert not vars(caught.value).keys() - {"__notes__"}


def test_the_callers_filters_of_warnings_hold_in_a_fit() -> None:
    model = Limited(Warns(), wall_time=60)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="careful"):
            model.fit(X)
        warnings.filterwarnings("ignore", "caref")
        model.fit(X)
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", category=UserWarning, module="estimators")
        warnings.filterwarnings("error", category=UserWarning, module="elsewhere")
        model.fit(X)
        model.fit(X)
    assert [str(one.message) for one in caught] == ["careful"] * 2


def test_the_configuration_of_scikit_learn_holds_in_a_fit() -> None:
    for isolation in ("clean", "thread"):
        model = Limited(Calls(sklearn.get_config), wall_time=60, isolation=isolation)
        with config_context(assume_finite=True, transform_output="pandas"):
            assert model.fit(X).found_ == sklearn.get_config()
        assert model.fit(X).found_ == sklearn.get_config()


def backend_and_n_jobs() -> tuple[str, int]:
    jobs = joblib.Parallel()
    return type(jobs._backend).__name__, jobs.n_jobs


@pytest.mark.parametrize("given", [{}, {"n_jobs": 3}, {"prefer": "threads"}])
def test_the_configuration_of_joblib_holds_in_a_fit(given: dict[str, Any]) -> None:
    model = Limited(Calls(backend_and_n_jobs), wall_time=60)
    with joblib.parallel_config(**given):
        assert model.fit(X).found_ == backend_and_n_jobs()


@pytest.mark.parametrize("name", ["loky", "threading", "multiprocessing", "sequential"])
def test_a_backend_of_this_machine_holds_in_a_fit_and_no_other(name: str) -> None:
    model = Limited(Calls(backend_and_n_jobs), wall_time=60)
    with joblib.parallel_config(name, n_jobs=2):
        assert model.fit(X).found_ == backend_and_n_jobs()
        assert Limited(Calls(backend_and_n_jobs)).fit(X).found_ == backend_and_n_jobs()
    with joblib.parallel_config(Elsewhere(), n_jobs=2):
        assert model.fit(X).found_ == ("SequentialBackend", 2)


class Elsewhere(joblib.parallel.ParallelBackendBase):
    def effective_n_jobs(self, n_jobs: int) -> int:
        return n_jobs

    def submit(self, func: Any, callback: Any = None) -> Any:
        raise AssertionError("nothing runs there")

    apply_async = submit

    def __reduce__(self) -> Any:
        raise AssertionError("it stays here")


@pytest.fixture
def preloads_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("dask_limits.sklearn.preloading._ours", NOTHING)
    yield
    dask_limits.preload()


def prepare() -> None:
    os.environ["DASK_LIMITS_TEST"] = "1"


@pytest.mark.usefixtures("preloads_anew")
def test_what_the_user_preloads_stays() -> None:
    dask_limits.preload(initializer=prepare)
    theirs = default_guardian().preload
    model = Limited(Calls(lambda: os.environ.get("DASK_LIMITS_TEST")), wall_time=60)
    assert model.fit(X).found_ == "1"
    assert default_guardian().preload is theirs
    dask_limits.preload()
    assert model.fit(X).found_ is None
    ours = default_guardian().preload
    assert {"numpy", "sklearn.base", "sklearn.linear_model"} <= {*ours.modules}
    assert "estimators" not in ours.modules
    Limited(LogisticRegression(), wall_time=60).fit(X, Y)
    assert default_guardian().preload is ours


def test_fits_in_many_threads_do_not_disturb_each_other() -> None:
    def fit(n: int) -> None:
        with config_context(working_memory=n + 1):
            for _ in range(5):
                model = Limited(Calls(sklearn.get_config), wall_time=60).fit(X)
                right.append(model.found_["working_memory"] == n + 1)

    right: list[bool] = []
    threads = [threading.Thread(target=fit, args=[n]) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 20


def test_what_a_fit_prints_is_captured_if_asked() -> None:
    model = Limited(Calls(lambda: print("hello")), capture_output=True)
    assert model.fit(X).limited_usage_.stdout == "hello\n"


def test_a_fit_is_random_unless_it_is_told_not_to_be() -> None:
    numbers = [
        Limited(Calls(lambda: np.random.random()), wall_time=60).fit(X).found_ for _ in range(3)
    ]
    assert len({*numbers}) == 3
    assert Limited(Hungry(), wall_time=60).fit(X, Y).pid_ != os.getpid()
