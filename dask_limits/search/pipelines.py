"""The search space: scikit-learn pipelines, as a table of model families.

A configuration is a family and the parameters of its pipeline, named as `Pipeline.set_params`
takes them. To search over something else, change `FAMILIES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pkgutil import resolve_name
from random import Random
from typing import Any, Final

Draw = Callable[[Random], Any]


def choice(*values: Any) -> Draw:
    """One of these values."""
    return lambda random: random.choice(values)


def log_uniform(low: float, high: float) -> Draw:
    """A log-uniform number, to four digits."""
    return lambda random: float(f"{math.exp(random.uniform(math.log(low), math.log(high))):.4g}")


def log_integer(low: int, high: int) -> Draw:
    """A log-uniform whole number."""
    return lambda random: round(math.exp(random.uniform(math.log(low), math.log(high))))


def seed(random: Random) -> int:
    """The random state of an estimator."""
    return random.randrange(2**31)


@dataclass(frozen=True)
class Steps:
    """The steps of a pipeline after its preprocessing, and how to draw their parameters.

    Only processes that run trials import scikit-learn, so the program starts quickly.
    """

    classes: Mapping[str, str]  # the name of each step's class, by the step's name
    space: Mapping[str, Draw]  # by the parameter's name in the pipeline


def _model(name: str, **space: Draw) -> Steps:
    return Steps({"model": name}, {f"model__{key}": draw for key, draw in space.items()})


def _models(name: str, **space: Draw) -> tuple[Steps, Steps]:
    """A classifier and a regressor with the same parameters."""
    return _model(f"{name}Classifier", **space), _model(f"{name}Regressor", **space)


def _on_top_of(name: str, *models: Steps, **space: Draw) -> tuple[Steps, ...]:
    """The same models, on the features that another class computes."""
    features = {f"features__{key}": draw for key, draw in space.items()}
    return tuple(
        Steps({"features": name, **model.classes}, {**features, **model.space}) for model in models
    )


_LOGISTIC = _model(
    "linear_model.LogisticRegression", C=log_uniform(1e-3, 1e2), max_iter=choice(500)
)
_RIDGE = _model("linear_model.Ridge", alpha=log_uniform(1e-2, 1e3))
_RIDGE_CLASSIFIER = _model("linear_model.RidgeClassifier", alpha=log_uniform(1e-2, 1e3))
_SVM = {
    "C": log_uniform(1e-2, 1e3),
    "gamma": log_uniform(1e-4, 1e0),
    "kernel": choice("rbf", "rbf", "poly"),
    "cache_size": choice(50),
}
_TREES = {
    "n_estimators": log_integer(10, 3_000),
    "min_samples_leaf": log_integer(1, 20),
    "max_features": choice("sqrt", 0.3, 0.7),
    "random_state": seed,
}

FAMILIES: Final[Mapping[str, tuple[Steps, ...]]] = {
    "linear": (_LOGISTIC, _RIDGE),
    "polynomial": _on_top_of(
        "preprocessing.PolynomialFeatures",
        _LOGISTIC,
        _RIDGE,
        degree=choice(2, 3),
        interaction_only=choice(False, True),
    ),
    "fourier": _on_top_of(
        "kernel_approximation.RBFSampler",
        _RIDGE_CLASSIFIER,
        _RIDGE,
        n_components=log_integer(100, 30_000),
        gamma=log_uniform(1e-4, 1e-1),
        random_state=seed,
    ),
    "neighbours": _models(
        "neighbors.KNeighbors",
        n_neighbors=log_integer(1, 50),
        weights=choice("uniform", "distance"),
        p=choice(1, 2),
    ),
    "svm": (_model("svm.SVC", **_SVM), _model("svm.SVR", **_SVM)),
    "forest": _models("ensemble.RandomForest", **_TREES),
    "extra-trees": _models("ensemble.ExtraTrees", **_TREES),
    "boosting": _models(
        "ensemble.HistGradientBoosting",
        max_iter=log_integer(10, 1_000),
        learning_rate=log_uniform(1e-2, 5e-1),
        max_leaf_nodes=log_integer(4, 64),
        # Early stopping stratifies by class, and fails if a class has a single row
        early_stopping=choice(False),
        random_state=seed,
    ),
    "network": _models(
        "neural_network.MLP",
        hidden_layer_sizes=lambda random: [2 ** random.randint(4, 10)] * random.randint(1, 3),
        alpha=log_uniform(1e-6, 1e-1),
        learning_rate_init=log_uniform(1e-4, 1e-2),
        max_iter=choice(100),
        random_state=seed,
    ),
    "gaussian-process": (
        _model(
            "gaussian_process.GaussianProcessClassifier",
            n_restarts_optimizer=choice(0, 1, 2),
            random_state=seed,
        ),
        _model("gaussian_process.GaussianProcessRegressor", alpha=log_uniform(1e-6, 1e0)),
    ),
}
"""The steps of each family, for classification and for regression."""

_COLUMNS: Final[Mapping[str, Draw]] = {
    "columns__numbers__impute__strategy": choice("mean", "median"),
    "columns__categories__max_categories": choice(10, 30, 100),
}


@dataclass(frozen=True)
class Configuration:
    """One point of the search space."""

    family: str  # a key of FAMILIES
    classification: bool  # otherwise regression
    parameters: Mapping[str, Any]  # of the family's pipeline: values that JSON can represent

    def __repr__(self) -> str:
        chosen = (f" {name.rpartition('__')[2]}={v!r}" for name, v in self.parameters.items())
        return f"<{self.family}{''.join(chosen)}>"


def modules() -> list[str]:
    """The modules that pipelines need: to be imported before the first trial, which takes seconds.

    What they take is then neither time nor memory of a trial.
    """
    steps = [steps for both in FAMILIES.values() for steps in both]
    names = {f"sklearn.{name.rpartition('.')[0]}" for it in steps for name in it.classes.values()}
    around = "compose", "impute", "pipeline", "preprocessing"
    return sorted(names.union(f"sklearn.{name}" for name in around))


def draw(number: int, *, seed: int, classification: bool) -> Configuration:
    """The configuration of a trial, which depends on these arguments alone."""
    random = Random(f"{seed}/{number}")
    family = random.choice(list(FAMILIES))
    space = {**_COLUMNS, **_steps(family, classification).space}
    parameters = {name: draw_one(random) for name, draw_one in space.items()}
    return Configuration(family, classification, parameters)


def build(configuration: Configuration) -> Any:
    """The scikit-learn pipeline of a configuration, not fitted.

    Numeric columns are imputed and scaled, all others are one-hot encoded. A missing category is a
    category of its own.
    """
    from sklearn.compose import ColumnTransformer, make_column_selector
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers = Pipeline([("impute", SimpleImputer()), ("scale", StandardScaler())])
    categories = OneHotEncoder(handle_unknown="infrequent_if_exist", sparse_output=False)
    columns = ColumnTransformer(
        [
            ("numbers", numbers, make_column_selector(dtype_include="number")),
            ("categories", categories, make_column_selector(dtype_exclude="number")),
        ]
    )
    classes = _steps(configuration.family, configuration.classification).classes
    steps = [(step, resolve_name(f"sklearn.{name}")()) for step, name in classes.items()]
    return Pipeline([("columns", columns), *steps]).set_params(**configuration.parameters)


def _steps(family: str, classification: bool) -> Steps:
    for_classes, for_numbers = FAMILIES[family]
    return for_classes if classification else for_numbers
