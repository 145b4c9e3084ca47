"""`Limited` fits under limits, and is the fitted estimator otherwise."""

from __future__ import annotations

import copy
import os
import pickle
import re
import signal
import threading
import time
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from estimators import MIB, Calls, Hungry, Other
from processes import all_gone, written_pid
from sklearn import config_context
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import AdaBoostClassifier, StackingClassifier, VotingClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.validation import has_fit_parameter

from dask_limits import limit
from dask_limits.exceptions import (
    Breach,
    CallPicklingError,
    CrashError,
    MemoryBreach,
    ProcessBreach,
    WallTimeBreach,
)
from dask_limits.sklearn import Limited

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 3))
Y = np.arange(60) % 2


# -- limits ----------------------------------------------------------------------------------


def test_a_fit_runs_in_another_process_and_its_estimator_comes_back() -> None:
    template = Hungry()
    model = Limited(template, memory="200 MiB", wall_time=60)
    assert model.fit(X, Y) is model
    assert model.estimator_.pid_ != os.getpid()
    assert model.predict(X).tolist() == [0] * 60
    assert model.predicted_by_ == os.getpid()
    assert vars(template) == {"mib": 1, "seconds": 0.0, "pid_file": None}
    assert model.limited_usage_.peak_memory > MIB // 2


@pytest.mark.parametrize("isolation", ["clean", "warm", "fresh", "thread"])
def test_a_breach_is_raised_with_its_usage_and_leaves_nothing_fitted(isolation: Any) -> None:
    model = Limited(Hungry(), memory="200 MiB", wall_time=60, isolation=isolation).fit(X, Y)
    model.set_params(estimator__seconds=600, wall_time=0.3, memory=None)
    with pytest.raises(WallTimeBreach, match=r"^Hungry\.fit\(\) went over its wall_time limit"):
        model.fit(X, Y)
    assert model.limited_usage_.wall_time >= 0.3
    with pytest.raises(NotFittedError, match=re.escape("Limited(Hungry) instance is not fitted")):
        model.predict(X)
    assert not hasattr(model, "estimator_")
    assert not hasattr(model, "classes_")
    assert model.set_params(estimator__seconds=0, wall_time=60).fit(X, Y).classes_.size == 2


def test_a_first_fit_does_not_pay_for_imports() -> None:
    # Without, the first one has scikit-learn to import, some 100 MiB.
    assert Limited(Hungry(mib=1), memory="50 MiB").fit(X, Y).limited_usage_.peak_memory < 50 * MIB
    with pytest.raises(MemoryBreach):
        Limited(Hungry(mib=100), memory="50 MiB").fit(X, Y)


def test_methods_are_limited_if_asked() -> None:
    model = Limited(Hungry(), wall_time=60, limit_all=True).fit(X, Y)
    usage = model.limited_usage_
    assert model.predict(X).tolist() == [0] * 60
    assert not hasattr(model, "predicted_by_")  # it was set in another process
    assert model.limited_usage_ is usage
    wait = FunctionTransformer(lambda _: time.sleep(600))
    slow = Limited(wait, wall_time=60, limit_all=True).fit(X).set_params(wall_time=0.5)
    with pytest.raises(WallTimeBreach, match=r"^FunctionTransformer\.transform\(\)"):
        slow.transform(X)


def test_jobs_of_an_estimator_count_as_its_processes() -> None:
    model = Limited(Calls(_with_two_processes), num_processes=1)
    with pytest.raises(ProcessBreach):
        model.fit(X)
    assert model.set_params(num_processes=6).fit(X).found_ == [1, 2, 3, 4]


def _with_two_processes() -> list[int]:
    import time

    import joblib

    def slow(n: int) -> int:
        time.sleep(0.2)
        return n

    jobs = joblib.Parallel(n_jobs=2, backend="loky", batch_size=1)
    return list(jobs(joblib.delayed(slow)(n) for n in (1, 2, 3, 4)))


def test_a_fit_within_a_limited_call_has_its_own_limits() -> None:
    def fit(**limits: Any) -> str:
        try:
            Limited(Hungry(seconds=600), **limits).fit(X, Y)
        except Breach as error:
            return type(error).__name__
        return ""

    assert limit(fit, wall_time=120)(wall_time=0.3) == "WallTimeBreach"
    nested = Limited(Limited(Hungry(seconds=600), wall_time=0.3), wall_time=120)
    with pytest.raises(WallTimeBreach):
        nested.fit(X, Y)
    nested.set_params(estimator__estimator__seconds=0, estimator__wall_time=60).fit(X, Y)
    assert nested.estimator_.limited_usage_.wall_time <= nested.limited_usage_.wall_time


