from __future__ import annotations

import contextlib
import copy
import inspect
import types
from collections.abc import Callable
from multiprocessing.context import BaseContext
from typing import Any, Final

from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import get_routing_for_object

from dask_limits.limits import LimitedCall, Limits, Outcome, Usage
from dask_limits.limits.limits import Isolation
from dask_limits.sklearn.method_call import Done, MethodCall, runs_elsewhere
from dask_limits.sklearn.preloading import preload_modules_of
from dask_limits.units import Amount, Duration

_USE_A_FIT: Final = {
    *("predict", "predict_proba", "predict_log_proba", "decision_function", "score_samples"),
    *("score", "transform", "inverse_transform"),
}
"""The methods that `limit_all` is about."""


class _FitMethod:
    """A method that fits: `Limited` has it if its estimator has it, with the same parameters."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, limited: Limited | None, owner: type | None = None) -> Any:
        if limited is None:
            return self
        return _method(limited, Limited._fit_by, getattr(limited.estimator, self._name))


def _method(limited: Limited, run: Callable[..., Any], like: Callable[..., Any]) -> Any:
    """A method with the name and the parameters of an estimator's.

    Others look at these: `StackingClassifier` at the name, `AdaBoostClassifier` for `sample_weight`
    among the parameters of `fit`. `run` is called with the name, positional and keyword arguments.
    """
    name: str = like.__name__

    def method(limited: Limited, /, *args: Any, **kwargs: Any) -> Any:
        return run(limited, name, args, kwargs)

    method.__name__, method.__qualname__, method.__doc__ = name, name, like.__doc__
    with contextlib.suppress(TypeError, ValueError):  # what is not written in Python has none
        itself = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        its = inspect.signature(like).parameters.values()
        method.__signature__ = inspect.Signature([itself, *its])  # type: ignore[attr-defined]
    return types.MethodType(method, limited)  # which is pickled by its name


class Limited(MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """An estimator whose fits run under limits, and which is the fitted estimator otherwise.

    Each `fit` (and `fit_transform`, `fit_predict`, `partial_fit`) of a clone of the estimator runs
    in a task process, which is ended with all that it has started when it goes over a limit. The
    fitted estimator comes back. All its methods and attributes are those of this one: `predict`,
    `classes_`, `n_features_in_`, ...

    It goes where scikit-learn takes an estimator: in a `Pipeline`, or around one; in a
    `GridSearchCV`, with parameters such as `estimator__C`. A search scores a fit that went over a
    limit as its `error_score`, tells of it in a `FitFailedWarning`, and goes on.

    Args:
        estimator: An estimator of scikit-learn, or one that is like those. It stays as it is.
        memory: Memory of a fit, its copies of the data included: see
            [Limits][dask_limits.Limits] for this one and those below.
        cpu_time: CPU time of a fit, in seconds.
        wall_time: Wall time of a fit, in seconds.
        num_processes: Processes of a fit, its own included; `n_jobs` of the estimator may start
            some.
        cores: Cores that a fit reserves.
        reserve: Whether a fit reserves its memory and cores, and waits until they are free.
        grace_period: Time that a fit has after a warning at a limit on time, in seconds.
        capture_output: Whether `limited_usage_` has what a fit prints.
        isolation: Where a fit runs.
        context: How pynisher starts a fresh process.
        limit_all: Whether `predict`, `predict_proba`, `predict_log_proba`, `decision_function`,
            `score_samples`, `score`, `transform` and `inverse_transform` run under these limits,
            too, each call in a task process.

    Attributes:
        estimator_: The fitted estimator. A fit that fails leaves none; after a `partial_fit` that
            fails, it is what it was before.
        limited_usage_: The [Usage][dask_limits.Usage] of the last fit, also of one that failed.

    Raises:
        Breach: by `fit`, if it goes over a limit: a `MemoryBreach`, a `WallTimeBreach`, ...
        ValueError: by `fit`, for an invalid limit, as scikit-learn checks parameters there.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.linear_model import LogisticRegression
        >>> X, y = load_iris(return_X_y=True)
        >>> model = Limited(LogisticRegression(max_iter=200), memory="1 GiB", wall_time="1 m")
        >>> model.fit(X, y).score(X, y) > 0.9
        True
        >>> model.limited_usage_.wall_time < 60
        True
    """

    estimator_: Any
    limited_usage_: Usage

    def __init__(
        self,
        estimator: Any,
        *,
        memory: Amount | None = None,
        cpu_time: Duration | None = None,
        wall_time: Duration | None = None,
        num_processes: int | None = None,
        cores: int | None = None,
        reserve: bool = True,
        grace_period: Duration = 0,
        capture_output: bool | Amount = False,
        isolation: Isolation = "clean",
        context: str | BaseContext | None = None,
        limit_all: bool = False,
    ) -> None:
        self.estimator = estimator
        self.memory = memory
        self.cpu_time = cpu_time
        self.wall_time = wall_time
        self.num_processes = num_processes
        self.cores = cores
        self.reserve = reserve
        self.grace_period = grace_period
        self.capture_output = capture_output
        self.isolation = isolation
        self.context = context
        self.limit_all = limit_all

    fit = _FitMethod()
    fit_transform = _FitMethod()
    fit_predict = _FitMethod()
    partial_fit = _FitMethod()

    def _fit_by(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Fit by one of the estimator's own methods, under the limits."""
        limits = self._limits()
        goes_on = method == "partial_fit" and self.__sklearn_is_fitted__()
        estimator = self.estimator_ if goes_on else clone(self.estimator)
        if goes_on and limits.isolation == "thread":
            estimator = copy.deepcopy(estimator)  # a thread may go on after its call was ended
        if method != "partial_fit":
            self.__dict__.pop("estimator_", None)
        self.__dict__.pop("limited_usage_", None)
        outcome = self._run(method, limits, estimator, args, kwargs)
        self.limited_usage_ = outcome.usage
        done = Done.of(outcome)
        self.estimator_ = done.estimator
        return self if method in ("fit", "partial_fit") else done.value

    def _limits(self) -> Limits:
        return Limits(
            memory=self.memory,
            cpu_time=self.cpu_time,
            wall_time=self.wall_time,
            num_processes=self.num_processes,
            cores=self.cores,
            reserve=self.reserve,
            grace_period=self.grace_period,
            capture_output=self.capture_output,
            isolation=self.isolation,
            context=self.context,
        )

    def _run(
        self,
        method: str,
        limits: Limits,
        estimator: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Outcome[Done]:
        if runs_elsewhere(limits):
            preload_modules_of(estimator, (*args, *kwargs.values()))
        call = MethodCall(type(estimator).__name__, method, limits)
        return LimitedCall(call, limits).run(estimator, *args, **kwargs)

    def _use_fit(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method of the fitted estimator under the limits."""
        return Done.of(self._run(method, self._limits(), self.estimator_, args, kwargs)).value

    def __getattr__(self, name: str) -> Any:
        """What only the estimator has."""
        if name.startswith("_") or name in _FIT_METHODS or "estimator" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if name == "set_output" or (name.startswith("set_") and name.endswith("_request")):
            return _method(self, Limited._set, getattr(self.estimator, name))
        fitted = self.__dict__.get("estimator_")
        if fitted is not None:
            its = getattr(fitted, name)
            is_limited = self.limit_all and name in _USE_A_FIT
            return _method(self, Limited._use_fit, its) if is_limited else its
        its = None if name.endswith("_") else getattr(self.estimator, name)
        if not callable(its):
            raise AttributeError(
                f"This {self._name()} has no attribute {name!r}, or has it once it is fitted"
            )
        if not get_tags(self).requires_fit:
            return its
        return _method(self, Limited._raise_not_fitted, its) if inspect.ismethod(its) else its

    def _set(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Limited:
        """Call a method that sets something of the estimator."""
        getattr(self.estimator, method)(*args, **kwargs)
        if self.__sklearn_is_fitted__():
            getattr(self.estimator_, method)(*args, **kwargs)
        return self

    def _raise_not_fitted(self, *_: Any) -> Any:
        raise NotFittedError(
            f"This {self._name()} instance is not fitted yet. Call 'fit' with appropriate"
            " arguments before using this estimator."
        )

    def _name(self) -> str:
        return f"{type(self).__name__}({type(self.estimator).__name__})"

    # -- what scikit-learn asks for ---------------------------------------------------------

    def __sklearn_is_fitted__(self) -> bool:
        return "estimator_" in self.__dict__

    def __sklearn_tags__(self) -> Any:
        if not hasattr(self.estimator, "__sklearn_tags__"):  # it only looks like an estimator
            return super().__sklearn_tags__()
        return copy.deepcopy(get_tags(self.estimator))

    def get_metadata_routing(self) -> Any:
        """What the estimator asks for: metadata passes through, such as `sample_weight`."""
        return get_routing_for_object(self.estimator)


_FIT_METHODS: Final = {
    name for name, value in vars(Limited).items() if isinstance(value, _FitMethod)
}