def test_what_ends_its_process_fails_its_fit_alone() -> None:
    with pytest.raises(CrashError):
        Limited(Calls(lambda: os.kill(os.getpid(), signal.SIGKILL)), wall_time=60).fit(X)
    with pytest.raises(CallPicklingError, match=r"result of Calls.fit\(\) cannot be pickled"):
        Limited(Calls(threading.Lock), wall_time=60).fit(X)
    with pytest.raises(CallPicklingError, match=r"argument 2 \(lock\) cannot be pickled"):
        Limited(Hungry(), wall_time=60).fit(threading.Lock(), Y)


def test_ctrl_c_ends_a_fit(tmp_path: Path) -> None:
    def interrupt() -> None:
        pids.add(written_pid(tmp_path / "pid"))
        os.kill(os.getpid(), signal.SIGINT)

    pids: set[int] = set()
    model = Limited(Hungry(seconds=600, pid_file=tmp_path / "pid"), wall_time=600)
    thread = threading.Thread(target=interrupt)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # dask_jobqueue has its own
    try:
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            model.fit(X, Y)
        thread.join()
    finally:
        signal.signal(signal.SIGINT, before)
    all_gone(pids)
    assert not hasattr(model, "estimator_")


@pytest.mark.parametrize(
    ("limits", "error", "text"),
    [
        ({"memory": "-1 GiB"}, ValueError, "memory='-1 GiB'"),
        ({"isolation": "none"}, ValueError, "isolation='none'"),
        ({"context": "fork"}, ValueError, "context='fork' has no effect"),
        ({"num_processes": 1.5}, TypeError, "num_processes"),
    ],
)
def test_limits_are_kept_as_given_and_checked_by_fit(
    limits: dict[str, Any], error: type[Exception], text: str
) -> None:
    model = Limited(Hungry(), **limits)
    assert model.get_params()[next(iter(limits))] is next(iter(limits.values()))
    with pytest.raises(error, match=re.escape(text)):
        model.fit(X, Y)


# -- as an estimator -------------------------------------------------------------------------


def test_it_has_what_its_estimator_has_and_no_more() -> None:
    model = Limited(SVC(), wall_time=60)
    assert hasattr(model, "decision_function")
    for name in ("predict_proba", "transform", "partial_fit", "fit_transform", "classes_", "C"):
        assert not hasattr(model, name), name
    with pytest.raises(NotFittedError):
        model.decision_function(X)
    model.fit(X, Y)
    assert model.C == 1.0
    assert model.n_features_in_ == 3
    assert model.classes_.tolist() == [0, 1]
    assert model.support_.size
    with pytest.raises(AttributeError, match="no_such"):
        _ = model.no_such
    assert hasattr(Limited(SVC(probability=True)), "predict_proba")
    assert is_classifier(model)
    assert is_regressor(Limited(LinearRegression()))


def test_what_was_fitted_before_counts_for_nothing() -> None:
    with pytest.raises(NotFittedError):
        Limited(LogisticRegression().fit(X, Y), wall_time=60).predict(X)


@pytest.mark.parametrize("pickled", [pickle, cloudpickle])
def test_copies_are_as_they_should_be(pickled: Any) -> None:
    model = Limited(LogisticRegression(), memory=(2, "GB"), wall_time="1 m")
    for one in (pickled.loads(pickled.dumps(model)), copy.deepcopy(model), clone(model)):
        assert one.get_params().keys() == model.get_params().keys()
        assert (one.memory, one.wall_time) == ((2, "GB"), "1 m")
        assert not hasattr(one, "estimator_")
    model.fit(X, Y)
    for one in (pickled.loads(pickled.dumps(model)), copy.deepcopy(model)):
        assert one.predict(X).tolist() == model.predict(X).tolist()
        assert one.limited_usage_ == model.limited_usage_
    assert not hasattr(clone(model), "estimator_")
    assert pickled.loads(pickled.dumps(model.predict))(X).tolist() == model.predict(X).tolist()
    assert pickled.loads(pickled.dumps(model.fit))(X, Y).predict(X).size == 60
    assert copy.copy(model).predict(X).size == 60


def test_parameters_of_the_estimator_are_set_through_it() -> None:
    model = Limited(Pipeline([("scale", StandardScaler()), ("model", LogisticRegression())]))
    model.set_params(estimator__model__C=3.0, memory="1 GiB", estimator__scale="passthrough")
    assert model.fit(X, Y).named_steps["model"].C == 3.0
    model.set_params(estimator__model=SVC(), estimator__model__C=5)
    assert model.fit(X, Y).named_steps["model"].C == 5
    with pytest.raises(ValueError, match="Invalid parameter 'nothing'"):
        model.set_params(nothing=1)


def test_it_goes_within_pipelines_and_around_them() -> None:
    within = make_pipeline(
        Limited(StandardScaler(), wall_time=60), Limited(LogisticRegression(), wall_time=60)
    ).fit(X, Y)
    around = Limited(make_pipeline(StandardScaler(), LogisticRegression()), wall_time=60).fit(X, Y)
    plain = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)
    for one in (within, around):
        assert np.allclose(one.predict_proba(X), plain.predict_proba(X))
    assert np.allclose(within[:-1].transform(X), plain[:-1].transform(X))
    assert within[-1].limited_usage_.wall_time < 60


@pytest.mark.parametrize(
    "around",
    [
        lambda one: CalibratedClassifierCV(one, cv=2),
        lambda one: OneVsRestClassifier(one),
        lambda one: AdaBoostClassifier(one, n_estimators=2),
        lambda one: VotingClassifier([("one", one), ("two", LogisticRegression())], voting="soft"),
        lambda one: StackingClassifier([("one", one)], cv=2),
    ],
    ids=["calibrated", "one-vs-rest", "ada-boost", "voting", "stacking"],
)
def test_other_meta_estimators_take_it(around: Any) -> None:
    tree = DecisionTreeClassifier(max_depth=2, random_state=0)
    plain, limited = clone(around(tree)).fit(X, Y), around(Limited(tree, wall_time=60)).fit(X, Y)
    assert np.allclose(limited.predict_proba(X), plain.predict_proba(X))


def test_transformers_keep_the_output_that_was_set() -> None:
    import pandas as pd

    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    scaler = Limited(StandardScaler(), wall_time=60).set_output(transform="pandas")
    assert scaler.fit_transform(frame).columns.tolist() == ["a", "b", "c"]
    assert scaler.transform(frame).columns.tolist() == ["a", "b", "c"]
    assert scaler.get_feature_names_out().tolist() == ["a", "b", "c"]
    assert scaler.feature_names_in_.tolist() == ["a", "b", "c"]
    assert isinstance(scaler.set_output(transform="default").transform(frame), np.ndarray)
    pipeline = make_pipeline(Limited(StandardScaler(), wall_time=60)).set_output(transform="pandas")
    assert isinstance(clone(pipeline).fit_transform(frame), pd.DataFrame)


def test_one_that_needs_no_fit_needs_none() -> None:
    assert np.allclose(Limited(FunctionTransformer(np.abs), wall_time=60).transform(X), np.abs(X))


def test_a_partial_fit_goes_on_from_the_last_one_that_succeeded() -> None:
    model = Limited(SGDClassifier(random_state=0), wall_time=60)
    plain = SGDClassifier(random_state=0)
    for one in (model, plain):
        one.partial_fit(X[:30], Y[:30], classes=[0, 1]).partial_fit(X[30:], Y[30:])
    assert np.allclose(model.coef_, plain.coef_)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        model.partial_fit(X, Y[:3])
    assert np.allclose(model.coef_, plain.coef_)
    assert model.fit(X, Y).t_ != plain.t_


def test_an_estimator_that_is_not_of_scikit_learn_is_taken() -> None:
    model = Limited(Other(n=2), wall_time=60)
    assert model.fit([[1, 2], [3, 4]]) is model
    assert model.tell(more=1) == 21
    assert "Limited(estimator=" in repr(model)


@pytest.mark.parametrize("wrong", [LogisticRegression, None, "tree"])
def test_what_is_no_estimator_is_refused_by_fit(wrong: Any) -> None:
    with pytest.raises((TypeError, AttributeError), match=r"Cannot clone|has no attribute 'fit'"):
        Limited(wrong, wall_time=60).fit(X, Y)


# -- metadata --------------------------------------------------------------------------------


def test_sample_weights_reach_the_estimator() -> None:
    assert has_fit_parameter(Limited(Hungry()), "sample_weight")
    assert not has_fit_parameter(Limited(Calls(abs)), "sample_weight")
    weights = np.full(60, 0.5)
    assert Limited(Hungry(), wall_time=60).fit(X, Y, sample_weight=weights).weight_ == 30
    pipeline = make_pipeline(StandardScaler(), Limited(Hungry(), wall_time=60))
    assert pipeline.fit(X, Y, limited__sample_weight=weights)[-1].weight_ == 30


def test_metadata_is_routed_as_the_estimator_asks() -> None:
    with config_context(enable_metadata_routing=True):
        model = Limited(Hungry(), wall_time=60)
        assert model.set_fit_request(sample_weight=True) is model
        model.set_score_request(sample_weight=False)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        weights = np.full(60, 0.5)
        for one in (model, clone(model)):
            pipeline = make_pipeline(scaler, one)
            assert pipeline.fit(X, Y, sample_weight=weights)[-1].weight_ == 30
        with pytest.raises(TypeError, match="sample_weight"):
            make_pipeline(Limited(Calls(abs))).fit(X, Y, sample_weight=weights)
        nested = Limited(make_pipeline(scaler, clone(model)), wall_time=60)
        fitted = nested.fit(X, Y, sample_weight=weights)
        assert fitted.named_steps["limited"].weight_ == 30
